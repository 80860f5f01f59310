"""A run on Ray: starts replicas and managers, replaces those that die, hands out problems, commits what comes back.

The driver of the run is the one writer of its folder. Ray restarts nothing by itself: each life of a replica is an actor
of its own with a new epoch, so one that was only cut off can never be mistaken for its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.link import cause, memory_ended, node_died
from actors.manager import TreeManager
from actors.placement import Bundle, Slot, plan
from actors.proposer import Proposer
from actors.scorer import Scorer
from treesearch.config import Config
from treesearch.errors import ConfigError, RunError
from treesearch.manager import Stats, add
from treesearch.pool import Death
from treesearch.results import Row
from treesearch.run import Todo, hit_rate
from treesearch.store import Store, pack_close
from treesearch.tasks.base import Task
from treesearch.types import Problem
from treesearch.wire import problem_row, seal, unseal

LONG = 600.0  # seconds after which a death is not one of a row
PATIENCE = 30.0  # seconds for a replica to find its resources before the user is told what it waits for
ENDED = (RayActorError, OutOfMemoryError, ActorUnschedulableError)  # what calls to a process that is gone come to
REPLAYED = 2_000  # replies in the journals that a manager is given at once, more only where one problem has more
Say = Callable[[str], None]


def connect(address: str | None) -> None:
    """Join or start Ray: `address` as given; without one the cluster of the Ray job we are in, else a local Ray of our own.

    Raises RunError if there is nothing at the address, KeyboardInterrupt at a SIGTERM.
    """
    inside_a_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_ADDRESS" in os.environ
    where = address or ("auto" if inside_a_job else "local")
    given: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    try:
        ray.init(address=where, logging_level=logging.WARNING, **given)
    except Exception as error:  # a Ray that starts too slowly on a busy machine raises just that
        raise RunError(
            f"no Ray cluster at {where!r}: {cause(error)}; start one with `ray start --head`, give another "
            "--ray-address, or leave it out for a local Ray"
        ) from error
    except SystemExit:  # what Ray's handler of SIGTERM makes of it
        raise KeyboardInterrupt from None


@dataclass(slots=True)
class _Life:
    """One life of a replica that is ready."""

    slot: Slot
    handle: Any
    credits: int
    pid: int
    host: str
    enough: int | None  # tokens that keep it busy, where it shares its card
    keeps: int | None  # tokens that its cache holds
    card: str | None  # which it shares
    ended: str = ""  # why, if a manager gave it up


@dataclass(slots=True)
class _Manager:
    """One life of a manager, and the problems it holds."""

    handle: Any
    held: dict[str, Problem] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Deaths:
    """Deaths in a row of whoever holds one place, `limit` of them borne."""

    limit: int
    count: int = 0

    def borne(self, lived: float, own: bool) -> bool:
        """Count one after so many seconds of life; whether another life may follow.

        A lost machine is nobody's own fault and not counted; one that lived long starts anew with no deaths.
        """
        self.count = (self.count if lived < LONG else 0) + own
        return self.count <= self.limit

    def excuse(self) -> None:
        """Do not count one death, which may be counted already or be about to: a request is to blame for it."""
        self.count -= 1


class Cluster:
    """The driver of a run whose models and searches lie in actors. `say` tells the user what happened to them."""

    def __init__(self, config: Config, task: Task, store: Store, say: Say) -> None:
        self.config, self.store, self.say = config, store, say
        self.lives: dict[int, _Life] = {}  # epoch -> replica
        self.managers: dict[int, _Manager] = {}
        self._usage: dict[int, tuple[str, dict[str, int]]] = {}
        self._epochs = itertools.count(1)
        self._deaths: dict[int, Deaths] = {}  # epoch of a replica -> those of its slot
        self._open: dict[str, int] = {}  # role -> slots that live or may come back
        self._started: set[str] = set()  # roles of which a replica has been ready
        self._unable: dict[str, set[int]] = {}  # role -> slots of which a life could not start
        self._halved: set[str] = set()  # slots whose replica ended for want of memory, by name
        self._source: Iterator[Problem | None] = iter(())
        self._unread: int | None = 0  # problems that the source still has; None: nobody knows
        self._returned: deque[Problem] = deque()  # of managers that died
        self._under_way = 0  # problems read that have no line yet
        self._ended = False  # the source has no more
        self._out: asyncio.Queue[Row | Exception | None] = asyncio.Queue()
        self._groups: dict[int, PlacementGroup] = {}  # id of a bundle -> its place
        self._writing = asyncio.Lock()
        self._calls = 0

    # What the run asks of its driver

    @property
    def stats(self) -> Stats:
        """Counters of all managers together."""
        total = Stats()
        for stats in (manager.stats for manager in self.managers.values() if manager.stats):
            total.expansions += stats["expansions"]
            total.generated = add(total.generated, stats["generated"])
            total.scored = add(total.scored, stats["scored"])
            total.failed += stats["failed"]
        return total

    @property
    def calls(self) -> int:
        """Ray calls so far that carried work."""
        return self._calls + sum(manager.stats.get("calls", 0) for manager in self.managers.values())

    def prefix_hit_rate(self) -> float | None:
        return hit_rate([usage for role, usage in self._usage.values() if role == "proposer"])

    async def rows(self, todo: Todo) -> AsyncGenerator[Row, None]:
        """A line for each problem, in order of completion, committed. Raises RunError if the run cannot go on."""
        self._unread = todo.count
        bundles = plan(self.config)
        for slot in (slot for bundle in bundles for slot in bundle.slots):
            self._open[slot.role] = self._open.get(slot.role, 0) + 1
        self._source = todo.reading(lambda: None)  # managers ask again soon, whether there is more or not
        tasks = [self._start(self._manage(k)) for k in range(self.config.cluster.managers)]
        tasks += [self._start(self._keep(bundle, slot, lock)) for bundle, slot, lock in _locked(bundles)]
        try:
            while not self._done():
                item = await self._out.get()
                if isinstance(item, Exception):
                    raise item
                if item is not None:
                    self._under_way -= 1
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for group in self._groups.values():
                remove_placement_group(group)

    def _done(self) -> bool:
        """Whether every problem has its line."""
        return (self._ended or self._unread == 0) and not self._under_way

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task whose failure ends the run."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._out.put_nowait(error)

        return asyncio.create_task(guarded())

    # Replicas

    async def _keep(self, bundle: Bundle, slot: Slot, lock: asyncio.Lock) -> None:
        """Keep one slot filled: start a replica, wait for its end, start another, up to the limit of deaths in a row."""
        group, deaths, going = self._group(bundle), Deaths(self.config.cluster.restarts), True
        while going:
            born = _now()
            reason, own = await self._live(slot, group, lock, deaths)
            going = deaths.borne(_now() - born, own)
            again = f"starting another ({deaths.count} of {deaths.limit})" if going else "giving it up"
            self.say(f"{slot.name} died ({reason}); {again}")
        self._open[slot.role] -= 1
        if not self._open[slot.role]:
            raise RunError(f"no {slot.role} is left: {slot.name} died {deaths.count} times, the last time: {reason}")

    async def _live(
        self, slot: Slot, group: PlacementGroup | None, lock: asyncio.Lock, deaths: Deaths
    ) -> tuple[str, bool]:
        """One life of a replica; returns why it ended, and whether that was its own fault. Raises ConfigError."""
        epoch, actor, life = next(self._epochs), None, None
        death: Death = "silent"
        self._deaths[epoch] = deaths
        try:
            async with lock:
                actor = self._actor(slot, group).remote(
                    self.config.resolved(), slot.role, slot.number, epoch, slot.gpus or None
                )
                life = await self._ready(slot, epoch, actor, None if group is None else group.id.hex())
            await actor.stand.remote()
            raise AssertionError("a replica's call that never returns has returned")
        except RayTaskError as error:
            self._see_whether_any_can_start(slot, error)
            if isinstance(error.cause, ConfigError):
                raise ConfigError(str(error.cause)) from None
            reason, own = f"cannot start: {cause(error.cause or error)}", True
        except ENDED as error:
            reason, own = (life and life.ended) or cause(error), not node_died(error)
            death = "silent" if own and not memory_ended(error) else "other"
            if memory_ended(error) and life is not None:
                self._halve(life)
        finally:
            _kill(actor)
        if self.lives.pop(epoch, None) is not None:
            self._tell(slot, epoch, reason, death)
        return reason, own

    def _see_whether_any_can_start(self, slot: Slot, error: RayTaskError) -> None:
        """Raise RunError once each slot of a role has failed to start and none ever did: trying again costs a load each."""
        unable = self._unable.setdefault(slot.role, set())
        unable.add(slot.number)
        own = not isinstance(error.cause, ConfigError)  # those say by themselves what is wrong
        if own and slot.role not in self._started and len(unable) >= self._open[slot.role]:
            raise RunError(f"no {slot.role} can start: {cause(error.cause or error)}")

    def _halve(self, life: _Life) -> None:
        """Its successors get half as many jobs at a time; once, and then it is for the user to make room."""
        what = f"{life.slot.name} ran out of its machine's memory with up to {life.credits} jobs at once"
        if life.slot.name not in self._halved and life.credits > 1:
            self._halved.add(life.slot.name)
            self.say(f"{what}: {life.credits // 2} from now on")
        else:
            self.say(f"{what}, again: lower its max_batch or max_num_seqs, or place fewer replicas on a machine")

    def _actor(self, slot: Slot, group: PlacementGroup | None) -> Any:
        cls = Proposer if slot.role == "proposer" else Scorer
        where = (
            PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0) if group is not None else "SPREAD"
        )
        resources = {name: amount for name, amount in slot.resources.items() if name not in ("CPU", "GPU", "memory")}
        given = {"num_cpus": slot.resources.get("CPU", 0), "num_gpus": slot.gpus, "resources": resources or None}
        if "memory" in slot.resources:
            given["memory"] = slot.resources["memory"]
        return ray.remote(cls).options(scheduling_strategy=where, max_concurrency=10_000, max_restarts=0, **given)

    def _group(self, bundle: Bundle) -> PlacementGroup | None:
        """Slots that share a card get it as one bundle; others are placed by Ray, each by itself."""
        if len(bundle.slots) < 2:
            return None
        if id(bundle) not in self._groups:
            self._groups[id(bundle)] = placement_group([bundle.resources()])
        return self._groups[id(bundle)]

    async def _ready(self, slot: Slot, epoch: int, actor: Any, card: str | None) -> _Life:
        """Wait until the model is loaded; tell the managers, and the user if it takes long to find a place.

        `card`: the one that it shares with another engine. Only there are proposers held back while it has enough.
        """
        loading = asyncio.ensure_future(_awaited(actor.ready.remote()))
        try:
            done, _ = await asyncio.wait([loading], timeout=PATIENCE)
            if not done:
                need = {"GPU": slot.gpus, **slot.resources} if slot.gpus else dict(slot.resources)
                self.say(f"{slot.name} is not ready yet (loading its model, or waiting for {need or 'a process'})")
            info = await loading
            self._started.add(slot.role)
        finally:
            loading.cancel()
        credits = info["credits"] // 2 if slot.name in self._halved else info["credits"]
        enough, keeps = info["enough"] if card is not None else None, info["keeps"]
        life = self.lives[epoch] = _Life(slot, actor, credits, info["pid"], info["host"], enough, keeps, card)
        await asyncio.gather(*(self._join(m, epoch, life) for m in self.managers.values()), return_exceptions=True)
        return life

    async def _join(self, manager: _Manager, epoch: int, life: _Life) -> None:
        told = life.credits, life.enough, life.keeps, life.card
        await manager.handle.join.remote(life.slot.role, epoch, life.handle, *told)

    def _tell(self, slot: Slot, epoch: int, reason: str, death: Death) -> None:
        """Let all managers know that a replica is gone."""
        for manager in self.managers.values():
            manager.handle.leave.remote(slot.role, epoch, reason, death)

    def _lost(self, epoch: int, reason: str, death: Death) -> None:
        """A manager gave this replica up: end it for certain, even if it is only frozen or cut off."""
        life = self.lives.pop(epoch, None)
        if life is not None:
            life.ended = reason
            self.say(f"{life.slot.name} is lost ({reason}); its jobs go elsewhere")
            self._tell(life.slot, epoch, reason, death)
            _kill(life.handle)
            if life.host == os.uname().nodename:
                _kill_process(life.pid)

    def _excuse(self, epoch: int) -> None:
        """A manager has found the prompt that this replica died of; others may find theirs."""
        if (deaths := self._deaths.pop(epoch, None)) is not None:
            deaths.excuse()

    # Managers

    async def _manage(self, number: int) -> None:
        """Keep one manager: start it, serve it, and start another if it dies, up to the limit of deaths in a row."""
        deaths = Deaths(self.config.cluster.restarts)
        for life in itertools.count():
            born, manager = _now(), _Manager(self._searcher(number, f"manager-{number}-{life}"))
            try:
                await manager.handle.pid.remote()  # until its process has started, silence means nothing
                self.managers[number] = manager  # from here on, replicas that become ready join it by themselves
                await asyncio.gather(*(self._join(manager, epoch, life) for epoch, life in list(self.lives.items())))
                await self._serve(manager)
                return
            except ENDED as error:
                reason, own = cause(error), not node_died(error)
            except TimeoutError:
                reason, own = f"no word for {self.config.cluster.silence:g} s", True
            finally:
                _kill(manager.handle)
            self._bury(number, manager)
            self.say(f"manager {number} died ({reason}); its {len(manager.held)} problems go on from the journal")
            if not deaths.borne(_now() - born, own):
                raise RunError(f"manager {number} died {deaths.count} times, the last time: {reason}")

    def _searcher(self, number: int, name: str) -> Any:
        """The actor of a manager."""
        where = _beside_driver() if number < (os.cpu_count() or 1) else "SPREAD"
        actor = ray.remote(TreeManager).options(
            num_cpus=0, max_concurrency=1000, max_restarts=0, scheduling_strategy=where
        )
        return actor.remote(self.config.resolved(), name, self.config.cluster.managers)

    def _bury(self, number: int, manager: _Manager) -> None:
        """Keep what a manager that died leaves: its problems, and how often it called."""
        self._returned.extend(manager.held.values())
        self.managers.pop(number, None)
        self._calls += manager.stats.get("calls", 0)

    async def _serve(self, manager: _Manager) -> None:
        """Bring it problems and acknowledgements, commit its rows, take its lines, until nothing is left to do."""
        committed, want = 0, 1
        refused: list[str] = []
        while not self._done():
            problems, more = await self._handed(manager, want)
            self._calls += 1
            async with asyncio.timeout(self.config.cluster.silence):  # unlike wait_for, it never swallows an interrupt
                reply = unseal(await manager.handle.poll.remote(seal([committed, refused, problems, more])))
            batch, rows, lines, want, manager.stats, lost, explained, garbled, error = reply
            refused = []
            if rows:
                async with self._writing:
                    refused = sorted(await asyncio.to_thread(self.store.commit, rows))
            committed = batch
            for problem_id in refused:
                manager.held.pop(problem_id, None)  # another has it
            for line in lines:
                if manager.held.pop(line["id"], None) is not None:
                    self._out.put_nowait(line)
            for role, epoch, usage in manager.stats["usage"]:
                self._usage[epoch] = role, usage
            for _, epoch, why, death in lost:
                self._lost(epoch, why, death)
            for epoch in explained:
                self._excuse(epoch)
            await self._cut(manager, garbled)
            if error is not None:
                raise RunError(error)

    async def _cut(self, manager: _Manager, garbled: Sequence[str]) -> None:
        """Take back problems whose journals hold frames that are whole and no replies: to load one cuts it there."""
        for problem_id in garbled:
            async with self._writing:
                self.store.load(problem_id)
            self._returned.append(manager.held.pop(problem_id))

    def _next(self, want: int) -> Iterator[Problem]:
        """The next problems: fewer for each towards the end, where that is known, so that all managers end together."""
        if self._unread is not None:
            share = math.ceil((self._unread + len(self._returned)) / (2 * self.config.cluster.managers))
            want = min(want, max(1, share))  # also after the last one: the source must say that it ends
        for _ in range(want):
            problem = self._returned.popleft() if self._returned else self._fresh()
            if problem is None:
                return
            yield problem

    def _fresh(self) -> Problem | None:
        """The next problem of the source; None if there is none, at the moment or ever."""
        if self._ended:
            return None
        try:
            problem = next(self._source)
        except StopIteration:
            self._ended = True
            self._out.put_nowait(None)  # whoever waits for the last line may have it already
            return None
        if problem is not None:
            self._under_way += 1
            self._unread = None if self._unread is None else self._unread - 1
        return problem

    async def _handed(self, manager: _Manager, want: int) -> tuple[list[Any], bool]:
        """The next problems with their journals, and whether more wait: what is replayed at once must not take so long
        that the manager seems dead.
        """
        found, replies = [], 0
        for problem in self._next(want):
            found.append(given := await self._given(manager, problem))
            replies += len(given[2])
            if replies >= REPLAYED:
                return found, True
        return found, False

    async def _given(self, manager: _Manager, problem: Problem) -> tuple[Any, int, list[bytes], bytes | None]:
        """The problem with the epoch of its new lease and what is journalled of it, as it lies there: the manager unpacks."""
        manager.held[problem.id] = problem
        async with self._writing:
            epoch = self.store.lease(problem.id)
            replies, close = self.store.frames(problem.id)
        return problem_row(problem), epoch, replies, None if close is None else pack_close(close, len(replies))


def _locked(bundles: Sequence[Bundle]) -> list[tuple[Bundle, Slot, asyncio.Lock]]:
    """Engines on one card start one after another: each measures what memory is free."""
    return [(bundle, slot, lock) for bundle in bundles for lock in [asyncio.Lock()] for slot in bundle.slots]


def _beside_driver() -> NodeAffinitySchedulingStrategy:
    """The driver's machine, which must live as long as the run: as many managers as it has cores are safest there.

    Not `soft`: Ray 2.60 then puts an actor elsewhere now and then, with the driver's machine idle.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _now() -> float:
    """The loop's time, in seconds."""
    return asyncio.get_running_loop().time()


async def _awaited(ref: Any) -> Any:
    return await ref


def _kill(actor: Any) -> None:
    """End an actor; nothing if it never was or is gone."""
    if actor is not None:
        ray.kill(actor)


def _kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
