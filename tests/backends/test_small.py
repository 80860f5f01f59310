"""Recorded, simulated, oracle and legal backends, each against what its docstring promises."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import job
from treesearch.backends.base import Limits
from treesearch.backends.legal import Legal
from treesearch.backends.oracle import Oracle
from treesearch.backends.recorded import Recorded, RecordedScorer
from treesearch.backends.simulated import Simulated, SimulatedScorer
from treesearch.errors import ConfigError, ProblemError, RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Step

GAME, PLAIN = load_task("game24"), load_task("plain")
LINES = [
    {
        "problem": "p",
        "path": [],
        "children": [{"text": "a\n", "score": 0.9, "tokens": 2}, {"text": "b\n", "score": 0.1}],
    },
    {"problem": "p", "path": ["a\n"], "children": [{"text": "c", "score": 0.8, "finish": "answer"}]},
]


def recorded(tmp_path: Path, lines: list[Any] | None = None) -> str:
    path = tmp_path / "steps.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (LINES if lines is None else lines)) + "\n")
    return str(path)


def propose(proposer: Any, asked: Any) -> Any:
    return asyncio.run(proposer.propose([asked]))[0]


def texts(chains: tuple[Chain, ...]) -> list[list[str]]:
    return [[step.text for step in chain] for chain in chains]


def test_recorded_children_come_in_their_order_by_first_and_n(tmp_path: Path) -> None:
    proposer = Recorded(recorded(tmp_path)).build(PLAIN, Prompt(), Limits())
    assert texts(propose(proposer, job(n=1))) == [["a\n"]]
    assert texts(propose(proposer, job(n=1, first=1))) == [["b\n"]]
    assert texts(propose(proposer, job(n=None))) == [["a\n"], ["b\n"]]
    assert texts(propose(proposer, job(n=1, until="answer"))) == [["a\n", "c"]]
    assert propose(proposer, job(n=2))[1][0].tokens is None


def test_what_was_not_recorded_is_an_error_value(tmp_path: Path) -> None:
    proposer = Recorded(recorded(tmp_path)).build(PLAIN, Prompt(), Limits())
    assert isinstance(propose(proposer, job(n=3)), RequestError)
    assert isinstance(propose(proposer, job(n=1, first=1, until="answer")), RequestError)
    assert isinstance(propose(proposer, job(n=1, path=(Step("z"),))), RequestError)


def test_recorded_scores_belong_to_the_path(tmp_path: Path) -> None:
    scorer = RecordedScorer(recorded(tmp_path)).build(PLAIN, Prompt())
    chains = ((Step("a\n"), Step("c", finish="answer")), (Step("b\n"),))
    (scored,) = asyncio.run(scorer.score([(job(), chains)]))
    assert scored.scores == ((0.9, 0.8), (0.1,))
    (unknown,) = asyncio.run(scorer.score([(job(), ((Step("z"),),))]))
    assert isinstance(unknown, RequestError)


@pytest.mark.parametrize(("line", "message"), [
    ("{", r"steps\.jsonl:3"),
    ('{"problem": "p", "path": []}', r"steps\.jsonl:3.*children"),
    ('{"problem": "q", "path": [], "children": [{"text": "x", "finish": "done"}]}', "finish 'done'"),
    ('{"problem": "q", "path": [], "children": [{"txt": "x"}]}', "txt"),
    (json.dumps(LINES[0]), "already in line 1"),
])  # fmt: skip
def test_a_bad_recorded_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = Path(recorded(tmp_path))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ProblemError, match=message):
        Recorded(str(path)).build(PLAIN, Prompt(), Limits())
    with pytest.raises(ConfigError, match="No such file"):
        Recorded(str(tmp_path / "none")).build(PLAIN, Prompt(), Limits())


@pytest.mark.parametrize(
    "build", [lambda: Simulated().build(PLAIN, Prompt(), Limits()), lambda: Legal().build(GAME, Prompt(), Limits())]
)
def test_chains_are_a_function_of_path_and_index(build: Any) -> None:
    proposer = build()
    together = propose(proposer, job(n=4, until="answer"))
    apart = tuple(propose(proposer, job(n=1, first=i, until="answer"))[0] for i in range(4))
    stepwise = propose(proposer, job(n=4))
    assert together == apart and len(set(together)) > 1
    assert [c[0].text for c in stepwise] == [c[0].text for c in together]
    assert all(c[-1].finish == "answer" and c[0].tokens for c in together)


def test_simulated_accuracy_and_score_are_what_they_say() -> None:
    proposer, scorer = (
        Simulated(accuracy=0.3).build(PLAIN, Prompt(), Limits()),
        SimulatedScorer().build(PLAIN, Prompt()),
    )
    chains = propose(proposer, job(n=2000, until="answer"))
    right = [PLAIN.read("q", [s.text for s in c]) == "24" for c in chains]
    assert 0.26 < sum(right) / len(right) < 0.34
    (scored,) = asyncio.run(scorer.score([(job(), chains)]))
    mean = {side: [s[-1] for s, r in zip(scored.scores, right, strict=True) if r is side] for side in (True, False)}
    assert sum(mean[True]) / len(mean[True]) > 0.7 > 0.3 > sum(mean[False]) / len(mean[False])
    assert Simulated.label == SimulatedScorer.label == "SIMULATED"


def test_simulated_latency_follows_the_law_on_an_injected_clock() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    proposer = Simulated(base_ms=5, per_sequence_us=100).build(PLAIN, Prompt(), Limits(), sleep=sleep)
    propose(proposer, job(n=10))
    assert slept == [pytest.approx(0.006)]


def test_simulated_failures_and_bad_parameters() -> None:
    proposer = Simulated(failures=1.0).build(PLAIN, Prompt(), Limits())
    assert isinstance(propose(proposer, job()), RuntimeError)
    with pytest.raises(ConfigError, match=r"accuracy = 1\.5"):
        Simulated(accuracy=1.5)
    with pytest.raises(ConfigError, match="noise = -1"):
        SimulatedScorer(noise=-1)


def test_the_oracle_is_the_tasks_own_check() -> None:
    scorer = Oracle().build(GAME, Prompt())
    path = ("10 - 4 = 6 (left: 5 6 6)\n", "5 * 6 = 30 (left: 6 30)\n")
    right = (*map(Step, path), Step("30 - 6 = 24 (left: 24)", finish="answer"))
    wrong = (*map(Step, path), Step("30 + 6 = 36 (left: 36)", finish="answer"))
    (scored,) = asyncio.run(scorer.score([(job(), (right, wrong, right[:1]))]))
    assert scored.scores == ((0.5, 0.5, 1.0), (0.5, 0.5, 0.0), (0.5,))
    assert Oracle.label == "ORACLE"


def test_legal_moves_go_on_from_the_path_and_can_be_listed() -> None:
    proposer = Legal().build(GAME, Prompt(), Limits())
    every = propose(proposer, job(n=None))
    assert len({c[0].text for c in every}) == len(every) > 15
    path = (Step("10 - 4 = 6 (left: 5 6 6)\n"),)
    assert all("(left: " in c[0].text for c in propose(proposer, job(n=3, path=path)))
    assert isinstance(propose(proposer, job(path=(replace(path[0], text="10 - 4 = 7 (left: 5 6 7)\n"),))), RequestError)
    with pytest.raises(ConfigError, match="no numbers"):
        Legal().build(PLAIN, Prompt(), Limits())
