"""The transformers proposer on a small random Qwen2: seeds, splitting, limits, and what it refuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.models import job, save
from treesearch.backends.base import Limits
from treesearch.backends.steps import Splitter
from treesearch.backends.transformers import Transformers, TransformersProposer, _nucleus
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import GREEDY, Chain, Job, Sampling

LIMITS = Limits(step_tokens=12, path_tokens=40, depth=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("causal"), "causal")


@pytest.fixture(scope="module")
def proposer(folder: Path) -> Iterator[TransformersProposer]:
    built = Transformers(str(folder), max_batch=64).build(load_task("game24"), Prompt(), LIMITS)
    yield built
    asyncio.run(built.close())


def ask(proposer: TransformersProposer, jobs: Sequence[Job]) -> list[Any]:
    """All jobs at once, each its own call, as the pool sends them."""

    async def main() -> list[Any]:
        return [reply for (reply,) in await asyncio.gather(*(proposer.propose([j]) for j in jobs))]

    return asyncio.run(main())


def ids(chain: Chain) -> list[tuple[int, ...]]:
    return [step.ids for step in chain]


@pytest.mark.parametrize("until", ["step", "answer"])
def test_one_wish_of_four_chains_and_four_of_one_draw_the_same(proposer: TransformersProposer, until: str) -> None:
    (together,) = ask(proposer, [job(until=until)])
    apart = ask(proposer, [job(n=1, first=i, until=until) for i in range(4)])
    assert [ids(c) for c in together] == [ids(c[0]) for c in apart]
    assert len({tuple(ids(c)) for c in together}) > 1


def test_step_by_step_and_at_once_give_the_same_first_step(proposer: TransformersProposer) -> None:
    (stepwise,), (whole,) = ask(proposer, [job(n=8)]), ask(proposer, [job(n=8, until="answer")])
    assert [c[0].ids for c in stepwise] == [c[0].ids for c in whole]
    assert [c[0].finish for c in stepwise] == [c[0].finish for c in whole]


def test_a_chain_does_not_depend_on_what_else_is_in_the_batch(proposer: TransformersProposer) -> None:
    (alone,) = ask(proposer, [job("1 2 3 4", until="answer")])
    crowd = ask(
        proposer, [job(f"{k} 5 6 10", until="answer", n=3) for k in range(1, 10)] + [job("1 2 3 4", until="answer")]
    )
    assert [ids(c) for c in crowd[-1]] == [ids(c) for c in alone]


def test_a_batch_too_large_for_the_card_gives_the_same_chains_in_halves(
    proposer: TransformersProposer, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [job(f"{k} 5 6 10", until="answer", n=2) for k in range(1, 9)]
    calm = ask(proposer, jobs)
    tight = Transformers(str(folder), max_batch=16).build(load_task("game24"), Prompt(), LIMITS)
    forward = tight.model.forward
    rows: list[int] = []

    def bounded(**given: Any) -> Any:
        rows.append(len(given["position_ids"]))
        if rows[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**given)

    monkeypatch.setattr(tight.model, "forward", bounded)
    replies = ask(tight, jobs)
    assert [list(map(ids, reply)) for reply in replies] == [list(map(ids, reply)) for reply in calm]
    assert "out of memory with 16 at once: 8 from now on" in caplog.text and max(rows) > 8
    asyncio.run(tight.close())


def test_a_step_continues_the_token_ids_of_its_path(proposer: TransformersProposer) -> None:
    """Greedy step by step is greedy at once: the second step's prompt is the ids before it, never its text again."""
    (whole,) = ask(proposer, [job(n=1, until="answer", sampling=GREEDY)])
    path: Chain = ()
    while not path or path[-1].finish == "step":
        (chains,) = ask(proposer, [job(n=1, path=path, sampling=GREEDY)])
        path = (*path, chains[0][0])
    assert ids(path) == ids(whole[0])


def test_limits_hold_and_the_text_is_the_decode(proposer: TransformersProposer) -> None:
    (chains,) = ask(proposer, [job(n=32, until="answer")])
    for chain in chains:
        assert chain[-1].finish in ("answer", "length") and all(s.finish == "step" for s in chain[:-1])
        assert len(chain) <= LIMITS.depth and sum(s.tokens for s in chain) <= LIMITS.path_tokens
        assert "".join(s.text for s in chain) == proposer.tokenizer.decode([i for s in chain for i in s.ids])
        for step in chain:
            assert len(step.ids) <= LIMITS.step_tokens
            assert step.tokens == len(step.ids) + (step.finish == "answer")
            assert step.logprob is not None and step.logprob < 0


def test_greedy_and_log_probabilities_equal_a_plain_forward(proposer: TransformersProposer) -> None:
    (chains,) = ask(proposer, [job(n=1, sampling=GREEDY)])
    step = chains[0][0]
    prompt = proposer.prompt_ids("4 5 6 10")
    sampled = list(step.ids) + ([proposer.tokenizer.eos_token_id] if step.finish == "answer" else [])
    with torch.inference_mode():
        logits = proposer.model(torch.tensor([prompt + sampled])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == sampled
    picked = logits.log_softmax(-1)[range(len(sampled)), sampled].sum()
    assert step.logprob == pytest.approx(float(picked), abs=1e-3)


def test_a_list_of_temperatures_is_cycled_over_the_chains(proposer: TransformersProposer) -> None:
    mixed = Sampling(temperature=(0.0, 1.0))
    (chains,) = ask(proposer, [job(n=4, sampling=mixed)])
    (greedy,) = ask(proposer, [job(n=1, sampling=GREEDY)])
    assert ids(chains[0]) == ids(chains[2]) == ids(greedy[0])


def test_a_question_longer_than_the_context_is_refused_by_its_length(proposer: TransformersProposer) -> None:
    (reply,) = ask(proposer, [job("1 " * 200)])
    assert isinstance(reply, RequestError) and "do not fit the context of 128" in str(reply)


def test_all_continuations_and_revisions_of_nothing_are_refused(proposer: TransformersProposer) -> None:
    every, revised = ask(proposer, [job(n=None), job(until="revision")])
    assert isinstance(every, RequestError) and "branch" in str(every)
    assert isinstance(revised, RequestError)


def test_a_refused_job_does_not_hurt_its_batch(proposer: TransformersProposer) -> None:
    bad, good = ask(proposer, [job("1 " * 200), job(n=2)])
    assert isinstance(bad, RequestError) and len(good) == 2


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ConfigError, match="model '/no/such/model' cannot be loaded"):
        Transformers("/no/such/model").build(load_task("game24"), Prompt(), LIMITS)


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    kept = _nucleus(torch, torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([0.7]))
    assert kept.tolist() == [pytest.approx([0.5, 0.0, 0.3])]


@pytest.mark.parametrize("seed", range(20))
def test_the_same_ids_split_the_same_way_from_any_step_on(seed: int) -> None:
    """Splitting at once equals splitting step by step, each time going on after the steps found so far."""
    rng = random.Random(seed)
    texts = ["a", "b\n", "\nc", "\n", "d\n\n", " x", "<end>"]
    splitter = Splitter(texts, "\n\n", [6], Limits(step_tokens=5, path_tokens=30, depth=7))
    sampled = [rng.choice([0, 1, 2, 3, 4, 5, 5, 0]) for _ in range(40)] + [6]
    whole = splitter.split(sampled, 0, 0, 10**6)
    at, tokens = 0, 0
    for k, piece in enumerate(whole):
        again = splitter.split(sampled[at:], tokens, k, 10**6)[0]
        assert again == piece
        at, tokens = at + piece.tokens, tokens + piece.tokens
    assert all("".join(texts[i] for i in p.ids).count("\n\n") <= 1 for p in whole)
    assert all(a.finish == "step" for a, _ in pairwise(whole)) and whole[-1].finish == "length"


def test_a_separator_longer_than_two_characters_is_refused() -> None:
    with pytest.raises(ConfigError, match="one or two characters"):
        Splitter(["a"], "###", [0], LIMITS)
