"""What a proposer and a scorer are. A backend spec is a frozen dataclass (its fields are the config keys); `build(task)`
loads what it needs, the only place where heavy imports happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from treesearch.types import Chain, Job


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens per step, tokens per path (prompt excluded), steps per path; tokens of a thought, see `backends.thinking`."""

    step_tokens: int = 256
    path_tokens: int = 4096
    depth: int = 64
    think_least: int | None = None  # a thought that is closed before goes on
    think_most: int | None = None  # one that is still open then is closed


class Proposer(Protocol):
    """Draws continuations. Called with all jobs that wait; gives one reply a job, in order.

    A reply is the job's chains (unscored, `answer` unread) or an exception: RequestError for a job that must not be
    asked again, RunError where no job can be done (a refused key): it ends the run; anything else for one that may. A
    proposer may also have `abort(job_ids)`: nobody wants these any more, and their replies come early, with the chains as
    far as they were sampled; `rest(rests)`: from now on draw nothing and keep what runs, or (false) go on, see
    `backpressure`; and `only_answers`: why it writes whole answers only, None if it does not. Any backend may
    have `async forget()`: a new run begins that shall not profit from what is kept of earlier ones.
    """

    max_jobs: int  # jobs worth having in flight at once

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of the new steps of a job's chains, one list a chain, and the tokens the scorer computed (None: unknown).

    From an outcome model each list holds one number, the value of the whole chain.
    """

    scores: tuple[tuple[float, ...], ...]
    tokens: int | None = None


class Scorer(Protocol):
    """Judges steps. Called with all (job, chains) that wait; gives one reply an item, in order, or an exception.

    A scorer may also have `enough`: the tokens of new steps in flight that keep it busy. While it has as many, its trees
    ask the proposers for no more, and proposers on its card rest. On a cluster this counts only where it shares its card
    with another engine; models in one process are taken to share one, unless they say by a `card` that they do not. And
    `keeps`: the tokens that its prefix cache holds; while trees do not fit into it together, the youngest wait (not where
    a budget counts seconds).
    """

    max_jobs: int

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]: ...

    async def close(self) -> None: ...


class LastScore:
    """A step scorer as an outcome model: the value of a whole chain is the score of its last step."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.max_jobs = scorer, scorer.max_jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)  # what it counted, whether its engine died

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [_last(reply) for reply in await self.scorer.score(items)]

    async def close(self) -> None:
        await self.scorer.close()


def _last(reply: Scored | Exception) -> Scored | Exception:
    if isinstance(reply, Exception):
        return reply
    return Scored(tuple(row[-1:] for row in reply.scores), reply.tokens)


def states(job: Job, chain: Chain) -> list[tuple[str, ...]]:
    """Texts of the path up to and with each new step of a chain."""
    texts = tuple(step.text for step in (*job.path, *chain))
    return [texts[:k] for k in range(len(job.path) + 1, len(texts) + 1)]
