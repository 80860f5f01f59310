"""Problems that may be long in coming, read in a thread of their own, so that nobody who runs searches waits for one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from treesearch.types import Problem

MOST = 64  # problems read before anybody asks for them


class Ahead(Iterator[Problem | None]):
    """The problems in order; None while there is none at the moment. Raises what reading them raised. Close it at the end.

    After a None, `ring` is called, from the thread, as soon as asking again has a point. It may be changed.
    """

    def __init__(self, problems: Iterator[Problem], ring: Callable[[], None]) -> None:
        self._problems, self.ring = problems, ring
        self._read: queue.Queue[Problem | Exception] = queue.Queue(MOST)
        self._waited = self._closed = False
        self._end: Exception | None = None
        # a daemon: one that waits for standard input ends with the process
        threading.Thread(target=self._work, name="problems", daemon=True).start()

    def __next__(self) -> Problem | None:
        if self._end is not None:
            raise self._end
        found = self._next()
        if found is None:
            self._waited = True
            found = self._next()  # it may have come before the thread could know that somebody waits
        if isinstance(found, Exception):
            self._end = found
            raise found
        return found

    def close(self) -> None:
        """Nobody wants any more; the thread ends when it has read the one it is at."""
        self._closed = True
        self._next()

    def _next(self) -> Problem | Exception | None:
        try:
            return self._read.get_nowait()
        except queue.Empty:
            return None

    def _work(self) -> None:
        try:
            for problem in self._problems:
                self._put(problem)
                if self._closed:
                    return
            self._put(StopIteration())
        except Exception as error:
            self._put(error)

    def _put(self, found: Problem | Exception) -> None:
        self._read.put(found)
        if self._waited:
            self._waited = False
            self.ring()
