"""One process loads the same weights once, and an engine ends with its last user."""

from __future__ import annotations

import asyncio
import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.backends.models import job, save
from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.judge import Judge
from treesearch.backends.reward import TransformersPRM
from treesearch.backends.transformers import Transformers
from treesearch.backends.vllm_engine import started
from treesearch.backends.weights import shared, stamp
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt

GAME, LIMITS = load_task("game24"), Limits()


def test_a_judge_with_the_proposers_model_loads_no_weights(tmp_path: Path) -> None:
    spec = Transformers(str(save(tmp_path / "m", "causal")))
    proposer: Any = spec.build(GAME, Prompt(), LIMITS)
    judge: Any = Judge(model=spec).build(GAME, Prompt())
    assert judge.panel.proposer.model is proposer.model
    assert judge.panel.proposer.tokenizer is not proposer.tokenizer, "one of them may be given another chat template"
    other: Any = Transformers(str(tmp_path / "m"), dtype="float64").build(GAME, Prompt(), LIMITS)
    assert other.model is not proposer.model


def test_both_of_them_sample_side_by_side(tmp_path: Path) -> None:
    spec = Transformers(str(save(tmp_path / "m", "causal")))
    first, second = (spec.build(GAME, Prompt(), Limits(8, 16, 4)) for _ in range(2))

    async def both() -> list[Any]:
        return [
            reply
            for replies in await asyncio.gather(first.propose([job()]), second.propose([job()]))
            for reply in replies
        ]

    one, two = asyncio.run(both())
    assert one == two == asyncio.run(first.propose([job()]))[0]


def test_an_outcome_model_equal_to_the_scorer_loads_no_weights(tmp_path: Path) -> None:
    spec = TransformersPRM(str(save(tmp_path / "m", "token", num_labels=2)))
    scorer, outcome = (spec.build(GAME, Prompt()) for _ in range(2))
    assert scorer.model is outcome.model


def test_weights_written_anew_are_others_and_what_nobody_uses_goes(tmp_path: Path) -> None:
    class Model: ...

    first = shared(("m", 1), Model)
    assert shared(("m", 1), Model) is first
    before = stamp(str(save(tmp_path / "m", "causal")))
    assert before == stamp(str(tmp_path / "m")) != stamp(str(save(tmp_path / "m", "causal")))
    assert stamp("org/name") is None
    del first
    gc.collect()
    made: list[Model] = []
    shared(("m", 1), lambda: made.append(Model()) or made[0])
    assert len(made) == 1


@dataclass
class Arguments:
    model: str = "org/name"
    max_num_seqs: int = 8
    tokenizer: str | None = None


@dataclass
class AsyncLLM:
    """vLLM's, as far as starting and ending it goes."""

    arguments: Arguments
    ended: int = 0

    @classmethod
    def from_engine_args(cls, arguments: Arguments, stat_loggers: Any) -> AsyncLLM:
        arguments.tokenizer = arguments.model  # as vLLM does
        return cls(arguments)

    def shutdown(self) -> None:
        self.ended += 1


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vllm", "vllm.v1", "vllm.v1.engine", "vllm.v1.engine.async_llm"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.v1.engine.async_llm"].AsyncLLM = AsyncLLM  # type: ignore[attr-defined]
    monkeypatch.setattr(vllm_engine, "_running", [])
    monkeypatch.setattr(vllm_engine, "STAT_LOGGERS", [])


@pytest.mark.usefixtures("fake_vllm")
def test_engines_with_equal_arguments_are_one_until_the_last_user_closes_it() -> None:
    first, second, other = started(Arguments()), started(Arguments()), started(Arguments(max_num_seqs=4))
    llm = first.llm
    assert second is first and other is not first
    asyncio.run(first.close())
    assert llm.ended == 0 and first.llm is llm, "the other user goes on"
    third = started(Arguments())
    assert third is first
    asyncio.run(second.close())
    asyncio.run(third.close())
    assert llm.ended == 1 and first.llm is None and other.llm.ended == 0
    assert started(Arguments()) is not first, "an engine that ended is not given to anybody"


@pytest.mark.usefixtures("fake_vllm")
def test_an_engine_that_died_or_reports_elsewhere_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    first = started(Arguments())
    first.dead = True
    second = started(Arguments())
    assert second is not first
    monkeypatch.setattr(vllm_engine, "STAT_LOGGERS", [print])
    assert started(Arguments()) is not second
