"""A search as public implementations run it: a loop with a barrier after each level's drawing and after its scoring.

All that its searches ask for is drawn, then all of it is scored in one go, then the searches choose. Wishes, seeds and
so trees are those of the real manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from treesearch.backends.base import Scored
from treesearch.manager import Manager
from treesearch.types import Answer, Chain, Expansion, Job, Problem

Read = Callable[[Job, Chain], Awaitable[Chain]]  # the chain with its answer, if it has one


async def levels(
    manager: Manager,
    group: Sequence[Problem],
    proposers: Sequence[Any],
    scorers: Sequence[Any],
    read: Read | None = None,
) -> list[Answer]:
    """The answers to these problems, searched side by side, each bound to one proposer and one scorer."""
    home = {problem.id: k for k, problem in enumerate(group)}
    jobs = [job for problem in group for job in manager.open(problem, 0.0).jobs]
    while jobs:
        drawn = await _on_all(jobs, home, [p.propose for p in proposers], jobs)
        if read is not None:
            drawn = [tuple([await read(job, c) for c in chains]) for job, chains in zip(jobs, drawn, strict=True)]
        scored = await _on_all(jobs, home, [s.score for s in scorers], list(zip(jobs, drawn, strict=True)))
        outcomes = [
            manager.deliver(job.id, _reply(job, *it), 0.0) for job, *it in zip(jobs, drawn, scored, strict=True)
        ]
        jobs = [job for outcome in outcomes for job in outcome.jobs]
    return [manager.answer(problem.id, 0.0) for problem in group]


async def _on_all(jobs: Sequence[Job], home: dict[str, int], calls: Sequence[Any], items: Sequence[Any]) -> list[Any]:
    """Replies to the items of these jobs, in order, each from the replica its problem is bound to."""
    places = [home[job.problem.id] % len(calls) for job in jobs]
    replies = await asyncio.gather(
        *(call([i for i, p in zip(items, places, strict=True) if p == k]) for k, call in enumerate(calls))
    )
    streams = [iter(found) for found in replies]
    return [next(streams[place]) for place in places]


def _reply(job: Job, chains: Sequence[Chain], scored: Scored) -> Expansion:
    judged = tuple(
        tuple(step.scored(value) for step, value in zip(c, values, strict=True))
        for c, values in zip(chains, scored.scores, strict=True)
    )
    return Expansion(job.leaf, judged, scored=scored.tokens)
