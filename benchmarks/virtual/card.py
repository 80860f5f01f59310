"""A GPU under several engines: their steps go on side by side, each slower the more there are. Knows no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Card:
    """Work of k engines under way at once goes at 1/k of its speed, as time slices share a GPU between processes."""

    def __init__(self) -> None:
        self.busy = 0.0  # seconds
        self._left: dict[Callable[[], None], float] = {}  # what to call at its end -> seconds it would still take alone
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def work(self, seconds: float, done: Callable[[], None]) -> None:
        """Calls `done` when work that would take `seconds` alone is done."""
        self._account()
        self._left[done] = seconds
        self._plan()

    def _account(self) -> None:
        """What has been done since the last change."""
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
        """The work that has least left is done: the timer was set for it."""
        self._account()
        least = min(self._left.values())
        ended = [work for work, left in self._left.items() if left <= least]
        for work in ended:
            del self._left[work]
        self._plan()
        for work in ended:
            work()
