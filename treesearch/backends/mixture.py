"""Several proposers as one: each chain is drawn by one of them. Knows no model.

Models may have different tokenizers: a member is given the ids of steps that one with its own vocabulary wrote, and the
text of all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from treesearch.backends.base import Limits, Proposer
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job, Sampling, Step, digest

Chains = tuple[Chain, ...]


@dataclass(frozen=True)
class Member:
    """`model` is the spec of any proposer; `temperature` null as the run's `sampling` says; `name` null: its position."""

    model: Any = field(metadata={"section": "proposer"})
    weight: float = 1.0
    temperature: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"proposer weight = {self.weight!r}: must be a number above 0")
        if self.temperature is not None and self.temperature < 0:
            raise ConfigError(f"proposer temperature = {self.temperature!r}: must be 0 (greedy) or more")


@dataclass(frozen=True)
class Mixture:
    """Proposer `mixture`, or a list of proposers: a chain is drawn by member m with probability weight_m / sum of weights.

    The draw follows from the chain's seed. A wish that names its proposer gets that one: `ab_mcts` learns which is best
    from `search.proposers`. On a cluster every replica holds all members.
    """

    members: tuple[Member, ...] = field(metadata={"items": Member})
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("proposer = []: a list of proposers needs at least one")
        if len(set(self.names)) < len(self.members):
            raise ConfigError(f"proposer names {', '.join(self.names)}: must differ")

    @property
    def names(self) -> list[str]:
        return [member.name or str(k) for k, member in enumerate(self.members)]

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> MixtureProposer:
        """Build all members. Raises ConfigError as they do."""
        return MixtureProposer(self, [member.model.build(task, prompt, limits) for member in self.members])


class MixtureProposer:
    """Members side by side; a job is cut into the runs of chains that the same member draws."""

    def __init__(self, spec: Mixture, proposers: Sequence[Proposer]) -> None:
        self.spec, self.proposers, self.names = spec, list(proposers), spec.names
        self.max_jobs = sum(proposer.max_jobs for proposer in proposers)
        self.tongues = tongues(proposers)
        reasons = (getattr(proposer, "only_answers", None) for proposer in proposers)
        self.only_answers: str | None = next((reason for reason in reasons if reason), None)
        self._parts: dict[str, list[tuple[int, str]]] = {}  # job under way -> member and id of each of its parts

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of all prompts, and how many of them a cache held, of the members that count them."""
        counted = [getattr(proposer, "usage", {}) for proposer in self.proposers]
        return {
            key: sum(usage.get(key, 0) for usage in counted) for key in sorted({k for usage in counted for k in usage})
        }

    @property
    def dead(self) -> bool:
        return any(getattr(proposer, "dead", False) for proposer in self.proposers)

    async def propose(self, jobs: Sequence[Job]) -> list[Chains | Exception]:
        """One reply a job, as described in backends.base."""
        return await asyncio.gather(*(self._job(job) for job in jobs))

    def abort(self, job_ids: Iterable[str]) -> None:
        """Told to the members that draw for these jobs."""
        for m, part in [entry for job_id in job_ids for entry in self._parts.get(job_id, ())]:
            if (abort := getattr(self.proposers[m], "abort", None)) is not None:
                abort([part])

    def rest(self, rests: bool) -> None:
        for proposer in self.proposers:
            if (rest := getattr(proposer, "rest", None)) is not None:
                rest(rests)

    async def forget(self) -> None:
        for proposer in self.proposers:
            if (forget := getattr(proposer, "forget", None)) is not None:
                await forget()

    async def close(self) -> None:
        for proposer in self.proposers:
            await proposer.close()

    async def _job(self, job: Job) -> Chains | Exception:
        try:
            parts = list(self.parts(job))
        except RequestError as error:
            return error
        self._parts[job.id] = [(m, part.id) for m, part in parts]
        try:
            replies = await asyncio.gather(*(self._ask(m, part) for m, part in parts))
        finally:
            del self._parts[job.id]
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        return failed or tuple(chain for reply in replies if not isinstance(reply, Exception) for chain in reply)

    async def _ask(self, m: int, part: Job) -> Chains | Exception:
        (reply,) = await self.proposers[m].propose([part])
        if isinstance(reply, Exception):
            return reply
        return tuple(tuple(replace(step, proposer=self.names[m]) for step in chain) for chain in reply)

    def parts(self, job: Job) -> Iterator[tuple[int, Job]]:
        """(member, its part of the job). Raises RequestError for a member that there is not."""
        if job.proposer is not None and job.proposer not in self.names:
            raise RequestError(f"proposer {job.proposer!r} is none of {', '.join(self.names)}")
        if job.n is None:
            if job.proposer is None:
                raise RequestError("a mixture cannot list all continuations; set the search's branch to a number")
            yield self.names.index(job.proposer), self._part(self.names.index(job.proposer), job, job.first, None)
            return
        start = job.first
        for i in range(job.first, job.first + job.n):
            m, following = self.member(job, i), i + 1
            if following == job.first + job.n or self.member(job, following) != m:
                yield m, self._part(m, job, start, following - start)
                start = following

    def member(self, job: Job, i: int) -> int:
        """Who draws chain i at the job's path."""
        if job.proposer is not None:
            return self.names.index(job.proposer)
        weights = [member.weight for member in self.spec.members]
        left = digest(job.seed, i, "member") / 2**64 * sum(weights)
        for m, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return m
        return len(weights) - 1

    def _part(self, m: int, job: Job, first: int, n: int | None) -> Job:
        temperature = self.spec.members[m].temperature
        sampling = job.sampling if temperature is None else Sampling(temperature, job.sampling.top_p)
        path = tuple(self._translated(m, step) for step in job.path)
        return replace(job, id=f"{job.id}.{first}", first=first, n=n, sampling=sampling, path=path)

    def _translated(self, m: int, step: Step) -> Step:
        """The step as this member can read it: with its ids if they are of the same vocabulary, else as text alone."""
        author = step.proposer
        known = author in self.names and self.tongues[self.names.index(author)] == self.tongues[m]
        return step if known else replace(step, ids=())


def tongues(proposers: Sequence[Any]) -> list[int]:
    """A number a member, equal where their tokenizers have the same vocabulary; members without one stand alone."""
    seen: list[dict[str, int] | None] = []
    numbers = []
    for proposer in proposers:
        tokenizer = getattr(proposer, "tokenizer", None)
        vocabulary = None if tokenizer is None else tokenizer.get_vocab()
        if vocabulary is None or vocabulary not in seen:
            seen.append(vocabulary)
        numbers.append(len(seen) - 1 if vocabulary is None else seen.index(vocabulary))
    return numbers
