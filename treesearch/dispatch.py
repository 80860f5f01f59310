"""Which replica gets which job: credits, affinity, fairness. Pure: knows no clock, no loop, no backend.

A replica has as many credits as jobs are worth having in flight on it. A job goes first the nearer it is to its tree's
turn (the oldest undelivered job of each tree before the second oldest of any), then in order of arrival. A tree keeps to
the replica that holds its prefix, unless that one has no credit and another has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Dispatch:
    """Jobs that wait, and replicas with credits. Jobs are known by id "TREE/SEQ"."""

    def __init__(self, credits: Iterable[int]) -> None:
        self.free = dict(enumerate(credits))
        self.waiting: list[tuple[int, int, str]] = []  # heap of (rank in its tree, arrival, job id)
        self.home: dict[str, int] = {}  # tree -> replica with its prefix
        self._open: dict[str, int] = {}  # tree -> its jobs that wait or run
        self._gone: set[str] = set()
        self._arrivals = 0

    def add(self, job_id: str) -> None:
        tree = job_id.rpartition("/")[0]
        rank = self._open.get(tree, 0)
        self._open[tree] = rank + 1
        heapq.heappush(self.waiting, (rank, self._arrivals, job_id))
        self._arrivals += 1

    def drop(self, job_id: str) -> None:
        """A job nobody wants any more; it must still wait."""
        self._gone.add(job_id)
        self._left(job_id)

    def take(self) -> list[tuple[int, str]]:
        """(replica, job id) of all that can be sent now."""
        sent = []
        while self.waiting and any(self.free.values()):
            _, _, job_id = heapq.heappop(self.waiting)
            if job_id in self._gone:
                self._gone.discard(job_id)
                continue
            sent.append((self._place(job_id.rpartition("/")[0]), job_id))
        return sent

    def done(self, replica: int, job_id: str) -> None:
        """The job left its replica, with whatever result."""
        if replica in self.free:
            self.free[replica] += 1
        self._left(job_id)

    def _place(self, tree: str) -> int:
        replica = self.home.get(tree)
        if replica is None or not self.free.get(replica):
            replica = max(self.free, key=lambda r: self.free[r])
        self.home[tree] = replica
        self.free[replica] -= 1
        return replica

    def _left(self, job_id: str) -> None:
        tree = job_id.rpartition("/")[0]
        self._open[tree] -= 1
        if not self._open[tree]:
            del self._open[tree]
            self.home.pop(tree, None)
