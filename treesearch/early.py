"""Chains that are scored while others of their job are still drawn. Knows no tree, no clock and no model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from treesearch.backends.base import Scored
from treesearch.types import Chain, Job

Score = Callable[[str, Job, tuple[Chain, ...]], Awaitable[Scored]]  # id of the item, job, chains


@dataclass(slots=True)
class _Drawn:
    """A job that is drawn, and what is read of its chains: by number in the job, each with the score of its step."""

    job: Job
    chains: dict[int, tuple[Chain, asyncio.Task[Scored]]] = field(default_factory=dict)


class Early:
    """Is told of each chain, between `begin` and `end` of its job, and has it scored by `score`.

    A chain is known by what it is: if its job is drawn anew and another comes out, what was read does not count.
    """

    def __init__(self, score: Score) -> None:
        self._score = score
        self._drawn: dict[str, _Drawn] = {}

    def begin(self, job: Job) -> None:
        """Its proposer is about to be asked."""
        self._drawn[job.id] = _Drawn(job)

    def tell(self, job: Job, k: int, chain: Chain) -> None:
        """Chain `k` of this very job is there: another engine may have asked the same proposer for one of the same id."""
        drawn = self._drawn.get(job.id)
        if drawn is not None and drawn.job is job and k not in drawn.chains:
            drawn.chains[k] = chain, asyncio.create_task(self._read(job, k, chain))

    async def _read(self, job: Job, k: int, chain: Chain) -> Scored:
        return await self._score(f"{job.id}#{k}", job, (chain,))

    def told(self, job_id: str, chains: Sequence[Chain]) -> dict[int, asyncio.Task[Scored]]:
        """Those of these chains that are read early, by number."""
        known = self._drawn[job_id].chains if job_id in self._drawn else {}
        return {k: known[k][1] for k, chain in enumerate(chains) if k in known and known[k][0] == chain}

    async def end(self, job_id: str) -> None:
        """The job has its reply: what is still read of it is given up."""
        if job_id in self._drawn:
            tasks = [task for _, task in self._drawn.pop(job_id).chains.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
