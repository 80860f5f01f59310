"""What every backend of a causal language model needs beside its sampler: prompt ids, checks, chains cut from ids.

Knows no library that runs models but its tokenizers. The same ids give the same chain whichever library sampled them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from treesearch.backends.base import Limits
from treesearch.backends.chat import chat_of, turn_ends
from treesearch.backends.detokenizer import Detokenizer
from treesearch.backends.steps import Piece, Splitter
from treesearch.backends.thinking import Thinking
from treesearch.backends.weights import SAFE_ONLY
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks import prompts
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job, Step, attempts, chain_seed, digest, under_way

UNBOUNDED = 1 << 30  # tokens of context where a model's config names no limit
MOST_PROMPTS = 1024  # questions whose ids are kept: more than are searched at a time


def location(model: str, bundled: str) -> str:
    """What a library loads for a spec's `model`: the folder of the bundled model of that name, else `model` itself."""
    from treesearch.models import folder

    return str(folder(bundled)) if model == "bundled" else model


def unloadable(model: str, error: BaseException) -> ConfigError:
    hint = f"; {SAFE_ONLY}" if "safetensors" in str(error) else ""
    return ConfigError(f"model {model!r} cannot be loaded: {error}{hint}")


def context_of(config: Any) -> int:
    """Tokens that fit a model, by its transformers config."""
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def ends_of(tokenizer: Any, generation_config: Any) -> list[int]:
    """Token ids that end a text: the tokenizer's, those of the model's generation config, its chat template's."""
    more = getattr(generation_config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more]), *turn_ends(tokenizer)]
    return list(dict.fromkeys(i for i in ids if i is not None))


def parted(job: Job) -> tuple[Chain, tuple[Chain, ...]]:
    """(attempt under way, finished attempts before it). Raises RequestError for a revision of what is not finished."""
    steps = under_way(job.path)
    if job.until == "revision" and (steps or not job.path):
        raise RequestError("there is no finished answer here to revise; a search revises the leaves that ended")
    return steps, tuple(attempts(job.path[: len(job.path) - len(steps)]))


@dataclass(slots=True)
class Start:
    """Where the chains of a job begin."""

    job: Job
    prefix: list[int]  # prompt and path
    path: list[int]  # of the attempt under way
    steps: int  # of it
    room: int  # tokens that fit after the prefix
    used: int  # tokens of the path
    thinking: bool = False  # the path is in a thought that has a budget


@dataclass(slots=True, eq=False)
class Draft:
    """A chain under way: `ids`, sampled and forced, follow the start's prefix. Sampling begins anew with each segment."""

    start: Start
    number: int  # index of the chain at its path
    thinking: bool = False
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)  # in nats, 0 for what was forced; None: nobody asked
    segment: int = 0
    request: str = ""  # name of the segment under way, where an engine wants one
    done: bool = False

    @property
    def prefix(self) -> list[int]:
        """All ids to sample after."""
        return self.start.prefix + self.ids

    @property
    def seed(self) -> int:
        """Of this segment."""
        seed = chain_seed(self.start.job.seed, self.number)
        return digest(seed, self.segment) if self.segment else seed

    def add(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        self.ids += ids
        self.logprobs = None if self.logprobs is None or logprobs is None else [*self.logprobs, *logprobs]

    def force(self, ids: Sequence[int]) -> None:
        """Go on, in a new segment, with ids that nobody sampled."""
        self.add(ids, [0.0] * len(ids))
        self.segment += 1

    def cut(self, at: int) -> None:
        """Take back all ids from `at` on."""
        del self.ids[at:]
        if self.logprobs is not None:
            del self.logprobs[at:]


@dataclass(frozen=True, slots=True)
class Room:
    """What the next segment of a draft may be: `tokens` and `steps` in all; `length` tokens of a step stand already,
    and `opened` says whether the last of them may begin a separator."""

    tokens: int
    steps: int
    length: int
    opened: bool


class CausalProposer:
    """The part of a proposer that knows text and limits. `size` is the number of rows of the model's embedding.

    A sampler takes `draft` for each chain, samples after `Draft.prefix` what `room` allows, up to a separator (where the
    job wants a step), an end, or, in `Draft.thinking`, a token that closes the thought, and gives it to `take`, until the
    draft is done; its `chain` is the reply.
    """

    def __init__(
        self, tokenizer: Any, task: Task, prompt: Prompt, limits: Limits, *, context: int, size: int,
        ends: Iterable[int], chat_template_kwargs: dict[str, Any],
    ) -> None:  # fmt: skip
        self.tokenizer, self.task, self.prompt, self.limits, self.context = tokenizer, task, prompt, limits, context
        self.detokenizer = Detokenizer(tokenizer)
        texts, ends = self.detokenizer.vocabulary(size), list(ends)
        self.splitter = Splitter(texts, prompts.separator(task, prompt), ends, limits)
        budget = limits.think_least is not None or limits.think_most is not None
        self.thinking = Thinking(self.detokenizer, texts, ends, limits) if budget else None
        self.chat = chat_of(tokenizer, **chat_template_kwargs)
        self._prompts: dict[tuple[str, tuple[Chain, ...]], list[int]] = {}
        if prompts.is_chat(prompt):
            self.prompt_text("?")  # what is wrong with a template is said now, not with every question

    def prompt_text(self, question: str, attempts: Sequence[Chain] = ()) -> str:
        """The text before the first step of a solution, or of one that revises these `attempts`."""
        return prompts.build(self.task, self.prompt, question, self.chat, attempts)

    def prompt_ids(self, question: str, attempts: Sequence[Chain] = ()) -> list[int]:
        """Token ids before the first step; tokenised once a question. A chat template brings its own special tokens."""
        key = question, tuple(attempts)
        if key not in self._prompts:
            if len(self._prompts) >= MOST_PROMPTS:
                self._prompts.clear()
            self._prompts[key] = self._tokenised(self.prompt_text(question, attempts))
        return self._prompts[key]

    def _tokenised(self, text: str) -> list[int]:
        special = not prompts.is_chat(self.prompt)
        ids = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        begin = self.tokenizer.bos_token_id
        return ids[1:] if begin is not None and ids[:2] == [begin, begin] else ids  # a template's, and the tokenizer's

    def start(self, job: Job) -> Start:
        """What to sample after. Raises RequestError for a job that a causal language model cannot do."""
        if job.n is None:
            raise RequestError("a language model cannot list all continuations; set the search's branch to a number")
        steps, before = parted(job)
        path = [i for step in steps for i in self.ids_of(step)]
        prefix = self.prompt_ids(job.problem.question, before) + path
        if not prefix:
            raise RequestError("the prompt is empty: a model needs at least one token; ask a question")
        room = self.context - len(prefix)
        if room < 1:
            raise RequestError(f"prompt and path of {len(prefix)} tokens do not fit the context of {self.context}")
        thinking = self.thinking is not None and self.thinking.is_open(path)
        return Start(job, prefix, path, len(steps), room, sum(step.tokens or 0 for step in steps), thinking)

    def ids_of(self, step: Step) -> Sequence[int]:
        """Token ids of a step; one that another model wrote comes as text alone."""
        return step.ids or (self.detokenizer.ids(step.text, after="\n") if step.text else ())

    def draft(self, start: Start, number: int) -> Draft:
        """Chain `number` of a job before anything was sampled; one that must close a thought may be done already."""
        draft = Draft(start, number, start.thinking)
        if self.thinking is not None:
            self.thinking.begin(draft)
            draft.done = self._complete(draft)
        return draft

    def drafts(self, start: Start) -> list[Draft]:
        """All chains of a job."""
        first = start.job.first
        return [self.draft(start, i) for i in range(first, first + (start.job.n or 0))]

    def take(self, draft: Draft, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """What was sampled in this segment (nothing: it cannot go on); `logprobs` one a token in nats, or None."""
        draft.add(ids, logprobs)
        more = False
        if self.thinking is not None and draft.thinking and ids:
            end = self.thinking.end(draft, len(ids))
            last = self._pieces(draft)[-1]
            if last.finish != "length":
                more = self.thinking.correct(draft, end, len(draft.ids) - last.tokens)
        draft.done = self._complete(draft) or not ids
        if not (draft.done or more):  # an engine that looks for text may see a separator where there is none
            draft.segment += 1

    def room(self, draft: Draft) -> Room:
        """What the next segment may be."""
        start, limits, pieces = draft.start, self.limits, self._pieces(draft)
        tokens = min(start.room, limits.path_tokens - start.used) - len(draft.ids)
        if self.thinking is not None and draft.thinking and self.thinking.most is not None:
            tokens = min(tokens, self.thinking.most - len(start.path) - len(draft.ids))
        under_way = pieces.pop().ids if pieces and not pieces[-1].whole else ()
        steps = limits.depth - start.steps - len(pieces)
        opened = bool(under_way) and self.splitter.opens[under_way[-1]]
        return Room(max(1, tokens), max(1, steps), len(under_way), opened)

    def chain(self, draft: Draft) -> Chain:
        """The steps of a draft."""
        steps: list[Step] = []
        before, at = list(draft.start.path), 0
        for piece in self._pieces(draft):
            values = None if draft.logprobs is None else draft.logprobs[at : at + piece.tokens]
            at += piece.tokens
            text = self.detokenizer.text(before, piece.ids, piece.finish != "step")
            before += piece.ids
            logprob = None if values is None else float(sum(values))
            steps.append(Step(text, piece.ids, piece.tokens, logprob, finish=piece.finish))
        return tuple(steps[:1] if draft.start.job.until == "step" else steps)

    def _pieces(self, draft: Draft) -> list[Piece]:
        start = draft.start
        return self.splitter.split(draft.ids, start.used, start.steps, start.room)

    def _complete(self, draft: Draft) -> bool:
        """Whether what stands is all that the job asks for, or as much as fits."""
        pieces = self._pieces(draft)
        if not pieces:
            return False
        one = draft.start.job.until == "step"
        return pieces[-1].finish != "step" or (one and (len(pieces) > 1 or pieces[0].whole))
