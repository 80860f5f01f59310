"""The values that travel: problems, wishes, jobs, replies, answers. Know no tree, no clock, no model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeVar

Until = Literal["step", "answer", "revision"]
Score = Literal["step", "siblings"] | None
Finish = Literal["step", "answer", "length"]
Part = str | bytes | int | tuple[int, ...]  # of a digest
Value = TypeVar("Value")
Stopped = Literal["finished", "decided", "budget", "deadline", "cancelled", "error"]
_NOTHING = blake2b(digest_size=8)


@dataclass(frozen=True, slots=True)
class Problem:
    """One question. `reference` is what the checker compares with; no search and no scorer but `oracle` sees it."""

    id: str
    question: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a proposer draws. Temperature 0 is greedy; a tuple of temperatures is cycled over the chain index."""

    temperature: float | tuple[float, ...] = 1.0
    top_p: float = 1.0

    def temperature_of(self, chain: int) -> float:
        """Temperature of the chain with this index at its path."""
        t = self.temperature
        return t[chain % len(t)] if isinstance(t, tuple) else t


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of reasoning, a node of the tree.

    `text` is the decode of `ids` (empty where a backend has no ids), `tokens` their number (None: unknown).
    `logprob` is in nats, summed over the step; `score` any finite float, by default P(right so far) in [0, 1].
    `finish`: `step` (goes on), `answer` (the chain ended) or `length` (cut by a limit). On a finished step `answer` is
    what the task read from the whole chain, `canonical` its form for votes (both None: nothing readable), and
    `outcome` the outcome model's score (unfinished steps are read only for searches that ask for it). `proposer` names the
    member of a mixture that wrote it, whose `ids` they are.
    """

    text: str
    ids: tuple[int, ...] = ()
    tokens: int | None = None
    logprob: float | None = None
    score: float | None = None
    finish: Finish = "step"
    answer: str | None = None
    canonical: str | None = None
    outcome: float | None = None
    proposer: str | None = None

    def scored(self, score: float) -> Step:
        """The same step with this score, made for each node there is."""
        return made_step(self.text, self.ids, self.tokens, self.logprob, score, self.finish, self.answer, self.canonical,
                         self.outcome, self.proposer)  # fmt: skip

    def read(self, answer: str | None, canonical: str | None) -> Step:
        """The same step with what was read from its chain."""
        return made_step(self.text, self.ids, self.tokens, self.logprob, self.score, self.finish, answer, canonical,
                         self.outcome, self.proposer)  # fmt: skip


def maker(kind: type[Value]) -> Callable[..., Value]:
    """Makes a value of all its fields in a third of the time: a frozen class sets each by a call, a twin of it does not."""
    twin: Any = make_dataclass("_Unfrozen", [field.name for field in fields(kind)], slots=True)  # type: ignore[arg-type]

    def make(*values: Any) -> Value:
        value = twin(*values)
        value.__class__ = kind  # same slots, same layout
        return value  # type: ignore[no-any-return]

    return make


made_step = maker(Step)


Chain = tuple[Step, ...]


def attempts(path: Chain) -> list[Chain]:
    """The path in its attempts: each ends with a finished answer that the next one revises; the last may be open."""
    parts: list[list[Step]] = [[]]
    for step in path:
        parts[-1].append(step)
        if step.finish != "step":
            parts.append([])
    return [tuple(part) for part in parts if part]


def under_way(path: Chain) -> Chain:
    """The attempt that the next step continues: what follows the last finished answer (the whole path if none is)."""
    for k in range(len(path) - 1, -1, -1):
        if path[k].finish != "step":
            return path[k + 1 :]
    return path


@dataclass(frozen=True, slots=True)
class Expand:
    """The one wish of a search: sample `n` continuations of the path to node `leaf` until `until`, and score them.

    `n=None` asks for all there are (enumerating proposers only). `score=None` leaves the new steps unscored.
    """

    leaf: int
    n: int | None
    until: Until = "step"
    sampling: Sampling | None = None
    proposer: str | None = None
    score: Score = "step"


@dataclass(frozen=True, slots=True)
class Job:
    """A wish made self-contained and re-sendable. Chain i at this path has the seed `chain_seed(job.seed, i)`."""

    id: str  # "PROBLEM/SEQ"
    problem: Problem
    path: Chain  # steps from the root to the leaf; the prompt is made from the question by the task
    first: int  # chains already asked at this path
    n: int | None
    until: Until
    sampling: Sampling
    seed: int  # H(run seed, problem id, path): no attempt and no sequence number
    score: Score = "step"
    proposer: str | None = None
    leaf: int = 0  # the node in its own tree; a backend has no use for it
    priority: int = 0  # age of its tree, 0 the oldest: a backend that must choose runs the smallest first
    logprobs: bool = False  # whether the search reads `Step.logprob`


made_job = maker(Job)


@dataclass(frozen=True, slots=True)
class Expansion:
    """The one reply to a wish: `chains` with one or more steps each, or an `error`. `scored`: tokens the scorer computed."""

    leaf: int
    chains: tuple[Chain, ...] = ()
    error: str | None = None
    scored: int | None = 0


made_expansion = maker(Expansion)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished leaf of a tree (or an output its search named), as a vote sees it."""

    node: int
    answer: str | None
    canonical: str | None
    text: str
    scores: tuple[float | None, ...]  # step scores along the path
    outcome: float | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search says about a problem: the winner and everything it chose from."""

    problem: Problem
    answer: str | None
    score: float | None  # the winner's value under the rule
    text: str
    candidates: tuple[Candidate, ...]
    stopped: Stopped
    tokens_generated: int | None
    tokens_scored: int | None
    tokens_wasted: int | None
    expansions: int
    seconds: float
    error: str | None = None
    nodes: int = field(default=0)


def digest(*parts: Part, after: blake2b = _NOTHING) -> int:
    """64 stable bits of the parts, each with its length, so that no two lists of parts run together.

    `after`: the parts before them, as a hash that was told them.
    """
    return int.from_bytes(hashed(*parts, after=after).digest(), "little")


def hashed(*parts: Part, after: blake2b = _NOTHING) -> blake2b:
    """A hash that was told these parts: a copy, for a new one takes longer than all the rest."""
    told = after.copy()
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode()
        told.update(len(raw).to_bytes(4, "little") + raw)
    return told


def path_digest(parent: int, step: Step) -> int:
    """Digest of a path, one step at a time: equal steps under equal parents are the same path."""
    return digest(parent, step.ids or step.text)


def chain_seed(job_seed: int, chain: int) -> int:
    """Seed of the `chain`-th sample at a path: 4 wishes of 1 chain and 1 wish of 4 draw the same chains."""
    return digest(job_seed, chain)


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
