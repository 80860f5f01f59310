"""A GPU under several engines: their steps go on side by side, each slower the more there are. Knows no model."""

from __future__ import annotations

import asyncio


class Card:
    """Work of k engines under way at once goes at 1/k of its speed, as time slices share a GPU between processes."""

    def __init__(self) -> None:
        self.busy = 0.0  # seconds
        self._left: dict[asyncio.Future[None], float] = {}  # work -> seconds it would still take alone
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def work(self, seconds: float) -> None:
        """Returns when work that would take `seconds` alone is done."""
        self._advance()
        done = asyncio.get_running_loop().create_future()
        self._left[done] = seconds
        self._plan()
        await done

    def _advance(self) -> None:
        """Account for the time since the last change."""
        now = asyncio.get_running_loop().time()
        if self._left:
            self.busy += now - self._since
            share = (now - self._since) / len(self._left)
            for work in self._left:
                self._left[work] -= share
        self._since = now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._left:
            wait = max(0.0, min(self._left.values())) * len(self._left)
            self._timer = asyncio.get_running_loop().call_later(wait, self._end)

    def _end(self) -> None:
        """The work that has least left is done, by the timer that was set for it."""
        self._advance()
        least = min(self._left.values())
        for work in [work for work, left in self._left.items() if left <= least]:
            del self._left[work]
            work.set_result(None)
        self._plan()
