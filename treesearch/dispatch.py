"""Which replica gets which job: credits, affinity, fairness. Pure: knows no clock, no loop, no backend.

A replica has as many credits as jobs are worth having in flight on it. A tree is at home on the replica whose cache holds
its prefix, and its jobs wait for that one, the oldest tree's first, so that trees end instead of all growing side by
side. A replica less than half busy with nothing of its own waiting takes over a whole tree that waits elsewhere. A suspect
(a job that was in flight when a replica died) runs on a replica only while no other suspect does.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator

NOWHERE = -1  # where jobs wait while there is no replica; it has no credit


class Dispatch:
    """Jobs that wait, and replicas with credits. Jobs are known by id "TREE/SEQ"; a replica's number is never reused."""

    def __init__(self) -> None:
        self.credits: dict[int, int] = {}
        self.free: dict[int, int] = {}
        self.suspect: dict[int, str] = {}  # replica -> the suspect that runs on it
        self._home: dict[str, int] = {}
        self._trees: Counter[int] = Counter()  # replica -> trees at home there
        self._age: dict[str, int] = {}
        self._queues: dict[int, _Queue] = {NOWHERE: _Queue()}
        self._suspects: deque[str] = deque()  # they wait for any replica
        self._born = 0
        self._count = 0  # jobs in queues
        self._slack = 0  # free credits of all replicas

    # Replicas

    def join(self, replica: int, credits: int) -> None:
        """A replica is ready for jobs; trees that had none to wait for get one."""
        self.credits[replica] = self.free[replica] = credits
        self._slack += credits
        self._queues[replica] = _Queue()
        self._rehome(NOWHERE)

    def leave(self, replica: int) -> None:
        """A replica is gone; what waited for it waits for another. What ran on it is its owner's to ask again."""
        if self.credits.pop(replica, None) is not None:
            self._slack -= self.free.pop(replica)
            self._rehome(replica)
            del self._queues[replica]

    # Jobs

    def add(self, job_id: str, suspect: bool = False) -> None:
        tree = self._born_by(job_id)
        if suspect:
            self._suspects.appendleft(job_id)  # what kills does so soon: it is among the newest
        else:
            self._queues[self._place(tree)].put(tree, self._age[tree], job_id)
            self._count += 1

    def at_once(self, job_id: str) -> int | None:
        """The replica that a job can be sent to without waiting: none, if any job waits or its home has no credit free."""
        if self._count or self._suspects:
            return None
        home = self.home(job_id)
        if not self.free.get(home):
            return None
        self._take(home)
        return home

    def drop(self, job_id: str) -> None:
        """A job nobody wants any more; it must still wait."""
        if job_id in self._suspects:
            self._suspects.remove(job_id)
        else:
            tree = _tree(job_id)
            self._queues[self._home[tree]].drop(tree, job_id)
            self._count -= 1

    def take(self) -> list[tuple[int, str]]:
        """(replica, job id) of all that can be sent now."""
        if not self._slack or not (self._count or self._suspects):
            return []
        sent = list(self._alone()) if self._suspects else []
        while self._count and self._slack:
            for replica, queue in self._queues.items():
                while self.free.get(replica) and queue:
                    self._count -= 1
                    self._take(replica)
                    sent.append((replica, queue.pop()))
            if not self._take_over():
                break
        return sent

    def done(self, replica: int, job_id: str) -> None:
        """The job left its replica, with whatever result."""
        if replica in self.free:
            self.free[replica] += 1
            self._slack += 1
        if self.suspect.get(replica) == job_id:
            del self.suspect[replica]

    def forget(self, tree: str) -> None:
        """The tree has ended: it has no home any more. None of its jobs may wait."""
        if tree in self._home:
            self._trees[self._home.pop(tree)] -= 1
        self._age.pop(tree, None)

    def home(self, job_id: str) -> int:
        """The replica where the job's tree is at home; NOWHERE while there is none."""
        home = self._home.get(_tree(job_id))
        return home if home in self.free else self._place(self._born_by(job_id))

    def suspects(self) -> list[str]:
        """Suspects that wait."""
        return list(self._suspects)

    def waiting(self) -> int:
        return len(self._suspects) + self._count

    def running(self) -> int:
        return sum(self.credits.values()) - self._slack

    def _born_by(self, job_id: str) -> str:
        """The job's tree; one that is new gets its age."""
        tree = _tree(job_id)
        if tree not in self._age:
            self._age[tree] = self._born
            self._born += 1
        return tree

    def _place(self, tree: str) -> int:
        """The tree's home; a new tree is at home where the load is least."""
        if self._home.get(tree) not in self.free:
            self._settle(tree, self._idlest())
        return self._home[tree]

    def _settle(self, tree: str, home: int) -> None:
        if tree in self._home:
            self._trees[self._home[tree]] -= 1
        self._home[tree] = home
        self._trees[home] += 1

    def _idlest(self) -> int:
        return min(self.free, key=self._load, default=NOWHERE)

    def _load(self, replica: int) -> tuple[float, float]:
        """Jobs there; where they are equally few, as on scorers that answer at once, trees that will bring more."""
        credits = self.credits[replica]
        jobs = credits - self.free[replica] + len(self._queues[replica])
        return jobs / credits, self._trees[replica] / credits

    def _alone(self) -> Iterator[tuple[int, str]]:
        for replica in self.free:
            if self._suspects and self.free[replica] and replica not in self.suspect:
                self.suspect[replica] = self._suspects[0]
                self._take(replica)
                yield replica, self._suspects.popleft()

    def _take_over(self) -> bool:
        """Move the youngest tree that waits in the longest queue to a replica that idles, if there are such."""
        idle = max(self.free, key=lambda r: self.free[r] / self.credits[r], default=NOWHERE)
        if idle == NOWHERE or 2 * self.free[idle] <= self.credits[idle]:
            return False
        longest = max(self._queues.values(), key=len)
        if not longest:
            return False
        self._move(longest, idle, longest.youngest())
        return True

    def _rehome(self, replica: int) -> None:
        queue = self._queues[replica]
        for tree in queue.trees():
            self._move(queue, self._idlest(), tree)

    def _move(self, queue: _Queue, to: int, tree: str) -> None:
        self._settle(tree, to)
        for job_id in queue.remove(tree):
            self._queues[to].put(tree, self._age[tree], job_id)

    def _take(self, replica: int) -> None:
        """One credit of it."""
        self.free[replica] -= 1
        self._slack -= 1


class _Queue:
    """Jobs that wait for one replica: oldest tree first, within a tree in order of arrival."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, None]] = {}  # tree -> its jobs, in order
        self._heap: list[tuple[int, str]] = []  # (age, tree); entries of trees that left are skipped
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, tree: str, age: int, job_id: str) -> None:
        if tree not in self._jobs:
            self._jobs[tree] = {}
            heapq.heappush(self._heap, (age, tree))
        self._jobs[tree][job_id] = None
        self._count += 1

    def pop(self) -> str:
        """The first job of the oldest tree; there must be one."""
        while self._heap[0][1] not in self._jobs:
            heapq.heappop(self._heap)
        tree = self._heap[0][1]
        job_id = next(iter(self._jobs[tree]))
        self.drop(tree, job_id)
        return job_id

    def drop(self, tree: str, job_id: str) -> None:
        jobs = self._jobs[tree]
        del jobs[job_id]
        self._count -= 1
        if not jobs:
            del self._jobs[tree]

    def trees(self) -> list[str]:
        """Oldest first."""
        return [tree for _, tree in sorted(set(self._heap)) if tree in self._jobs]

    def youngest(self) -> str:
        return max(entry for entry in self._heap if entry[1] in self._jobs)[1]

    def remove(self, tree: str) -> list[str]:
        """Take a tree's jobs out, in order."""
        jobs = list(self._jobs.pop(tree))
        self._count -= len(jobs)
        return jobs


def _tree(job_id: str) -> str:
    return job_id.rpartition("/")[0]
