"""What the vLLM backends ask of an engine and make of its replies: a fake engine, no vLLM."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.backends.models import job, save, steps
from treesearch.backends import vllm, vllm_engine
from treesearch.backends.base import Limits, Scored
from treesearch.backends.formats import FORMATS
from treesearch.backends.reading import ChainReader, StepReader, digests
from treesearch.backends.steps import Splitter
from treesearch.backends.vllm import VLLM, VLLMORM, VLLMPRM, Model, first_row, stops
from treesearch.backends.vllm_engine import Reply, VLLMEngine
from treesearch.errors import ConfigError, RequestError
from treesearch.models.train import make_tokenizer
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Job, Sampling, chain_seed

GAME = load_task("game24")
LIMITS = Limits(step_tokens=12, path_tokens=40, depth=6)
BLOCK = 4
PATH = steps("6 + 4 = 10 (left: 5 10 10)\n")
CHAINS = (steps("10 + 10 = 20 (left: 5 20)\n", "20 + 5 = 25 (left: 25)"), steps("10 - 5 = 5 (left: 5 10)\n"))


class FakeEngine:
    """An engine with blocks of BLOCK tokens, whose value for a token is a function of all ids up to it."""

    def __init__(self) -> None:
        self.dead, self.usage = False, {"prompt_tokens": 0, "cached_tokens": 0}
        self.asked: list[tuple[tuple[int, ...], Any, str, int]] = []
        self.aborted: list[str] = []
        self.cache: set[tuple[int, ...]] = set()
        self.says: list[Reply | Exception] = []
        self.kinds: tuple[str, ...] = ("token_classify",)
        self.gate: asyncio.Event | None = None
        self.cache_tokens = 100 * BLOCK

    def name(self, about: str) -> str:
        return f"{about}~{len(self.asked)}"

    async def generate(self, ids: Sequence[int], params: Any, request_id: str, priority: int = 0) -> Reply:
        self.asked.append((tuple(ids), params, request_id, priority))
        stops = params.get("stop_token_ids", [0])
        reply = self.says.pop(0) if self.says else Reply([10, 198 if 198 in stops else stops[0]])
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(reply, Exception):
            raise reply
        if params.get("logprob_token_ids"):
            right, wrong = logits(tuple(ids))[[1, 0]].tolist()
            reply = Reply([0], labels=dict(zip(LABELS, (wrong, right), strict=True)))
        return reply

    async def encode(self, ids: Sequence[int], params: Any, request_id: str, priority: int = 0) -> Reply:
        ids = tuple(ids)
        self.asked.append((ids, params, request_id, priority))
        cached = 0
        while cached + BLOCK < len(ids) and ids[: cached + BLOCK] in self.cache:
            cached += BLOCK
        self.cache |= {ids[:k] for k in range(BLOCK, len(ids) + 1, BLOCK)}
        await asyncio.sleep(0)
        rows = torch.stack([logits(ids[: k + 1]) for k in range(cached, len(ids))])
        return Reply(rows=rows[-1] if params["task"] == "classify" else rows, cached=cached)

    async def tasks(self) -> tuple[str, ...]:
        return self.kinds

    def abort(self, names: Sequence[str]) -> None:
        self.aborted += names

    async def close(self) -> None: ...


LABELS = (5, 7)  # token ids of (wrong, right)


def logits(ids: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([0.0, (hash(ids) % 1000) / 500 - 1])


def right(ids: Sequence[int]) -> float:
    return float(logits(tuple(ids)).softmax(-1)[1])


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "sampling", lambda **given: given)
    monkeypatch.setattr(vllm_engine, "pooling", lambda task: {"task": task})


def proposer(limits: Limits = LIMITS, **spec: Any) -> vllm.VLLMProposer:
    tokenizer = make_tokenizer()
    model = Model("x", tokenizer, SimpleNamespace(vocab_size=512), [tokenizer.eos_token_id], context=128)
    return vllm.VLLMProposer(VLLM(**spec), FakeEngine(), model, GAME, Prompt(), limits)  # type: ignore[arg-type]


def scorer(kind: Any = vllm.StepScorer, *more: Any) -> Any:
    form = FORMATS["math-shepherd" if more else "bundled"]
    reader = ChainReader(make_tokenizer(), 128) if kind is vllm.ChainScorer else StepReader(make_tokenizer(), 128, form)
    return kind(VLLMPRM(), FakeEngine(), reader, *more)


def ask(backend: Any, *asked: Any) -> list[Any]:
    replies: list[Any] = asyncio.run(backend.propose(asked) if hasattr(backend, "propose") else backend.score(asked))
    return replies


# The proposer


def test_a_chain_is_a_request_with_its_own_seed_temperature_and_priority() -> None:
    p = proposer()
    asked = Job("p/3", job().problem, PATH, 2, 3, "step", Sampling((0.0, 1.0), 0.9), 99, priority=7)
    (chains,) = ask(p, asked)
    assert len(chains) == 3 and all(c[0].ids == (10, 198) and c[0].logprob is None for c in chains)
    prefix = (*p.prompt_ids("4 5 6 10"), *PATH[0].ids)
    for i, (ids, params, name, priority) in enumerate(p.engine.asked, 2):  # type: ignore[attr-defined]
        assert ids == prefix and priority == 7 and name.startswith(f"p/3#{i}")
        assert params["seed"] == chain_seed(99, i) & (2**63 - 1) and params["top_p"] == 0.9
        assert params["temperature"] == [0.0, 1.0][i % 2] and params["logprobs"] is None


@pytest.mark.parametrize(("until", "path", "most"), [
    ("step", (), 12),  # step_tokens
    ("answer", (), 40),  # path_tokens
    ("answer", PATH * 4, 1),  # 44 of the path's 40 tokens are used
    ("answer", steps("1", "1", "1", "1", "1"), 12),  # one step is left of depth 6
])  # fmt: skip
def test_no_more_is_sampled_than_the_limits_allow(until: str, path: Chain, most: int) -> None:
    p = proposer()
    ask(p, job(n=1, until=until, path=path))
    assert p.engine.asked[0][1]["max_tokens"] == most  # type: ignore[attr-defined]


def test_a_step_ends_by_token_ids_where_one_token_holds_the_separator() -> None:
    p = proposer()
    newline = p.tokenizer("\n")["input_ids"]
    ask(p, job(n=1), job(n=1, until="answer"))
    (_, step, *_), (_, answer, *_) = p.engine.asked  # type: ignore[attr-defined]
    assert set(step["stop_token_ids"]) == {*newline, p.tokenizer.eos_token_id}
    assert step["stop"] is None and not step["detokenize"]
    assert answer["stop_token_ids"] == [p.tokenizer.eos_token_id]


def test_two_tokens_that_make_a_separator_need_its_text() -> None:
    texts = ["a", "\n", "b\n\n", "<end>"]
    assert stops(Splitter(texts, "\n\n", [3], LIMITS), "\n\n") == ([2, 3], ["\n\n"])
    assert stops(Splitter(["a", "b\n\n", "<end>"], "\n\n", [2], LIMITS), "\n\n") == ([1, 2], [])


def test_an_end_that_the_model_cannot_say_is_no_stop() -> None:
    """A tokenizer may know more tokens than the model has rows; vLLM refuses such ids."""
    assert stops(Splitter(["a", "b\n", "<end>"], "\n", [2, 3], LIMITS), "\n") == ([1, 2], [])


def test_log_probabilities_are_asked_for_only_where_the_search_reads_them() -> None:
    p = proposer()
    p.engine.says = [Reply([10, 198], [-0.5, -0.25])]  # type: ignore[attr-defined]
    (chains,) = ask(p, Job("p/0", job().problem, (), 0, 1, "step", Sampling(), 1, logprobs=True))
    assert chains[0][0].logprob == -0.75 and p.engine.asked[0][1]["logprobs"] == 0  # type: ignore[attr-defined]


def test_what_was_sampled_beyond_the_step_is_cut() -> None:
    p = proposer()
    p.engine.says = [Reply([10, 198, 11, 12])]  # type: ignore[attr-defined]
    (chains,) = ask(p, job(n=1))
    assert [step.ids for step in chains[0]] == [(10, 198)]


def test_a_step_that_an_engine_ended_too_early_goes_on() -> None:
    """vLLM takes the text of a prompt that ends in mid-character for sampled text, and finds a stop string in it."""
    p = proposer()
    p.engine.says = [Reply([10]), Reply([11, 198])]  # type: ignore[attr-defined]
    (chains,) = ask(p, job(n=1))
    assert [step.ids for step in chains[0]] == [(10, 11, 198)]
    (first, before, *_), (second, after, *_) = p.engine.asked  # type: ignore[attr-defined]
    assert second == (*first, 10) and before["seed"] != after["seed"] and after["max_tokens"] == 11


def test_an_aborted_job_gives_what_was_sampled_or_says_so() -> None:
    async def main(*said: Reply) -> Any:
        p = proposer()
        engine: Any = p.engine
        engine.says, engine.gate = list(said), asyncio.Event()
        task = asyncio.create_task(p.propose([job(n=len(said), until="answer")]))
        while len(engine.asked) < len(said):
            await asyncio.sleep(0)
        p.abort(["another", "p/0"])
        assert sorted(engine.aborted) == sorted(name for _, _, name, _ in engine.asked)
        engine.gate.set()
        return (await task)[0]

    some = asyncio.run(main(Reply([10, 11], aborted=True), Reply([], aborted=True)))
    assert [(c[-1].ids, c[-1].tokens, c[-1].finish) for c in some] == [((10, 11), 2, "step"), ((), 0, "step")]
    nothing = asyncio.run(main(Reply([], aborted=True)))
    assert isinstance(nothing, RequestError) and str(nothing) == "aborted"


def test_an_engines_error_is_the_reply_of_its_job_alone() -> None:
    p = proposer()
    p.engine.says = [RuntimeError("dead")]  # type: ignore[attr-defined]
    bad, long, good = ask(p, job(n=1), job("1 " * 200, n=1), job(n=1))
    assert isinstance(bad, RuntimeError) and isinstance(long, RequestError) and len(good) == 1


# The scorers


def direct(s: Any, asked: Job, chain: Chain) -> list[float]:
    ids, positions = s.reader.read(asked, chain)
    return [right(ids[: p + 1]) for p in positions]


def test_only_what_the_cache_does_not_hold_is_computed_and_the_last_row_is_the_new_step() -> None:
    s = scorer()
    (first,) = ask(s, (job(), (PATH,)))
    (second,) = ask(s, (job(path=PATH), CHAINS))
    assert first.scores == (pytest.approx(direct(s, job(), PATH)),)
    assert [list(row) for row in second.scores] == [pytest.approx(direct(s, job(path=PATH), c)) for c in CHAINS]
    path = len(s.reader.read(job(), PATH)[0])
    assert first.tokens == path
    whole = sum(len(s.reader.read(job(path=PATH), c)[0]) for c in CHAINS)
    assert second.tokens == whole - 2 * (path // BLOCK * BLOCK)


def test_a_mark_in_the_cached_part_is_asked_for_on_its_own() -> None:
    """Another job had the first steps computed, but not their scores read."""
    s = scorer()
    chain = CHAINS[0]
    ids, positions = s.reader.read(job(path=PATH), chain)
    s.engine.cache |= {ids[:k] for k in range(BLOCK, len(ids), BLOCK)}
    (scored,) = ask(s, (job(path=PATH), (chain,)))
    assert scored.scores == (pytest.approx(direct(s, job(path=PATH), chain)),)
    assert [asked[0] for asked in s.engine.asked] == [ids, ids[: positions[0] + 1]]
    assert scored.tokens == sum(len(i) - (len(i) - 1) // BLOCK * BLOCK for i in (ids, ids[: positions[0] + 1]))


def test_equal_sequences_in_flight_are_computed_once_and_a_score_once_given_stays() -> None:
    s = scorer()
    a, b = ask(s, (job(), (PATH, PATH)), (job(), (PATH,)))
    assert a.scores == (b.scores[0], b.scores[0]) and len(s.engine.asked) == 1 and b.tokens == 0 < a.tokens
    (again,) = ask(s, (job(), ((*PATH, *CHAINS[1]),)))
    assert again.scores[0][0] == a.scores[0][0] and len(s.engine.asked) == 2
    assert ask(s, (job(path=PATH), CHAINS[1:])) == [Scored((again.scores[0][1:],), 0)]


def test_rows_are_counted_from_the_end_and_trusted_only_where_they_were_computed() -> None:
    assert first_row(100, 20, 80) == 80
    assert first_row(100, 50, 80) == 80  # a preempted request brings the rows of its first try too
    assert first_row(100, 10, 80) == 90


def test_the_key_of_a_value_is_all_it_was_read_after() -> None:
    a, b = digests((1, 2, 3, 4), [1, 3]), digests((1, 2, 3, 4), [3])
    assert list(a)[-1] == next(b) and len({*digests((1, 2, 3), [0, 1, 2]), *digests((2, 2, 3), [0, 1, 2])}) == 6


def test_a_language_model_scores_by_its_two_labels_a_request_a_step() -> None:
    s = scorer(vllm.LabelScorer, LABELS)
    (scored,) = ask(s, (job(path=PATH), CHAINS[:1]))
    ids, positions = s.reader.read(job(path=PATH), CHAINS[0])
    assert [asked[0] for asked in s.engine.asked] == [ids[: p + 1] for p in positions]
    assert s.engine.asked[0][1]["max_tokens"] == 1 and s.engine.asked[0][1]["logprob_token_ids"] == [5, 7]
    assert scored.scores == (pytest.approx(direct(s, job(path=PATH), CHAINS[0])),)


@pytest.mark.parametrize("task", ["classify", "token_classify"])
def test_an_outcome_is_one_value_a_chain(task: str) -> None:
    s = scorer(vllm.ChainScorer)
    s.engine.kinds = (task, "embed")
    (scored,) = ask(s, (job(path=PATH), CHAINS))
    assert scored.scores == tuple((pytest.approx(direct(s, job(path=PATH), c)[0]),) for c in CHAINS)
    assert {asked[1]["task"] for asked in s.engine.asked} == {task}


def test_a_score_that_is_no_number_is_an_error_and_is_not_kept() -> None:
    s = scorer()

    async def encode(ids: Any, *_: Any) -> Reply:
        return Reply(rows=torch.full((len(ids), 2), math.nan))

    s.engine.encode = encode
    for _ in range(2):
        (reply,) = ask(s, (job(), (PATH,)))
        assert isinstance(reply, RequestError) and "nan" in str(reply)


def test_a_chain_longer_than_the_context_is_an_error_value() -> None:
    long, short = ask(scorer(), (job("1 " * 300), (PATH,)), (job(), (PATH,)))
    assert isinstance(long, RequestError) and "context of 128" in str(long) and len(short.scores) == 1


# Families and settings


def test_math_shepherd_reads_a_line_a_step_and_its_labels_are_tokens() -> None:
    reader = StepReader(make_tokenizer(), 128, FORMATS["math-shepherd"])
    ids, positions = reader.read(job("2 + 2?"), steps("a ки b\n", "c"))
    assert reader.tokenizer.decode(list(ids)) == "2 + 2? a  b ки\nc ки"
    assert [ids[p] for p in positions] == [ids[-1], ids[-1]]
    assert [reader.tokenizer.decode([i]) for i in reader.labels()] == ["-", "+"]
    bad = StepReader(make_tokenizer(), 128, replace(FORMATS["math-shepherd"], labels=("good", "-")))
    with pytest.raises(ConfigError, match="'good' is 4 tokens"):
        bad.labels()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: VLLM(max_num_seqs=0), "max_num_seqs = 0"),
    (lambda: VLLM(gpu_memory_utilization=1.5), "gpu_memory_utilization = 1.5"),
    (lambda: VLLMPRM(family="unknown"), r"scorer\.family"),
    (lambda: VLLMORM(), r"outcome\.model: must be set"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_missing_vllm_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise vllm_engine.PackageNotFoundError(package)

    monkeypatch.setattr(vllm_engine, "version", missing)
    for spec in (VLLMPRM(), VLLMORM("x")):
        with pytest.raises(ConfigError, match=r"pip install treesearch\[vllm\]"):
            spec.build(GAME, Prompt())
    with pytest.raises(ConfigError, match=r"pip install treesearch\[vllm\]"):
        VLLM().build(GAME, Prompt(), LIMITS)


@pytest.mark.parametrize(("found", "told"), [
    ("0.29.1+cpu", r"vLLM 0\.29\.1\+cpu was not tested with treesearch on CPUs"),
    ("0.32.0", r"vLLM 0\.32\.0 was not tested with treesearch on GPUs"),
])  # fmt: skip
def test_what_was_not_tested_says_so(monkeypatch: pytest.MonkeyPatch, found: str, told: str) -> None:
    monkeypatch.setattr(vllm_engine, "version", lambda package: found)
    with pytest.warns(UserWarning, match=told):
        vllm_engine.installed()


def test_a_model_that_is_missing_or_no_prm_is_refused_before_an_engine_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm_engine, "version", lambda package: "0.32.0+cpu")
    monkeypatch.setattr(vllm_engine, "quiet", lambda: None)
    with pytest.raises(ConfigError, match="model '/no/such' cannot be loaded"):
        VLLM("/no/such").build(GAME, Prompt(), LIMITS)
    with pytest.raises(ConfigError, match="not a known PRM"):
        VLLMPRM(str(save(tmp_path, "causal"))).build(GAME, Prompt())


# The engine


class Pausing:
    """An AsyncLLM that notes when it is paused."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        assert (mode, clear_cache) == ("keep", False)
        self.told.append("rest")
        await asyncio.sleep(0.02)

    async def resume_generation(self) -> None:
        self.told.append("go on")
        raise RuntimeError("the engine is dead")  # as a dead one does: every request says so

    def shutdown(self) -> None:
        self.told.append("end")


def paused(monkeypatch: pytest.MonkeyPatch, scene: Any, users: int = 1, can: bool = True) -> list[str]:
    """What an engine was told in this scene."""
    monkeypatch.setattr(vllm_engine, "can_rest", lambda: can)
    made = vllm_engine.VLLMEngine.__new__(vllm_engine.VLLMEngine)
    made.llm, made.users, made._background, made._resting = Pausing(), users, set(), None
    told: list[str] = made.llm.told

    async def main() -> None:
        await scene(made)
        await made.close()
        made.rest(True)  # nobody is there any more
        await asyncio.sleep(0.03)
        assert not made._background

    asyncio.run(main())
    return told


def test_an_engine_is_told_of_a_change_only_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(made: Any) -> None:
        for rests in (False, True, True, False, False, True, False, True):
            made.rest(rests)
        await asyncio.sleep(0.01)

    assert paused(monkeypatch, scene) == [*["rest", "go on"] * 2, "rest", "end"]


def test_a_rest_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(made: Any) -> None:
        monkeypatch.setattr(vllm_engine, "LONGEST_REST", 0.01)
        made.rest(True)
        await asyncio.sleep(0.05)
        made.rest(False)
        await asyncio.sleep(0.01)

    assert paused(monkeypatch, scene) == ["rest", "go on", "end"]


@pytest.mark.parametrize(("users", "can"), [(2, True), (1, False)])
def test_an_engine_that_others_wait_for_or_that_cannot_never_rests(
    monkeypatch: pytest.MonkeyPatch, users: int, can: bool
) -> None:
    async def scene(made: Any) -> None:
        made.rest(True)
        await asyncio.sleep(0.01)
        made.users = 1

    assert paused(monkeypatch, scene, users, can) == ["end"]


def test_a_proposer_rests_as_its_engine() -> None:
    p, told = proposer(), list[bool]()
    p.engine.rest = told.append  # type: ignore[method-assign, assignment]
    p.rest(True), p.rest(False)
    assert told == [True, False]


@pytest.mark.parametrize(
    ("blocks", "told", "kept"), [(100, None, 1600), (None, None, None), (0, None, None), (100, 700, 700)]
)
def test_what_an_engine_says_that_its_cache_holds(blocks: int | None, told: int | None, kept: int | None) -> None:
    """`told`: in hybrid models a token takes a block of each kind of layer."""
    engine = object.__new__(VLLMEngine)
    cache = SimpleNamespace(num_gpu_blocks=blocks, block_size=16, kv_cache_size_tokens=told)
    engine.llm = SimpleNamespace(vllm_config=SimpleNamespace(cache_config=cache))
    assert engine.cache_tokens == kept
