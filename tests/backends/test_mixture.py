"""A list of proposers: who draws which chain, and what each of them is given to read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.backends.models import job
from treesearch.backends.mixture import Member, Mixture, MixtureProposer
from treesearch.backends.simulated import Simulated
from treesearch.config import build, load
from treesearch.errors import ConfigError, RequestError
from treesearch.types import Chain, Job, Sampling, Step


class Tokenizer:
    def __init__(self, *words: str) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: k for k, word in enumerate(self.words)}


class Writer:
    """Writes its name and the chain's index; remembers what it was asked."""

    max_jobs = 8

    def __init__(self, name: str, *words: str) -> None:
        self.name, self.tokenizer = name, Tokenizer(*words)
        self.jobs: list[Job] = []
        self.aborted: list[str] = []
        self.closed = self.rests = False

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        self.jobs += jobs
        return [tuple(self.chain(j, i) for i in range(j.first, j.first + (j.n or 2))) for j in jobs]

    def chain(self, j: Job, i: int) -> Chain:
        return (Step(f"{self.name}{i}\n", (i,), 1),)

    def abort(self, ids: Sequence[str]) -> None:
        self.aborted += ids

    def rest(self, rests: bool) -> None:
        self.rests = rests

    async def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Built:
    writer: Any

    def build(self, task: Any, prompt: Any, limits: Any) -> Writer:
        return self.writer


def mixture(*writers: Writer, **members: Any) -> MixtureProposer:
    spec = Mixture(tuple(Member(Built(w), name=w.name, **members.get(w.name, {})) for w in writers))
    return spec.build(None, None, None)  # type: ignore[arg-type]


def proposed(proposer: MixtureProposer, j: Job) -> Any:
    (reply,) = asyncio.run(proposer.propose([j]))
    return reply


def test_chains_are_shared_out_by_weight_and_the_same_however_they_are_asked():
    a, b = Writer("a", "x"), Writer("b", "y")
    proposer = mixture(a, b, b={"weight": 3.0})
    whole = proposed(proposer, job(n=400))
    assert [chain[0].ids for chain in whole] == [(i,) for i in range(400)]
    count = Counter(chain[0].proposer for chain in whole)
    assert count["a"] + count["b"] == 400 and 60 < count["a"] < 140  # of 100 expected, sd 8.7
    assert all(chain[0].text.startswith(str(chain[0].proposer)) for chain in whole)
    for first, n in ((0, 1), (7, 5), (100, 300)):
        assert proposed(proposer, job(first=first, n=n)) == whole[first : first + n]


def test_a_named_proposer_draws_all_chains_and_an_unknown_one_is_refused():
    from dataclasses import replace

    a, b = Writer("a"), Writer("b")
    proposer = mixture(a, b)
    assert {c[0].proposer for c in proposed(proposer, replace(job(n=9), proposer="b"))} == {"b"} and not a.jobs
    assert len(proposed(proposer, replace(job(n=None), proposer="a"))) == 2
    assert "none of a, b" in str(proposed(proposer, replace(job(), proposer="c")))
    assert isinstance(proposed(proposer, job(n=None)), RequestError)


def test_a_member_reads_ids_of_its_own_vocabulary_and_text_of_others():
    a, same, other = Writer("a", "x", "y"), Writer("same", "x", "y"), Writer("other", "z")
    proposer = mixture(a, same, other)
    path = tuple(Step(f"{name}\n", (5,), 1, proposer=name) for name in ("a", "same", "other"))
    proposed(proposer, job(n=40, path=path))
    assert {tuple(bool(step.ids) for step in j.path) for j in a.jobs} == {(True, True, False)}
    assert {tuple(bool(step.ids) for step in j.path) for j in same.jobs} == {(True, True, False)}
    assert {tuple(bool(step.ids) for step in j.path) for j in other.jobs} == {(False, False, True)}


def test_a_member_may_have_its_own_temperature():
    a, b = Writer("a"), Writer("b")
    proposed(mixture(a, b, a={"temperature": 0.2}), job(n=20, sampling=Sampling((1.0, 0.5), 0.9)))
    assert {j.sampling for j in a.jobs} == {Sampling(0.2, 0.9)} and {j.sampling for j in b.jobs} == {
        Sampling((1.0, 0.5), 0.9)
    }


def test_all_members_rest():
    a, b = Writer("a"), Writer("b")
    proposer = mixture(a, b)
    proposer.rest(True)
    assert a.rests and b.rests
    proposer.rest(False)
    assert not a.rests and not b.rests


def test_the_failure_of_one_part_is_the_reply_and_abort_and_close_reach_the_members():
    class Failing(Writer):
        async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
            proposer.abort(["p/0"])
            return [RuntimeError("no") for _ in jobs]

    a, b = Writer("a"), Failing("b")
    proposer = mixture(a, b)
    assert str(proposed(proposer, job(n=20))) == "no"
    assert a.aborted and all(part.startswith("p/0.") for part in (*a.aborted, *b.aborted))
    asyncio.run(proposer.close())
    assert a.closed and b.closed


def test_a_list_in_a_config_is_a_mixture_and_is_written_back(tmp_path: Any):
    path = tmp_path / "c.yaml"
    path.write_text(
        "proposer:\n- {type: simulated, accuracy: 0.9, weight: 2, name: strong}\n- simulated\n"
        "search: {type: ab_mcts, proposers: [strong, '1']}\n"
    )
    config = load(path)
    members = (Member(Simulated(accuracy=0.9), 2.0, name="strong"), Member(Simulated()))
    assert config.proposer == Mixture(members) and config.labels() == ["SIMULATED"]
    assert build([config.resolved()]) == config
    assert config.resolved()["proposer"]["members"][0]["model"]["type"] == "simulated"


@pytest.mark.parametrize(
    "proposer, search, message",
    [
        ([], "mcts", "at least one"),
        ([3], "mcts", r"proposer\[0\] = 3"),
        ([{"weight": 1}], "mcts", "with a type"),
        ([{"type": "simulated", "weight": 0}], "mcts", "above 0"),
        ([{"type": "simulated", "temperature": -1}], "mcts", "or more"),
        ([{"type": "simulated", "acuracy": 1}], "mcts", r"members\[0\].model.acuracy.*did you mean.*accuracy"),
        ([{"type": "simulated", "name": "a"}, {"type": "simulated", "name": "a"}], "mcts", "must differ"),
        (["simulated"], {"type": "ab_mcts", "proposers": ["x"]}, "names of the run's proposers"),
        ("simulated", {"type": "ab_mcts", "proposers": ["x"]}, "no list of them"),
    ],
)
def test_what_no_mixture_can_be_is_refused(proposer: Any, search: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        build([{"proposer": proposer, "search": search}])


def test_ab_mcts_finds_the_better_member():
    """A strong and a weak member: Thompson sampling gives the strong one most of the new children."""
    import treesearch as ts

    members = (Member(Simulated(accuracy=0.99), name="strong"), Member(Simulated(accuracy=0.01), name="weak"))
    search = ts.ABMCTS(simulations=64, unit="answer", proposers=("strong", "weak"))
    found = []
    for strong in ("strong", "weak"):
        only = ts.ABMCTS(simulations=64, unit="answer", proposers=(strong,))
        (answer,) = ts.solve([ts.Problem("1", "q", "r")], only, Mixture(members), ts.SimulatedScorer(), task="plain")
        found.append(sum(c.answer == "r" for c in answer.candidates))
    (mixed,) = ts.solve([ts.Problem("1", "q", "r")], search, Mixture(members), ts.SimulatedScorer(), task="plain")
    right = sum(c.answer == "r" for c in mixed.candidates)
    assert len(mixed.candidates) == 64 and found[0] > 55 and found[1] < 9
    assert right > 45  # half of them if it drew evenly
