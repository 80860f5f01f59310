"""Any model on vLLM: proposer, PRM and outcome model. Knows no tree and no task but its separator.

vLLM batches by itself, so nothing is batched here: a chain is a request with a seed of its own, a new step is a request
that computes only what its path's cache does not hold. Token ids in, token ids out; the splitter and the texts are ours.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits, Scored
from treesearch.backends.causal import UNBOUNDED, CausalProposer, Draft, context_of, ends_of, location, unloadable
from treesearch.backends.chat import use_template
from treesearch.backends.formats import check_family, form_of, system_of
from treesearch.backends.reading import ChainReader, Ids, Kept, Reader, StepReader, outcome, probability, unusable
from treesearch.backends.steps import Splitter
from treesearch.backends.thinking import Thinking
from treesearch.backends.vllm_engine import EngineSpec, Reply, Runner, VLLMEngine
from treesearch.backends.weights import NO_CODE, check
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks.base import Prompt, Task
from treesearch.tasks.readers import THOUGHT_OVER
from treesearch.types import Chain, Job, Step

Chains = tuple[Chain, ...]
Item = tuple[Job, tuple[Chain, ...]]
SEEDS = (1 << 63) - 1  # vLLM keeps a seed in 63 bits
PROPOSER_SHARE, SCORER_SHARE = 0.6, 0.3  # of one GPU's memory, so that both fit; a cluster sets it for each replica


@dataclass(frozen=True)
class VLLM(EngineSpec):
    """Proposer `vllm`: a hub name, a local folder, or `bundled`.

    `max_num_seqs` chains run at once. What is null: `max_model_len` as the model's config says, 0.6 of a GPU's memory,
    vLLM's own block size (32 on a CPU), compiled (on a CPU not), fp32 on a CPU and the model's own dtype elsewhere.
    `chat_template`: path of a Jinja file in place of the model's own; `chat_template_kwargs`: what it is told.
    """

    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> VLLMProposer:
        """Start an engine. Raises ConfigError if vLLM is missing or cannot run the model."""
        model = describe(self, "proposer", self.chat_template)
        engine = start(self, model, "generate", PROPOSER_SHARE)
        return VLLMProposer(self, engine, model, task, prompt, limits)


@dataclass(frozen=True)
class VLLMPRM(EngineSpec):
    """Scorer `vllm`: a PRM by hub name, local folder, or `bundled`. `family` null: recognised by its config, a language
    model by its hub name."""

    family: str | None = None
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_family(self.family)

    def build(self, task: Task, prompt: Prompt) -> VLLMScorer:
        """Start an engine. Raises ConfigError if vLLM is missing, or the model is no PRM or cannot be run."""
        model = describe(self, "prm")
        has_chat = getattr(model.tokenizer, "chat_template", None) is not None
        names = (self.model, getattr(model.config, "_name_or_path", None) or "")
        form = form_of(self.family, model.config.architectures or [], names, has_chat)
        vllm_engine.check_plugin(form.architecture)
        reader = StepReader(model.tokenizer, model.context, form)
        if form.labels is None:
            return StepScorer(self, start(self, model, "pooling", SCORER_SHARE, rows=True), reader)
        labels = reader.labels()
        if not vllm_engine.can_sample("logprob_token_ids"):
            raise ConfigError(
                f"scorer.family {form.name}: this vLLM cannot give the log-probabilities of chosen tokens; "
                "use a newer one, or scorer.type transformers"
            )
        return LabelScorer(self, start(self, model, "generate", SCORER_SHARE), reader, labels)


@dataclass(frozen=True)
class VLLMORM(EngineSpec):
    """Outcome model `vllm`: a Qwen2ForRewardModel or a sequence-classification model; its one logit, or P(class 1) of
    two."""

    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "bundled":
            raise ConfigError(
                "outcome.model: must be set; no outcome model is bundled (outcome.type bundled is the PRM)"
            )

    def build(self, task: Task, prompt: Prompt) -> VLLMScorer:
        """Start an engine. Raises ConfigError if vLLM is missing, or the model is no outcome model or cannot be run."""
        model = describe(self, "prm")
        reader = ChainReader(model.tokenizer, model.context, system_of(model.config.architectures or []))
        return ChainScorer(self, start(self, model, "pooling", SCORER_SHARE), reader)


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model before an engine loads it."""

    name: str
    tokenizer: Any
    config: Any
    ends: list[int]
    context: int


def describe(spec: EngineSpec, bundled: str, chat_template: str | None = None) -> Model:
    """Read a model's config and tokenizer. Raises ConfigError if vLLM is missing or there is no such model or template."""
    vllm_engine.installed()
    vllm_engine.quiet()
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    name = location(spec.model, bundled)
    check(name)
    given: dict[str, Any] = {"revision": spec.revision}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **given, **NO_CODE)
        config = AutoConfig.from_pretrained(name, **given, **NO_CODE).get_text_config()
    except (OSError, ValueError) as error:
        raise unloadable(spec.model, error) from error
    use_template(tokenizer, chat_template)
    try:
        generation = GenerationConfig.from_pretrained(name, **given)
    except OSError:  # a model need not have one
        generation = GenerationConfig.from_model_config(config)
    context = spec.max_model_len or context_of(config)
    if context == UNBOUNDED:
        raise ConfigError(f"model {spec.model!r}: its config names no longest context; set max_model_len")
    return Model(name, tokenizer, config, ends_of(tokenizer, generation), context)


def start(spec: EngineSpec, model: Model, runner: Runner, share: float, rows: bool = False) -> VLLMEngine:
    """An engine of this model, shared with all that run it alike; `rows` asks a pooling one for every token's logits."""
    return vllm_engine.started(vllm_engine.configure(runner, spec, model.name, model.context, share, rows))


def stops(splitter: Splitter, separator: str) -> tuple[list[int], list[str]]:
    """(token ids, strings) that end a step: exact ids where one token completes the separator, else its text too."""
    ids = sorted({*ends(splitter), *(k for k, holds in enumerate(splitter.holds) if holds)})
    return ids, [separator] if any(splitter.opens) and any(splitter.closes) else []


def closing(thinking: Thinking, ids: list[int], strings: list[str]) -> tuple[list[int], list[str]]:
    """These stops and what closes a thought: its tag's token where there is one, else the tag's text."""
    if thinking.tag is not None:
        return sorted({*ids, thinking.tag}), strings
    return ids, [*strings, THOUGHT_OVER]


def ends(splitter: Splitter) -> list[int]:
    """Token ids that end a text and that the model can say: vLLM refuses others."""
    return sorted(i for i in splitter.end_ids if i < len(splitter.holds))


class OnEngine:
    """What a backend tells of its engine."""

    engine: VLLMEngine

    @property
    def dead(self) -> bool:
        """Whether the engine's process died: every further reply is its error."""
        return self.engine.dead

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of all prompts, and how many of them the prefix cache held."""
        return self.engine.usage


class VLLMProposer(CausalProposer, OnEngine):
    """Samples chains, each an engine request of its own, seeded by `chain_seed` as everywhere."""

    def __init__(
        self, spec: VLLM, engine: VLLMEngine, model: Model, task: Task, prompt: Prompt, limits: Limits
    ) -> None:
        super().__init__(
            model.tokenizer, task, prompt, limits, context=model.context, size=int(model.config.vocab_size),
            ends=model.ends, chat_template_kwargs=spec.chat_template_kwargs,
        )  # fmt: skip
        self.engine = engine
        self.max_jobs = max(1, spec.max_num_seqs // 2)  # a job asks for several chains: enough for some to wait
        self._stops = stops(self.splitter, self.splitter.separator)
        self._running: dict[str, list[Draft]] = {}  # job -> its chains

    async def propose(self, jobs: Sequence[Job]) -> list[Chains | Exception]:
        """One reply a job, as described in backends.base."""
        return await asyncio.gather(*(self._job(job) for job in jobs))

    def abort(self, job_ids: Iterable[str]) -> None:
        """Nobody wants these any more: their replies come early, with the chains as far as they were sampled."""
        unwanted = [draft for job_id in job_ids for draft in self._running.get(job_id, ()) if not draft.done]
        for draft in unwanted:
            draft.done = True
        self.engine.abort([draft.request for draft in unwanted if draft.request])

    def rest(self, rests: bool) -> None:
        """Draw nothing from now on, or go on, as described in backends.base."""
        self.engine.rest(rests)

    async def forget(self) -> None:
        await self.engine.forget()

    async def close(self) -> None:
        await self.engine.close()

    async def _job(self, job: Job) -> Chains | Exception:
        try:
            drafts = self.drafts(self.start(job))
        except Exception as error:
            return error
        self._running.setdefault(job.id, []).extend(drafts)
        try:
            failures = await asyncio.gather(*(self._sample(draft) for draft in drafts), return_exceptions=True)
        finally:
            left = [draft for draft in self._running.pop(job.id) if draft not in drafts]
            if left:  # of the same job, sent again
                self._running[job.id] = left
        for failure in failures:
            if isinstance(failure, Exception):
                return failure
            if isinstance(failure, BaseException):
                raise failure
        chains = [self.chain(draft) or (Step("", (), 0),) for draft in drafts]  # an aborted chain may hold no token
        if not any(step.tokens for chain in chains for step in chain):
            return RequestError("aborted")
        return tuple(chains)

    async def _sample(self, draft: Draft) -> None:
        """Segment by segment, until the draft is done or its job aborted."""
        job = draft.start.job
        while not draft.done:
            draft.request = self.engine.name(f"{job.id}#{draft.number}")
            reply = await self.engine.generate(draft.prefix, self.params(draft), draft.request, job.priority)
            if reply.aborted or draft.done:
                draft.add(reply.ids, reply.logprobs)
                return
            self.take(draft, reply.ids, reply.logprobs)

    def params(self, draft: Draft) -> Any:
        """How the next segment of a chain is drawn and where it ends."""
        job, limits, room = draft.start.job, self.limits, self.room(draft)
        one = job.until == "step"
        ids, strings = self._stops if one else (ends(self.splitter), [])
        if draft.thinking and self.thinking is not None:
            ids, strings = closing(self.thinking, ids, strings)
        most = min((1 if one else room.steps) * limits.step_tokens - room.length, room.tokens)
        return vllm_engine.sampling(
            temperature=job.sampling.temperature_of(draft.number),
            top_p=job.sampling.top_p,
            seed=draft.seed & SEEDS,
            max_tokens=max(1, most),
            stop_token_ids=ids,
            stop=strings or None,
            include_stop_str_in_output=True,
            detokenize=bool(strings),
            skip_special_tokens=False,  # as the splitter reads them: they stand between two halves of a separator
            spaces_between_special_tokens=False,
            logprobs=0 if job.logprobs else None,  # of the sampled token alone
            flat_logprobs=job.logprobs,
        )


class VLLMScorer(OnEngine):
    """What all reward models here share. A value, once given, stays: it is kept by the ids it was read after, and equal
    sequences in flight are computed once. An item's failure is its own."""

    def __init__(self, spec: EngineSpec, engine: VLLMEngine, reader: Reader) -> None:
        self.engine, self.reader = engine, reader
        self.max_jobs = spec.max_num_seqs
        self.enough = spec.max_num_batched_tokens  # a step of its engine
        self.keeps = engine.cache_tokens
        self._flying: dict[Ids, asyncio.Task[Reply]] = {}
        self._kept = Kept()

    async def score(self, items: Sequence[Item]) -> list[Scored | Exception]:
        """One reply an item, as described in backends.base. `Scored.tokens`: computed, cache hits excluded."""
        return await asyncio.gather(*(self._item(job, chains) for job, chains in items))

    async def forget(self) -> None:
        self._kept.clear()
        await self.engine.forget()

    async def close(self) -> None:
        for task in self._flying.values():
            task.cancel()
        await self.engine.close()

    async def _item(self, job: Job, chains: Chains) -> Scored | Exception:
        try:
            asked = [self.reader.read(job, chain) for chain in chains]
        except Exception as error:
            return error
        replies = await asyncio.gather(*(self._values(job, *given) for given in asked), return_exceptions=True)
        scores, tokens = [], 0
        for reply in replies:
            if isinstance(reply, Exception):
                return reply
            if isinstance(reply, BaseException):
                raise reply
            scores.append(tuple(reply[0]))
            tokens += reply[1]
        return unusable(tuple(scores)) or Scored(tuple(scores), tokens)

    async def _values(self, job: Job, ids: Ids, positions: list[int]) -> tuple[list[float], int]:
        """The value at each position, and the tokens computed for them."""
        values, keys = self._kept.find(ids, positions)
        if not keys:
            return [values[p] for p in positions], 0
        found, tokens = await self._read(job, ids[: max(keys) + 1], list(keys))
        self._kept.keep(keys, found)
        values |= found
        return [values[p] for p in positions], tokens

    async def _once(self, job: Job, ids: Ids) -> tuple[Reply, int]:
        """The engine's reply to these ids, and the tokens computed for this asker: none if another had asked already."""
        task = self._flying.get(ids)
        if task is not None:
            return await asyncio.shield(task), 0
        task = self._flying[ids] = asyncio.create_task(self._ask(job, ids))
        task.add_done_callback(lambda _: self._flying.pop(ids, None))
        reply = await asyncio.shield(task)
        return reply, len(ids) - reply.cached

    async def _read(self, job: Job, ids: Ids, positions: list[int]) -> tuple[dict[int, float], int]:
        """The value at each position, of which the last is the end of `ids`, and the tokens computed for them."""
        raise NotImplementedError

    async def _ask(self, job: Job, ids: Ids) -> Reply:
        """One request to the engine."""
        raise NotImplementedError


class StepScorer(VLLMScorer):
    """P(right so far) after each new step, from the rows of a token-classification engine that reads its prefix cache.

    Rows come back for computed tokens only, the last ones of a sequence. A mark that fell into the cached part is asked
    for with the sequence cut there: the last token is never cached.
    """

    async def _read(self, job: Job, ids: Ids, positions: list[int]) -> tuple[dict[int, float], int]:
        reply, tokens = await self._once(job, ids)
        first = first_row(len(ids), len(reply.rows), reply.cached)
        values = {p: float(probability(reply.rows[p - len(ids)])) for p in positions if p >= first}
        missing = [p for p in positions if p < first]
        for p, (cut, more) in zip(
            missing, await asyncio.gather(*(self._once(job, ids[: p + 1]) for p in missing)), strict=True
        ):
            values[p] = float(probability(cut.rows[-1]))
            tokens += more
        return values, tokens

    async def _ask(self, job: Job, ids: Ids) -> Reply:
        name = self.engine.name(f"{job.id}#score")
        return await self.engine.encode(ids, vllm_engine.pooling("token_classify"), name, job.priority)


def first_row(length: int, rows: int, cached: int) -> int:
    """Position of the first token of a sequence whose row can be trusted; rows are counted from the end."""
    return length - min(rows, length - cached)


class LabelScorer(VLLMScorer):
    """P(right so far) by a language model: one token after each new step's mark, softmax over its two labels."""

    def __init__(self, spec: EngineSpec, engine: VLLMEngine, reader: StepReader, labels: tuple[int, int]) -> None:
        super().__init__(spec, engine, reader)
        self.labels = labels  # token ids of (wrong, right)

    async def _read(self, job: Job, ids: Ids, positions: list[int]) -> tuple[dict[int, float], int]:
        replies = await asyncio.gather(*(self._once(job, ids[: p + 1]) for p in positions))
        wrong, right = self.labels
        values = [1 / (1 + math.exp(min(700.0, r.labels[wrong] - r.labels[right]))) for r, _ in replies]
        return dict(zip(positions, values, strict=True)), sum(tokens for _, tokens in replies)

    async def _ask(self, job: Job, ids: Ids) -> Reply:
        params = vllm_engine.sampling(
            temperature=0.0, max_tokens=1, detokenize=False, logprob_token_ids=sorted(self.labels)
        )
        return await self.engine.generate(ids, params, self.engine.name(f"{job.id}#score"), job.priority)


class ChainScorer(VLLMScorer):
    """The value of a whole chain: the raw logit of one class, or P(class 1) of two."""

    async def _read(self, job: Job, ids: Ids, positions: list[int]) -> tuple[dict[int, float], int]:
        reply, tokens = await self._once(job, ids)
        rows = reply.rows
        return {positions[-1]: float(outcome(rows if rows.ndim == 1 else rows[-1]))}, tokens

    async def _ask(self, job: Job, ids: Ids) -> Reply:
        task = "classify" if "classify" in await self.engine.tasks() else "token_classify"
        name = self.engine.name(f"{job.id}#outcome")
        return await self.engine.encode(ids, vllm_engine.pooling(task), name, job.priority)
