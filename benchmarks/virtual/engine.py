"""A SIMULATED engine with continuous batching: vLLM V1's scheduler, and a law for what a step takes. Samples nothing.

Each step gives every running sequence its next token, or a chunk of its prompt, within `max_num_batched_tokens`; then
waiting ones start, by priority, within `max_num_seqs` and the KV memory. Where the memory ends, the running sequence
that matters least starts anew later. What a sequence will say is known beforehand: parts with their lengths.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field, fields
from functools import partial

from benchmarks.virtual.cache import Block, Cache, Part, blocks_of, keys
from benchmarks.virtual.card import Card
from benchmarks.virtual.constants import Hardware, Law, Model, Serving, Step


@dataclass
class Usage:
    """What an engine has done; tokens, seconds, sequences."""

    steps: int = 0
    busy: float = 0.0  # seconds with a step under way
    running: float = 0.0  # sequences x seconds
    thin: float = 0.0  # seconds of steps with less than half of the saturating batch
    sampled: int = 0
    computed: int = 0  # tokens, prompts and sampled ones; again after a preemption
    queried: int = 0  # prompt tokens of sequences that started
    hit: int = 0  # of those, found in the cache
    requests: int = 0
    preempted: int = 0

    def since(self, before: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))

    def copy(self) -> Usage:
        return Usage(*(getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Request:
    """Parts that are given and parts that will be sampled after them (none: pooling). The smallest priority runs first."""

    given: tuple[Part, ...]
    sampled: tuple[Part, ...] = ()
    priority: int = 0


@dataclass(eq=False, slots=True)
class Sequence:
    """A request under way. `known` tokens are given or sampled, `computed` of them have their KV in `blocks`.

    One that decodes gets a token every step: its counts are those of the beginning of step `since`, so that a step costs
    nothing for those to whom nothing else happens. It needs a block at step `due` and ends with step `last`.
    """

    number: int
    priority: int
    keys: list[int]
    known: int
    end: int
    done: asyncio.Future[int]
    computed: int = 0
    named: int = 0  # blocks that others may find
    hits: int = -1  # when it first started; -1: not yet
    since: int = -1  # -1: it does not decode
    due: int = -1
    last: int = -1
    blocks: list[Block] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        return self.priority, self.number


class VirtualEngine:
    """One engine on a card. `half`: half of the batch that saturates it; see `saturating`."""

    def __init__(self, model: Model, serving: Serving, hardware: Hardware, law: Law, card: Card) -> None:
        if serving.max_num_batched_tokens < serving.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs: each that decodes takes one")
        self.model, self.serving, self.hardware, self.law, self.card = model, serving, hardware, law, card
        room = serving.share * hardware.memory - model.weights
        self.block = serving.block
        self.cache = Cache(int(room / model.kv / self.block) if serving.blocks is None else serving.blocks)
        self.usage = Usage()
        self.half = 0.0
        self.trace: list[Request] = []
        self._waiting: list[tuple[tuple[int, int], Sequence]] = []  # a heap
        self._running: dict[Sequence, None] = {}
        self._filling: dict[Sequence, None] = {}  # those of them whose prompt is not computed to its end
        self._due: dict[int, list[Sequence]] = {}  # step -> those that may need a block
        self._last: dict[int, list[Sequence]] = {}  # step -> those that may end with it
        self._live = 0  # tokens of those that decode, at the beginning of the next step
        self._numbers = itertools.count()
        self._awake = False
        self._resting = False
        self._begun = 0.0  # when the step under way began

    @property
    def load(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    def submit(self, request: Request) -> asyncio.Future[int]:
        """A future of the prompt tokens that the cache held. Raises ValueError for what can never run."""
        prompt = sum(tokens for _, tokens in request.given)
        end = prompt + sum(tokens for _, tokens in request.sampled)
        if blocks_of(end, self.block) > self.cache.capacity:
            raise ValueError(
                f"a sequence of {end} tokens needs more than all {self.cache.capacity} blocks; raise share"
            )
        done = asyncio.get_running_loop().create_future()
        names = keys(request.given + request.sampled, self.block)
        sequence = Sequence(next(self._numbers), request.priority, names, prompt, end, done)
        self.trace.append(request)
        heapq.heappush(self._waiting, (sequence.rank, sequence))
        if not self._awake:
            self._prepare()
        return done

    def rest(self, rests: bool) -> None:
        """Begin no step from now on, or go on, as `VLLMEngine.rest`."""
        self._resting = rests
        if not self._awake:
            self._prepare()

    def step_seconds(self, step: Step) -> tuple[float, float]:
        """(seconds on the card, seconds of the CPU) of a step."""
        return self.law.seconds(step, self.model, self.hardware)

    def saturating(self, context: float) -> int:
        """The smallest batch of this mean context with 90 % of the tokens/s that `max_num_seqs` decode."""

        def rate(batch: int) -> float:
            return batch / sum(self.step_seconds(Step(batch, batch, int(batch * context))))

        most = self.serving.max_num_seqs
        return next(batch for batch in range(1, most + 1) if rate(batch) >= 0.9 * rate(most))

    def _prepare(self) -> None:
        """Begin a step with its CPU time: whoever has a reply may ask again meanwhile, and be part of it."""
        self._awake = bool(self._running or self._waiting) and not self._resting
        if self._awake:
            loop = asyncio.get_running_loop()
            self._begun = loop.time()
            sequences = min(self.load, self.serving.max_num_seqs)
            loop.call_later(self.law.base + self.law.each * sequences, self._step)

    def _step(self) -> None:
        before = len(self._running)
        batch = self._schedule()
        decoding = len(self._running) - len(self._filling)
        tokens = decoding + sum(batch.values())
        context = self._live + tokens + sum(sequence.computed for sequence in batch)
        pairs = sum(new * (2 * sequence.computed + new) // 2 for sequence, new in batch.items())
        held = (self.cache.capacity - self.cache.free) * self.block
        begun = max(0, len(self._running) - before)
        step = Step(decoding + len(batch), tokens, context, begun, pairs, min(context, held))
        seconds, _ = self.step_seconds(step)
        work = partial(self.card.work, seconds, partial(self._done, batch, decoding, tokens))
        if self.law.start:
            asyncio.get_running_loop().call_later(self.law.start * begun, work)
        else:
            work()

    def _done(self, batch: dict[Sequence, int], decoding: int, tokens: int) -> None:
        self._count(asyncio.get_running_loop().time() - self._begun, decoding + len(batch), tokens)
        self._advance(batch, decoding)
        self._prepare()

    def _count(self, seconds: float, sequences: int, tokens: int) -> None:
        usage = self.usage
        usage.busy += seconds
        usage.running += seconds * sequences
        usage.thin += seconds if sequences < self.half else 0.0
        usage.computed += tokens

    # One step

    def _schedule(self) -> dict[Sequence, int]:
        """The sequences that compute a piece of their prompt in the next step, with its tokens; all others decode."""
        batch: dict[Sequence, int] = {}
        before = self.usage.preempted
        for sequence in self._due.pop(self.usage.steps, ()):
            if sequence.since >= 0 and sequence.due == self.usage.steps:
                self._settle(sequence)
                if self._secure(sequence, 1, batch):
                    self._when_due(sequence)
        for sequence in list(self._filling):
            new = min(sequence.known - sequence.computed, self._budget(batch))
            if sequence in self._filling and new and self._secure(sequence, new, batch):
                batch[sequence] = new
        if self.usage.preempted == before:
            self._start(batch)
        return batch

    def _budget(self, batch: dict[Sequence, int]) -> int:
        decoding = len(self._running) - len(self._filling)
        return self.serving.max_num_batched_tokens - decoding - sum(batch.values())

    def _start(self, batch: dict[Sequence, int]) -> None:
        """Let waiting sequences run, as far as there is room."""
        budget = self._budget(batch)
        while self._waiting and budget and len(self._running) < self.serving.max_num_seqs:
            sequence = self._waiting[0][1]
            sequence.blocks = self._found(sequence)
            self.cache.hold(sequence.blocks)
            sequence.named = len(sequence.blocks)
            sequence.computed = sequence.named * self.block
            new = min(sequence.known - sequence.computed, budget)
            if not self._reserve(sequence, new):
                self._free(sequence)
                return
            heapq.heappop(self._waiting)
            self._running[sequence] = self._filling[sequence] = None
            if sequence.hits < 0:
                sequence.hits = sequence.computed
                self.usage.requests += 1
            self.usage.queried += sequence.known
            self.usage.hit += sequence.computed
            batch[sequence] = new
            budget -= new

    def _found(self, sequence: Sequence) -> list[Block]:
        """Cached blocks of what is known; never its last token, which must be computed to go on."""
        if not self.serving.reuse:
            return []
        return self.cache.find(sequence.keys[: (sequence.known - 1) // self.block])

    def _secure(self, sequence: Sequence, new: int, batch: dict[Sequence, int]) -> bool:
        """Blocks for `new` more tokens, at the cost of those that matter less; False if it had to make room itself."""
        while not self._reserve(sequence, new):
            victim = max(self._running, key=lambda s: s.rank)
            batch.pop(victim, None)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _reserve(self, sequence: Sequence, new: int) -> bool:
        """Blocks for `new` more tokens; those that become whole can be found by others at once."""
        end = sequence.computed + new
        taken = self.cache.take(max(0, blocks_of(end, self.block) - len(sequence.blocks)))
        if taken is None:
            return False
        sequence.blocks += taken
        self._name(sequence, end)
        return True

    def _name(self, sequence: Sequence, end: int) -> None:
        for k in range(sequence.named, end // self.block):
            self.cache.name(sequence.blocks[k], sequence.keys[k])
        sequence.named = end // self.block

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self.usage.preempted += 1
        heapq.heappush(self._waiting, (sequence.rank, sequence))

    def _leave(self, sequence: Sequence) -> None:
        """It runs no more, and its blocks are free."""
        if sequence.since >= 0:
            self._settle(sequence)
            self._live -= sequence.computed
            sequence.since = -1
        del self._running[sequence]
        self._filling.pop(sequence, None)
        self._free(sequence)

    def _free(self, sequence: Sequence) -> None:
        self._name(sequence, sequence.computed)
        self.cache.release(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.named = [], 0, 0

    def _advance(self, batch: dict[Sequence, int], decoding: int) -> None:
        """The step is done: everything that was computed to its end has one more token, or is at its end."""
        step = self.usage.steps
        self.usage.steps += 1
        self.usage.sampled += decoding
        self._live += decoding
        for sequence in self._last.pop(step, ()):
            if sequence.since >= 0 and sequence.last == step:
                self._end(sequence)
        for sequence, new in batch.items():
            sequence.computed += new
            if sequence.computed < sequence.known:
                continue
            if sequence.known < sequence.end:
                sequence.known += 1
                self.usage.sampled += 1
            if sequence.known == sequence.end:
                self._end(sequence)
            else:
                self._decode(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._leave(sequence)
        if not sequence.done.done():
            sequence.done.set_result(sequence.hits)

    def _decode(self, sequence: Sequence) -> None:
        """From now on it gets a token every step."""
        del self._filling[sequence]
        sequence.since = self.usage.steps
        sequence.last = sequence.since + sequence.end - sequence.known - 1
        self._last.setdefault(sequence.last, []).append(sequence)
        self._live += sequence.computed
        self._when_due(sequence)

    def _when_due(self, sequence: Sequence) -> None:
        """Note at which step its last block will be full."""
        sequence.due = sequence.since + len(sequence.blocks) * self.block - sequence.computed
        self._due.setdefault(sequence.due, []).append(sequence)

    def _settle(self, sequence: Sequence) -> None:
        """Bring the counts of one that decodes to the beginning of this step."""
        tokens = self.usage.steps - sequence.since
        sequence.computed += tokens
        sequence.known += tokens
        sequence.since = self.usage.steps
