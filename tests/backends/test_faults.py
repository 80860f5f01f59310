"""What goes wrong in a backend stays with the job it belongs to; outcome models give one number a chain."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.models import job, save
from treesearch.backends import OUTCOMES
from treesearch.backends.base import LastScore, Limits, Scored
from treesearch.backends.legal import Legal
from treesearch.backends.oracle import Oracle, OracleScorer
from treesearch.backends.recorded import Recorded
from treesearch.backends.transformers import Transformers, _Decoding
from treesearch.errors import ConfigError, ProblemError, RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Problem, Step

GAME, COUNTDOWN, PLAIN = load_task("game24"), load_task("countdown"), load_task("plain")
CHAIN = (Step("a\n"), Step("c", finish="answer"))


def propose(proposer: Any, *asked: Any) -> list[Any]:
    replies: list[Any] = asyncio.run(proposer.propose(asked))
    return replies


@pytest.mark.parametrize("kind", ["oracle", "simulated", "recorded"])
def test_an_outcome_model_gives_one_number_for_a_chain_of_many_steps(kind: str, tmp_path: Path) -> None:
    """Each gave a number a step, which the engine refuses: any search that samples to the answer failed."""
    rows = [{"problem": "p", "path": [], "children": [{"text": "a\n", "score": 0.9}]},
            {"problem": "p", "path": ["a\n"], "children": [{"text": "c", "score": 0.8, "finish": "answer"}]}]  # fmt: skip
    path = tmp_path / "steps.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    scorer = OUTCOMES[kind](**({"path": str(path)} if kind == "recorded" else {})).build(PLAIN, Prompt())
    (scored,) = asyncio.run(scorer.score([(job(), (CHAIN, CHAIN))]))
    assert [len(row) for row in scored.scores] == [1, 1]
    asyncio.run(scorer.close())


def test_an_outcome_of_recorded_scores_keeps_errors_as_values(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"problem": "p", "path": [], "children": [{"text": "z"}]}')
    scorer = OUTCOMES["recorded"](str(path)).build(PLAIN, Prompt())
    assert isinstance(scorer, LastScore)
    (reply,) = asyncio.run(scorer.score([(job(), (CHAIN,))]))
    assert isinstance(reply, RequestError)


def test_the_oracle_reads_a_hostile_task_outside_its_own_process() -> None:
    """`9^{9^{9^9}}` stopped the whole event loop: the oracle called the mathematics parser inline."""

    class Never:
        hostile = True
        name, separator, prompt = "math", "\n", None

        def read(self, *_: Any) -> str:
            raise AssertionError(f"read in process {os.getpid()}")

        check = canonical = read

    scorer = Oracle().build(Never(), Prompt())  # type: ignore[arg-type]
    assert isinstance(scorer, OracleScorer)
    asked: list[str] = []

    class Processes:
        async def read(self, task: Any, question: str, steps: Any) -> tuple[str, str]:
            asked.append("read")
            return "3", "3"

        async def check(self, task: Any, problem: Problem, answer: str) -> bool:
            asked.append("check")
            return True

        def close(self) -> None: ...

    scorer.checker.close()
    scorer.checker = Processes()  # type: ignore[assignment]
    (scored,) = asyncio.run(scorer.score([(job(), (CHAIN,))]))
    assert scored == Scored(((0.5, 1.0),), 0) and asked == ["read", "check"]


@pytest.mark.parametrize("question", ["500 3 -> 8", "no numbers at all"])
def test_a_puzzle_that_cannot_be_moved_does_not_fail_the_jobs_beside_it(question: str) -> None:
    proposer = Legal().build(COUNTDOWN, Prompt(), Limits())
    bad, good = propose(proposer, job(question), job("4 5 6 -> 24"))
    assert isinstance(bad, RequestError | ConfigError) and len(good) == 4


def test_legal_moves_neither_revise_nor_go_on_after_the_end() -> None:
    proposer = Legal().build(GAME, Prompt(), Limits())
    ((chain,),) = propose(proposer, job(n=1, until="answer"))
    after, revised = propose(proposer, job(n=1, path=chain), job(n=1, until="revision"))
    assert isinstance(after, RequestError) and isinstance(revised, RequestError)


@pytest.mark.parametrize(("line", "message"), [
    ('{"problem": "p", "path": [], "children": ["x"]}', "child 'x'"),
    ('{"problem": "p", "path": "abc", "children": [{"text": "x"}]}', "path 'abc'"),
    ('{"problem": "p", "path": [1], "children": [{"text": "x"}]}', "path"),
    ('{"problem": "p", "path": [], "children": [{"text": "x", "score": "hi"}]}', "score 'hi'"),
    ('{"problem": "p", "path": [], "children": [{"text": "x", "score": NaN}]}', "score nan"),
    ('{"problem": "p", "path": [], "children": [{"text": "x", "tokens": "9"}]}', "tokens '9'"),
])  # fmt: skip
def test_a_recorded_value_of_the_wrong_kind_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ProblemError, match=rf"steps\.jsonl:2: .*{message}"):
        Recorded(str(path)).build(PLAIN, Prompt(), Limits())


def test_a_recorded_text_may_hold_any_line_separator_but_the_newline(tmp_path: Path) -> None:
    """U+2028 in a text cut the JSON line in two."""
    path = tmp_path / "steps.jsonl"
    path.write_text('{"problem": "p", "path": [], "children": [{"text": "a\u2028b"}]}', "utf-8")
    ((chain,),) = propose(Recorded(str(path)).build(PLAIN, Prompt(), Limits()), job(n=1))
    assert chain[0].text == "a\u2028b"


def test_a_recorded_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        Recorded(str(path)).build(PLAIN, Prompt(), Limits())


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_no_uniform_number_draws_a_token_of_probability_zero(u: float) -> None:
    """At u = 0 the first token was drawn whatever its probability, near u = 1 the last."""
    decoding = object.__new__(_Decoding)
    decoding.torch, decoding.temperature, decoding.top_p = torch, torch.ones(64), torch.full((64,), 0.9)
    decoding.tokens = torch.empty(64, 0, dtype=torch.long)
    decoding._uniform = lambda t: torch.full((64,), u)  # type: ignore[method-assign]
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    logits[:, [0, -1]] = -float("inf")
    token, logprob = decoding._sample(logits)
    assert int(token.min()) > 0 and int(token.max()) < 49
    assert bool(logprob.isfinite().all())


def test_jobs_of_one_call_are_decoded_in_one_batch(tmp_path: Path) -> None:
    proposer = Transformers(str(save(tmp_path, "causal"))).build(GAME, Prompt(), Limits(step_tokens=8))
    batches: list[int] = []
    work = proposer._batcher._work
    proposer._batcher._work = lambda batch: (batches.append(len(batch)), work(batch))[1]  # type: ignore[func-returns-value]
    replies = asyncio.run(proposer.propose([job(n=2), job("1 2 3 4", n=2), job("1 2 3 4 " * 50, n=1)]))
    assert batches == [3] and [type(r) for r in replies] == [tuple, tuple, RequestError]
    asyncio.run(proposer.close())
