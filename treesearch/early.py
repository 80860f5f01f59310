"""Chains that are scored while others of their job are still drawn. Knows no tree, no clock and no model.

A step of a scorer's engine reads all of its weights, however few tokens it computes. So chains wait until they fill a step
well, or go along with a job whose chains are all there and whose scores are waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from treesearch.backends.base import Scored
from treesearch.types import Chain, Job

Score = Callable[[str, Job, tuple[Chain, ...]], Awaitable[Scored]]  # id of the item, job, chains
WORTH = 512  # tokens for which a step takes longer to compute than to read weights, on any GPU: about 170 balance on an H200


@dataclass(slots=True)
class _Drawn:
    """A job that is drawn, and what is read of its chains: by number in the job, each with the score of its step."""

    job: Job
    chains: dict[int, tuple[Chain, asyncio.Future[Scored]]] = field(default_factory=dict)


class Early:
    """Is told of each chain, between `begin` and `told` of its job, and has it scored by `score`. Scorers are known by number.

    A chain is known by what it is: if its job is drawn anew and another comes out, what was read does not count.
    """

    def __init__(self, score: Score) -> None:
        self._score = score
        self._drawing: dict[str, _Drawn] = {}
        self._read: dict[str, _Drawn] = {}  # all chains of these are there
        self._waiting: dict[int, list[tuple[Job, int, Chain]]] = {}  # by scorer

    def begin(self, job: Job) -> None:
        """Its proposer is about to be asked."""
        self._drawing[job.id] = _Drawn(job)

    def tell(self, scorer: int, job: Job, k: int, chain: Chain) -> None:
        """Chain `k` of this very job is there: another engine may have asked the same proposer for one of the same id."""
        drawn = self._drawing.get(job.id)
        if drawn is None or drawn.job is not job:
            return
        waiting = self._waiting.setdefault(scorer, [])
        waiting.append((job, k, chain))
        if tokens_in([chain for _, _, chain in waiting]) >= WORTH:
            self.send(scorer)

    def send(self, scorer: int) -> None:
        """Have the scorer read what waits for it."""
        for job, k, chain in self._waiting.pop(scorer, ()):
            drawn = self._drawing.get(job.id)
            if drawn is not None and drawn.job is job and k not in drawn.chains:
                item = self._score(f"{job.id}#{k}", job, (chain,))
                drawn.chains[k] = chain, asyncio.ensure_future(item)

    def told(self, job_id: str, chains: Sequence[Chain]) -> dict[int, asyncio.Future[Scored]]:
        """All chains of the job are there: those that are read already, by number."""
        drawn = self._drawing.pop(job_id, None)
        if drawn is None:
            return {}
        self._read[job_id], known = drawn, drawn.chains
        return {k: known[k][1] for k, chain in enumerate(chains) if k in known and known[k][0] == chain}

    async def end(self, job_id: str) -> None:
        """The job has its reply: what is still read of it is given up."""
        drawn = self._drawing.pop(job_id, None) or self._read.pop(job_id, None)
        tasks = [task for _, task in drawn.chains.values()] if drawn is not None else []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def tokens_in(chains: Sequence[Chain]) -> int:
    """Tokens of new steps, as far as they are known."""
    return sum([step.tokens or 0 for chain in chains for step in chain])
