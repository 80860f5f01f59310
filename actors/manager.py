"""The tree manager's actor: an engine whose replicas are elsewhere and whose store is the driver.

The driver keeps one call open here (`poll`). It brings problems with their journals and says what is committed; it is
answered with replies to commit, finished lines, and what the driver must know. An answer leaves only after the replies
behind it are committed. A manager that was given up cannot write: rows come only as the answer to the driver's own call,
and carry the epoch of the lease under which the problem was handed out. A problem whose rows are refused is dropped.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from actors.link import Link
from actors.metrics import Metrics
from treesearch import config as configs
from treesearch.backends.none import NoModel
from treesearch.checker import Checker
from treesearch.config import Data
from treesearch.engine import Engine
from treesearch.errors import FrameError, RunError, told
from treesearch.manager import Close, Reply
from treesearch.pool import Death, Pool, Replica, ReplicaLost
from treesearch.run import result, settings
from treesearch.store import Packed, Row, packed, unpack_close, unpack_reply
from treesearch.tasks import load_task
from treesearch.types import Problem
from treesearch.wire import seal, unseal

PREFETCH = 32  # problems waiting here, so that none of the replicas waits for the driver
POLL_GAP, POLL_BEAT = 0.1, 0.5  # seconds: no answer sooner, one at the latest
LINE_GAP, MOST_GAP = (
    0.0125,
    0.05,
)  # seconds between two calls, for each line there is: 80 a second on few lines together
TOLD = 32  # replicas whose counters a poll brings; 64 managers that tell of 1,024 each time leave a driver no time for rows
GARBAGE = 20_000  # new objects before Python looks for cycles: trees have none, and at 700 it mostly reads trees


class Ledger:
    """The driver's store as the engine sees it: journals come with the problems, rows wait until they are committed."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring = ring  # tells, from any thread, that there is something to send
        self.notes: list[str] = []
        self.given: dict[str, tuple[int, list[Reply], Close | None]] = {}  # epoch of the lease, journal, end
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[list[Packed], Future[Collection[str]]]] = {}  # batch number -> rows, committed
        self._count = self._sent = 0

    def lease(self, problem_id: str) -> int:
        return self.given[problem_id][0]

    def load(self, problem_id: str) -> tuple[list[Reply], Close | None]:
        _, replies, close = self.given.pop(problem_id)
        return replies, close

    def append(self, rows: Iterable[Row]) -> Future[Collection[str]]:
        """Done when the driver has committed the rows. Called from the engine's writer thread."""
        frames = [packed(row) for row in rows]
        committed: Future[Collection[str]] = Future()
        with self._lock:
            self._count += 1
            self._waiting[self._count] = frames, committed
        self.ring()
        return committed

    def unsent(self) -> tuple[int, list[Packed]]:
        """(number of the newest batch, rows) not yet given to the driver."""
        with self._lock:
            new = [self._waiting[number][0] for number in range(self._sent + 1, self._count + 1)]
            self._sent = self._count
        return self._sent, [row for rows in new for row in rows]

    def acknowledge(self, number: int, refused: Collection[str]) -> None:
        """All batches up to this one are committed, but for rows of problems that somebody else has been given."""
        with self._lock:
            done = [self._waiting.pop(n) for n in sorted(self._waiting) if n <= number]
        for rows, committed in done:
            committed.set_result({row[0] for row in rows} & set(refused))

    def close(self) -> None:
        with self._lock:
            open_ = [committed for _, committed in self._waiting.values()]
            self._waiting.clear()
        for committed in open_:
            committed.set_exception(RunError("the driver is gone"))


class Feed(Iterator[Problem | None]):
    """Problems as they come from the driver, without an end; None while there is none at the moment."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring = ring
        self.waiting: deque[Problem] = deque()

    def __next__(self) -> Problem | None:
        if self.waiting:
            if self.want() > PREFETCH // 2:
                self.ring()
            return self.waiting.popleft()
        return None

    def want(self) -> int:
        """Problems to send with the next call."""
        return max(0, PREFETCH - len(self.waiting))


class TreeManager:
    """Runs its share of a run's searches. `managers` share the credits of all replicas evenly."""

    def __init__(self, data: Data, name: str, managers: int) -> None:
        config = self.config = configs.build([data])
        self.name, self.managers = name, managers
        self.ledger, self.feed, self.checker = Ledger(self._ring), Feed(self._ring), Checker()
        self.links: dict[tuple[str, int], Link] = {}
        self.engine = Engine(
            config.search,
            load_task(config.task),
            [],
            None if isinstance(config.scorer, NoModel) else [],
            None if isinstance(config.outcome, NoModel) else [],
            settings=replace(settings(config), timeout=config.cluster.timeout),
            checker=self.checker,
            store=self.ledger,
        )
        self.rows: list[Data] = []
        self.lost: list[tuple[str, int, str, Death]] = []  # role, epoch, why, of what
        self._gone: dict[tuple[Pool, int], int] = {}  # a pool's replica that is lost -> its epoch
        self.garbled: list[str] = []  # problems to give back, for their journals hold frames that are no replies
        self.error: str | None = None
        self.past_calls = 0  # of lines that are closed
        self._told = 0  # lines whose counters the last polls have brought
        self.done = self.wasted = 0
        self.metrics: Metrics | None = None
        self._bell = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._search: asyncio.Task[None] | None = None

    # Replicas

    async def join(
        self,
        role: str,
        epoch: int,
        handle: Any,
        credits: int,
        enough: int | None = None,
        keeps: int | None = None,
        card: str | None = None,
    ) -> None:
        """A replica is ready: give it work, within this manager's share of its credits. Told twice, it joins once.

        `enough`: tokens that keep it busy, whoever sends them; `keeps`: tokens that its cache holds, whosever they are;
        `card`: the one that it shares with others, if it does.
        """
        if (role, epoch) in self.links:
            return
        link = Link(
            handle.exchange.remote,
            client=self.name,
            role=role,
            epoch=epoch,
            silence=self.config.cluster.silence,
            gap=self._gap,
            lost=lambda error: self._lose(role, epoch, error),
        )
        self.links[role, epoch] = link
        enough, keeps = (tokens and max(1, tokens // self.managers) for tokens in (enough, keeps))
        rest = link.rest if role == "proposer" else None
        credits = max(1, credits // self.managers)
        replica = Replica(link.call, credits, link.abort, link.trial, enough, keeps, rest, card)
        link.number = self._pool(role).join(replica)
        self.engine.admit()

    async def leave(self, role: str, epoch: int, reason: str, death: Death) -> None:
        """The driver knows that a replica is gone."""
        if (role, epoch) in self.links:
            self.links[role, epoch].lose(ReplicaLost(reason, death))

    async def shut(self, role: str, reason: str) -> None:
        """No replica of this role will come again: the run ends, resumable."""
        self._pool(role).shut(RunError(reason))

    def _lose(self, role: str, epoch: int, error: ReplicaLost) -> None:
        link = self.links.pop((role, epoch))
        self.past_calls += link.calls
        self._pool(role).leave(link.number)
        if role == "scorer":
            self.engine.backpressure.release(link.number)
            self.engine.residents.leave(link.number)
        self._gone[self._pool(role), link.number] = epoch
        self.lost.append((role, epoch, str(error), error.death))
        self._ring()

    def _pool(self, role: str) -> Pool:
        pools = {"proposer": self.engine.proposers, "scorer": self.engine.scorers, "outcome": self.engine.outcomes}
        pool = pools[role]
        assert pool is not None, f"a replica of role {role} in a run that has none"
        return pool

    def _gap(self) -> float:
        linger = self.config.cluster.linger
        return min(MOST_GAP, LINE_GAP * len(self.links) * self.managers) if linger is None else linger

    # The driver

    async def pid(self) -> int:
        return os.getpid()

    async def poll(self, frame: bytes) -> bytes:
        """Take problems and acknowledgements; give what there is to tell: within half a second, or soon if more follow."""
        committed, refused, problems, more = unseal(frame)
        self.ledger.acknowledge(committed, refused)
        self._take(problems)
        if self._search is None:
            self._loop = asyncio.get_running_loop()
            self.metrics = Metrics("manager", self.name)
            gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])
            self._search = asyncio.create_task(self._run())
        linger = self.config.cluster.linger
        await asyncio.sleep(POLL_GAP if linger is None else linger)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), 0 if more else POLL_BEAT)
        self._bell.clear()
        number, unsent = self.ledger.unsent()
        (rows, self.rows), (lost, self.lost) = (self.rows, []), (self.lost, [])
        garbled, self.garbled = self.garbled, []
        stats = self.stats()
        self._measure(stats)
        explained = [self._gone.pop((pool, gone)) for pool in self.engine.pools() for gone in pool.explained()]
        return seal([number, unsent, rows, self.feed.want(), stats, lost, explained, garbled, self.error])

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of this manager, and the own counters of the replicas whose turn it is, by epoch."""
        stats, pools = self.engine.stats, self.engine.pools()
        return {
            "expansions": stats.expansions,
            "scores": stats.scores,
            "generated": stats.generated,
            "scored": stats.scored,
            "failed": stats.failed,
            "retries": sum(pool.retries for pool in pools),
            "waiting": sum(pool.dispatch.waiting() for pool in pools),
            "live": len(self.engine.manager.live),
            "done": self.done,
            "calls": self.past_calls + sum(link.calls for link in self.links.values()),
            "usage": self._usage(),
        }

    def _usage(self) -> list[tuple[str, int, dict[str, int]]]:
        """(role, epoch, counters) of the replicas whose turn it is: of all, where they are few."""
        some = list(self.links.items())[self._told : self._told + TOLD]
        self._told = self._told + TOLD if self._told + TOLD < len(self.links) else 0
        return [(role, epoch, dict(link.usage)) for (role, epoch), link in some if link.usage]

    def _measure(self, stats: Mapping[str, Any]) -> None:
        """Tell Prometheus."""
        if self.metrics is None or not self.metrics.due():
            return
        self.metrics.record({
            "jobs_waiting": stats["waiting"], "trees_live": stats["live"], "trees_done": stats["done"],
            "tokens_generated": stats["generated"], "tokens_scored": stats["scored"], "tokens_wasted": self.wasted,
            "scores": stats["scores"], "retries": stats["retries"], "calls": stats["calls"],
            "expansions": stats["expansions"],
        })  # fmt: skip

    def _take(self, problems: Sequence[Any]) -> None:
        for row, epoch, replies, close in problems:
            problem = Problem(*row)
            try:
                journal = [unpack_reply(reply) for reply in replies]
            except FrameError:
                self.garbled.append(problem.id)
                continue
            end = None if close is None else unpack_close(close, len(journal))
            self.ledger.given[problem.id] = epoch, journal, end
            self.feed.waiting.append(problem)
        if problems:
            self.engine.admit()

    def _ring(self) -> None:
        """There is something to send; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._bell.set)

    async def _run(self) -> None:
        try:
            async with aclosing(self.engine.answers(self.feed)) as answers:
                async for answer in answers:
                    self.rows.append(await result(answer, self.config, self.engine.task, self.checker))
                    self.done += 1
                    self.wasted += answer.tokens_wasted or 0
                    self._ring()
        except Exception as error:
            self.error = str(error) if isinstance(error, RunError) else told(error)
            self._ring()
