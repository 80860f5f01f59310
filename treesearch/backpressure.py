"""When new steps are drawn: not for a scorer that has enough to read. Knows no tree, no clock and no model.

Where both share a GPU, each step of the proposer's engine reads all of its weights, however few chains it draws, and takes
the GPU from the scorer meanwhile. So jobs wait while their scorer has enough to read, then begin together: the same chains
in fewer, fuller batches. A scorer on a GPU of its own would lose by it. Only when something is sent depends on this, never
what comes of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from treesearch.types import Chain


class Backpressure:
    """Tokens that scorers have to read, and jobs that wait until it is less than enough. Scorers are known by number."""

    def __init__(self) -> None:
        self._unread: Counter[int] = Counter()  # scorer -> tokens
        self._held: dict[int, dict[str, tuple[int, asyncio.Future[None]]]] = {}  # scorer -> job id -> priority, turn

    async def turn(self, scorer: int, enough: int | None, job_id: str, priority: int) -> None:
        """Returns when the scorer has less than `enough` tokens to read or is gone (None: at once)."""
        if not enough or self._unread[scorer] < enough:
            return
        held = self._held.setdefault(scorer, {})
        held[job_id] = priority, asyncio.get_running_loop().create_future()
        try:
            await held[job_id][1]
        finally:
            held.pop(job_id, None)

    @contextmanager
    def reading(self, scorer: int, enough: int | None, tokens: int) -> Iterator[None]:
        """For this time the scorer has so many tokens more to read; those that wait for the end of it go then."""
        self._unread[scorer] += tokens
        try:
            yield
        finally:
            self._unread[scorer] -= tokens
            if enough is not None and self._unread[scorer] < enough:
                self.release(scorer)

    def release(self, scorer: int) -> None:
        """Jobs that wait for this scorer go, the oldest first: it has little to read, or is gone."""
        for _, turn in sorted(self._held.pop(scorer, {}).values(), key=lambda held: held[0]):
            if not turn.done():
                turn.set_result(None)

    def waits(self, job_id: str) -> bool:
        """Whether the job waits here."""
        return any(job_id in held for held in self._held.values())


def tokens_in(chains: Sequence[Chain]) -> int:
    """Tokens of new steps, as far as they are known."""
    return sum([step.tokens or 0 for chain in chains for step in chain])
