"""One seed, one world: a run of small searches by the real product, on a virtual clock, while everything goes wrong.

`Plan` is what a seed decides beforehand; `World` runs it, life after life of the driver, until every problem has its line,
and keeps the history that `checker.check` reads. Faults end after a while, so that a run that does not is a fault.
"""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import actors.cluster
import actors.manager
import actors.replica
import treesearch.engine
import treesearch.store
from tests.fakes import shape
from tests.simulation.loop import HERE, Killed, Process, Stuck, VirtualLoop
from tests.simulation.machines import NO_MEMORY, FakeRay, Network
from tests.simulation.models import DIGITS, Keys, Model, Spec, expected_reply
from treesearch import config as configs
from treesearch.algorithms import SEARCHES
from treesearch.answers import AnswerRule
from treesearch.checker import Checker
from treesearch.config import Config
from treesearch.engine import Engine
from treesearch.errors import FrameError, RunError, TreesearchError
from treesearch.manager import Budget, Close, Manager, Outcome, Reply
from treesearch.pool import Pool, Replica, ReplicaLost
from treesearch.run import Todo, result, settings
from treesearch.store import Packed, Row, Store, unpack_close, unpack_reply
from treesearch.types import Answer, Expansion, Job, Problem
from treesearch.wire import seal

SEARCHED = {
    "sample": SEARCHES["sample"](n=8, parallel=3),
    "certain": SEARCHES["sample"](n=10, parallel=3, stop="certain"),
    "beam": SEARCHES["beam"](beams=2, branch=2),
    "dvts": SEARCHES["dvts"](subtrees=2, branch=2),
    "rebase": SEARCHES["rebase"](width=4),
    "particles": SEARCHES["particles"](n=4),
    "best_first": SEARCHES["best_first"](branch=2, expansions=10, parallel=3),
    "ab_mcts": SEARCHES["ab_mcts"](simulations=12, parallel=3),
    "revise": SEARCHES["ab_mcts"](simulations=10, unit="answer", parallel=2),
    "mcts": SEARCHES["mcts"](simulations=10, parallel=4, branch=2),
    "rollouts": SEARCHES["mcts"](simulations=8, parallel=3, branch=2, rollouts=1),
}
FAULTS = (  # what may happen, with the least and the most of it: a share of requests, or a number of times
    ("straggle", 0.005, 0.2), ("fail", 0.002, 0.1), ("hang", 0.001, 0.02), ("twice", 0.01, 0.3), ("again", 0.01, 0.3),
    ("tail", 0.001, 0.05), ("kill_replica", 1, 6), ("kill_host", 1, 2), ("kill_manager", 1, 4), ("kill_driver", 1, 4),
    ("interrupt", 1, 2), ("freeze", 1, 4), ("cut", 1, 4), ("disk", 1, 3), ("start", 1, 3), ("damage", 1, 2),
)  # fmt: skip
MEMORY = Path("/dev/shm")
LIVES = 40  # of the driver, until something is wrong
SILENCE, TIMEOUT = 3.0, 4.0


@dataclass(frozen=True)
class Plan:
    """What a seed decides before anything runs. `faults`: shares and counts by name, those that may happen at all."""

    seed: int
    cluster: bool = False
    search: str = "beam"
    problems: int = 6
    delivery: str = "issue"
    budget: Budget = field(default_factory=Budget)
    trees: int | None = None
    managers: int = 1
    proposers: int = 2
    scorers: int = 1
    credits: int = 4  # of each replica
    enough: int | None = None  # tokens that keep a scorer busy
    keeps: int | None = None  # tokens that a scorer's cache holds
    hosts: int = 3
    latency: float = 0.003  # seconds a message, mean
    work: float = 0.1  # seconds a request, mean
    disk: float = 0.002  # seconds before a commit and after it, mean
    horizon: float = 12.0  # seconds after which no new fault begins
    linger: float | None = None
    keys: Keys = field(default_factory=Keys)
    faults: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Most seeds have few faults, some many: what is always there hides what it leads to."""
        rng = random.Random(f"plan {seed}")
        often = rng.choice((0.0, 0.1, 0.2, 0.2, 0.35, 0.6))
        faults = {}
        for name, least, most in FAULTS:
            if rng.random() < often:
                amount = least * (most / least) ** rng.random()
                faults[name] = round(amount) if least >= 1 else amount
        cluster = rng.random() < 0.5
        problems = rng.randint(5, 14)
        keys = Keys(
            *(rng.choice((0.0, 0.0, 0.0, 0.02, 0.2)) for _ in range(3)),
            poison=(_poison(rng, problems),) if cluster and rng.random() < 0.15 else (),
        )
        if cluster and (more := random.Random(f"poison {seed}")).random() < 0.2:
            several = (_poison(more, problems) for _ in range(more.randint(1, 4)))
            keys = replace(keys, poison=(*keys.poison, *several))
            if more.random() < 0.4:
                faults.setdefault("kill_manager", more.randint(1, 4))
        keys = replace(keys, silent=random.Random(f"silent {seed}").random() < 0.4)
        budget = Budget()
        if rng.random() < 0.15:
            budget = Budget(tokens=rng.randint(0, 150))
        elif rng.random() < 0.1:
            budget = Budget(seconds=rng.uniform(0.5, 8))
        enough = random.Random(f"enough {seed}").choice((None, None, 1, 20))
        keeps = random.Random(f"keeps {seed}").choice((None, None, 1, 300))
        return cls(
            seed, cluster, rng.choice(list(SEARCHED)), problems, rng.choice(("issue", "issue", "issue", "arrival")), budget,
            rng.choice((None, None, 1, 3)), rng.choice((1, 1, 1, 2, 3)), rng.randint(1, 3), rng.randint(1, 2),
            rng.choice((1, 3, 5)), enough, keeps, rng.randint(2, 4), 0.002 * 10 ** rng.random(), 0.02 * 10 ** rng.random(),
            0.001 * 100 ** rng.random(),
            rng.uniform(1, 8), rng.choice((0.0, None, None)), keys, faults,
        )  # fmt: skip

    @property
    def asked(self) -> list[Problem]:
        return [Problem(f"p{k}", f"question {self.seed} {k}", "1") for k in range(self.problems)]


def _poison(rng: random.Random, problems: int) -> tuple[str, int]:
    """A problem and its first step; -1: the question alone."""
    return f"p{rng.randrange(problems)}", rng.randrange(-1, 4)


class SimulatedConfig(Config):
    """A config that no one writes down."""

    def resolved(self) -> dict[str, Any]:
        return {}


@lru_cache
def base() -> Config:
    return configs.load(None, ["proposer=simulated", "scorer=simulated"])


Event = tuple[Any, ...]  # (virtual time, kind, ...)


class World:
    """Runs a plan. `history` is all that happened; `published` the lines of results.jsonl."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"world {plan.seed}")
        self.loop = VirtualLoop(disk=lambda: self.rng.expovariate(1 / plan.disk))
        self.history: list[Event] = []
        self.published: dict[str, Any] = {}
        self.failing: list[str] = []  # what the next commits come to
        self.spoiled: set[str] = set()  # jobs that fail by design
        self.kin: dict[tuple[Process | None, str], int] = {}  # whose job -> its prompt
        self.culprits: dict[
            tuple[int, int], str
        ] = {}  # life and epoch of a replica -> the poisonous job that killed it
        self.life, self.over, self.pools = 0, False, 0
        self.driver: Process | None = None
        self.main: asyncio.Task[Any] | None = None
        self.store: WatchedStore | None = None
        self.network = Network(
            self.loop, self.rng, plan.latency, plan.faults.get("tail", 0.0), plan.faults.get("twice", 0.0)
        )
        self.ray = FakeRay(self.network, plan.hosts, self.note)
        self.bad_starts = int(plan.faults.get("start", 0))
        self.config = SimulatedConfig(**{f: getattr(base(), f) for f in configs.DEFAULTS} | {
            "task": "tests.simulation.models:DIGITS", "search": SEARCHED[plan.search], "budget": plan.budget,
            "proposer": Spec(self, "proposer"), "scorer": Spec(self, "scorer"),
            "answer": AnswerRule("weighted", "last"),
            "engine": replace(base().engine, delivery=plan.delivery, trees=plan.trees or "auto", seed=7),
            "cluster": replace(base().cluster, managers=plan.managers, proposers=plan.proposers, scorers=plan.scorers,
                               restarts=60, timeout=TIMEOUT, silence=SILENCE, linger=plan.linger),
        })  # fmt: skip

    def told(self) -> Iterator[str]:
        """The history, a line for each event; the same text whenever the seed is run."""
        for when, kind, *what in self.history:
            text = " ".join(map(repr, what)).replace(str(self.folder), "")
            yield f"{when:10.4f} {kind:9} {text}"

    def note(self, kind: str, *what: Any) -> None:
        if not self.over:
            self.history.append((self.loop.now, kind, *what))

    def active(self, fault: str) -> float:
        """The share of requests that a fault befalls now."""
        return self.plan.faults.get(fault, 0.0) if self.loop.now < self.plan.horizon else 0.0

    # The run, life after life

    def run(self) -> World:
        folder = self.folder = Path(
            tempfile.mkdtemp(prefix="simulation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        collecting = gc.isenabled()
        gc.disable()  # what is dead must not be closed, and so run, before its time
        with self._seams():
            try:
                self.loop.settled(self.loop.create_task(self._lives(folder)))
            except Stuck as stuck:
                self.note("stuck", str(stuck))
            finally:
                self.over = True
                if self.store is not None:
                    self.store.drop()
                self.loop.bury()
                if collecting:
                    gc.enable()
                shutil.rmtree(folder)
        return self

    async def _lives(self, folder: Path) -> None:
        for name, _, _ in FAULTS:
            act = getattr(self, f"_{name}", None)
            for _ in range(int(self.plan.faults.get(name, 0)) if act is not None else 0):
                self.loop.call_later(self.rng.uniform(0, self.plan.horizon), act)
        while len(self.published) < self.plan.problems:
            self.life += 1
            if self.life > LIVES:
                raise Stuck(f"not done after {LIVES} lives")
            ended = self.loop.create_future()
            self.driver = Process(f"driver#{self.life}", "host0", partial(self._crashed, ended))
            self.driver.life = self.ray.life = self.life
            self.note("life", self.driver)
            self.main = self.driver.context.run(self.loop.create_task, self._guarded(folder, ended))
            await ended
            await asyncio.sleep(self.rng.uniform(0, 3))
            self._damaged(folder)
        store = Store.open(folder / "run.db", "simulated")
        self.journals = {problem.id: store.load(problem.id) for problem in self.plan.asked}
        store.close()

    async def _guarded(self, folder: Path, ended: asyncio.Future[None]) -> None:
        """What `treesearch run` does, in a process of its own."""
        failure: BaseException | None = None
        try:
            await self._drive(folder)
        except (Exception, asyncio.CancelledError) as error:
            failure = error
        self.note("exit", self.driver, failure)
        assert self.driver is not None
        self.driver.alive = False  # and whoever it started dies with it, some time later
        self._orphaned()
        if self.store is not None:
            self.store.drop()
        if not ended.done():
            ended.set_result(None)

    async def _drive(self, folder: Path) -> None:
        store = self.store = WatchedStore(folder / "run.db", "simulated")
        store.world = self
        todo = [problem for problem in self.plan.asked if problem.id not in self.published]
        driver: Any = self._cluster(store) if self.plan.cluster else _Local(self, store)
        count = len(todo) if self.plan.seed % 2 else None
        async with aclosing(driver.rows(Todo(todo[0], iter(todo[1:]), count))) as rows:
            async for row in rows:
                self.note("publish", row["id"], row)
                self.published[row["id"]] = row
        store.close()

    def _cluster(self, store: Store) -> Any:
        return actors.cluster.Cluster(self.config, DIGITS, store, partial(self.note, "say"))

    def _crashed(self, ended: asyncio.Future[None]) -> None:
        """The driver was killed: the system closes its files and, by and by, ends what it had started."""
        self.note("killed", self.driver)
        if self.store is not None:
            self.store.drop()
        self._orphaned()
        if not ended.done():
            ended.set_result(None)

    def _orphaned(self) -> None:
        for process in [process for process in self.ray.processes if process.alive]:
            self.loop.call_later(self.rng.uniform(0, 4), self.ray.end, process, "its owner has died")

    # What befalls it: each of these once, at a moment that the seed has drawn

    def _replicas(self) -> list[Process]:
        return [p for p in self.ray.processes if p.alive and not p.name.startswith("manager")]

    def _managers(self) -> list[Process]:
        return [p for p in self.ray.processes if p.alive and p.name.startswith("manager")]

    def _kill_replica(self) -> None:
        if found := self._replicas():
            self.ray.end(self.rng.choice(found), self._cause())

    def _kill_manager(self) -> None:
        if found := self._managers():
            self.ray.end(self.rng.choice(found), self._cause())

    def _cause(self) -> str:
        """What Ray says of a process that has ended."""
        return NO_MEMORY if len(self.history) % 4 == 0 else "its worker process has died"

    def _kill_host(self) -> None:
        host = f"host{self.rng.randrange(1, self.plan.hosts)}"
        for process in [p for p in self.ray.processes if p.alive and p.host == host]:
            self.ray.end(process, "its node has died")

    def _kill_driver(self) -> None:
        if self.driver is not None:
            self.driver.kill()

    def _interrupt(self) -> None:
        if self.main is not None and self.driver is not None and self.driver.alive:
            self.driver.context.copy().run(self.main.cancel)

    def _freeze(self) -> None:
        found = [p for p in [*self.ray.processes, self.driver] if p is not None and p.alive and not p.frozen]
        if found:
            process, seconds = self.rng.choice(found), self.rng.uniform(0.2, 3 * SILENCE)
            process.freeze()
            self.note("freeze", process, seconds)
            self.loop.call_later(seconds, process.thaw, self.loop)

    def _cut(self) -> None:
        """Two machines do not hear of each other, or one of them does not of the other."""
        a, b = self.rng.sample([f"host{k}" for k in range(self.plan.hosts)], 2)
        until = self.loop.now + self.rng.uniform(0.2, 3 * SILENCE)
        self.network.cut[a, b] = until
        if self.rng.random() < 0.5:
            self.network.cut[b, a] = until

    def _disk(self) -> None:
        self.failing.append(self.rng.choice(("refused", "failed", "killed before", "killed after")))

    def _damage(self) -> None:
        self.failing.append("damage")

    def _damaged(self, folder: Path) -> None:
        """Between two lives a bit of the journal turned over, or what was written is whole and yet no reply."""
        if "damage" not in self.failing:
            return
        self.failing.remove("damage")
        db = sqlite3.connect(folder / "run.db")
        rows = db.execute("SELECT problem, k, body FROM replies ORDER BY problem, k").fetchall()
        if rows:
            problem, k, body = self.rng.choice(rows)
            bit = self.rng.randrange(8 * len(body))
            body = bytearray(body)
            body[bit // 8] ^= 1 << bit % 8
            damaged = bytes(body) if bit % 3 else seal([k])
            db.execute("UPDATE replies SET body = ? WHERE problem = ? AND k = ?", (damaged, problem, k))
            db.commit()
            self.note("damage", problem, k)
        db.close()

    # What the product sees of the world

    @contextmanager
    def _seams(self) -> Iterator[None]:
        """For the time of a run: fake Ray, no metrics, no real clock, and watched parts in place of the plain ones."""

        def leave(code: int) -> None:
            process = HERE.get()
            assert process is not None
            self.ray.end(process, "its engine has died")
            raise Killed

        here = SimpleNamespace(_exit=leave, getpid=lambda: 0, uname=lambda: SimpleNamespace(nodename="simulated"))
        patches: list[tuple[Any, str, Any]] = [
            (actors.cluster, "ray", self.ray),
            (actors.cluster, "_beside_driver", lambda: "SPREAD"),
            (actors.cluster, "_kill_process", lambda pid: None),
            (actors.manager, "Metrics", _NoMetrics),
            (actors.replica, "Metrics", _NoMetrics),
            (actors.replica, "os", here),
            (actors.manager, "Engine", partial(WatchedEngine, self)),
            (treesearch.engine, "Manager", partial(WatchedManager, self)),
            (treesearch.engine, "Pool", partial(WatchedPool, self)),
            (configs, "build", self._built),
            (treesearch.store, "read_mounts", lambda: ""),
        ]
        with ExitStack() as stack:
            for where, name, what in patches:
                stack.enter_context(mock.patch.object(where, name, what))
            yield

    def _built(self, layers: Any) -> Config:
        """The config in an actor; some replicas cannot start."""
        process = HERE.get()
        replica = process is not None and process.epoch is not None
        if replica and self.bad_starts and self.rng.random() < 0.3:
            self.bad_starts -= 1
            raise RuntimeError("CUDA error: out of memory")
        return self.config

    def expected(self) -> dict[str, tuple[Any, Any]]:
        """(tree, line) of each problem if nothing but what is spoiled by design goes wrong, in the order of issue."""
        given = settings(self.config)
        manager = Manager(
            self.config.search, sampling=given.sampling, budget=given.budget, rule=given.rule, delivery=given.delivery,
            seed=given.seed,
        )  # fmt: skip
        found = {}
        for problem in self.plan.asked:
            outcome = manager.open(problem, 0.0)
            waiting: list[Job] = list(outcome.jobs)
            while waiting:
                job = waiting.pop(0)
                outcome = manager.deliver(job.id, expected_reply(job, self.plan.keys), 0.0)
                waiting += outcome.jobs
            found[problem.id] = self.result_of(manager, problem.id)
        return found

    def replayed(self, problem: Problem) -> tuple[Any, Any]:
        """(tree, line) that the final journal of a problem leads to."""
        given = settings(self.config)
        manager = Manager(
            self.config.search, sampling=given.sampling, budget=given.budget, rule=given.rule, delivery=given.delivery,
            seed=given.seed,
        )  # fmt: skip
        replies, close = self.journals[problem.id]
        manager.open(problem, 0.0, replies, close)
        return self.result_of(manager, problem.id)

    def result_of(self, manager: Manager, problem_id: str) -> tuple[Any, Any]:
        tree = shape(manager.live[problem_id].tree)
        answer = manager.answer(problem_id, 0.0)
        try:
            result(answer, self.config, DIGITS, Checker()).send(None)
        except StopIteration as done:
            return tree, done.value
        raise AssertionError("a task that is not hostile is asked inline")


class _NoMetrics:
    def __init__(self, *_: Any) -> None: ...

    def due(self) -> bool:
        return False


class _Local:
    """A run in one process, with as many models in it as the plan says."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.checker = world, Checker()
        plan = world.plan
        self.engine = WatchedEngine(
            world, world.config.search, DIGITS, [Model(world) for _ in range(plan.proposers)],
            [Model(world) for _ in range(plan.scorers)],
            settings=replace(settings(world.config), timeout=TIMEOUT), checker=self.checker, store=store,
        )  # fmt: skip

    async def rows(self, todo: Todo) -> Any:
        async with aclosing(self.engine.answers(todo.reading(lambda: None))) as answers:
            async for answer in answers:
                yield await result(answer, self.world.config, DIGITS, self.checker)


class WatchedStore(Store):
    """A store whose commits may fail, or be the last thing its process does."""

    world: World
    dropped = False

    def commit(self, rows: Iterable[Packed]) -> frozenset[str]:
        world, rows = self.world, list(rows)
        fault = next((f for f in world.failing if f != "damage"), None)
        if fault is not None and rows:
            world.failing.remove(fault)
            world.note("disk", fault)
        if fault == "failed":  # in the middle: what was inserted is rolled back
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO replies VALUES ('p0', 10000, x'00')")
            self._db.execute("ROLLBACK")
        if fault in ("refused", "failed"):
            raise RunError(f"cannot write {self.path}: database or disk is full")
        if fault == "killed before":
            world._kill_driver()
            raise Killed
        if self.dropped:
            raise RunError("the file is closed")
        refused = super().commit(rows)
        world.note("commit", HERE.get(), [_unpacked(row) for row in rows if row[0] not in refused])
        if fault == "killed after":
            world._kill_driver()
            raise Killed
        return refused

    def load(self, problem: str) -> tuple[list[Reply], Close | None]:
        replies, close = super().load(problem)
        self.world.note("load", HERE.get(), problem, list(replies), close)
        return replies, close

    def frames(self, problem: str) -> tuple[list[bytes], Close | None]:
        frames, close = super().frames(problem)
        with suppress(FrameError):  # what is no reply is loaded again
            self.world.note("load", HERE.get(), problem, [unpack_reply(frame) for frame in frames], close)
        return frames, close

    def drop(self) -> None:
        """The files are closed, by whomever."""
        if not self.dropped:
            self.dropped = True
            self.close()


def _unpacked(row: Packed) -> Row:
    problem, k, is_reply, frame, epoch = row
    return problem, k, unpack_reply(frame) if is_reply else unpack_close(frame, k), epoch


class WatchedEngine(Engine):
    def __init__(self, world: World, *given: Any, **named: Any) -> None:
        super().__init__(*given, clock=world.loop.time, **named)
        self.manager.engine = self  # type: ignore[attr-defined]


class WatchedManager(Manager):
    """Notes what is delivered and applied, and is given some replies twice."""

    engine: Engine

    def __init__(self, world: World, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.world = world

    def open(self, problem: Problem, now: float, journal: Sequence[Reply] = (), close: Close | None = None) -> Outcome:
        self.world.note("open", HERE.get(), problem.id, list(journal), close)
        return super().open(problem, now, journal, close)

    def deliver(self, job_id: str, expansion: Expansion, now: float) -> Outcome:
        out = super().deliver(job_id, expansion, now)
        self.world.note("deliver", HERE.get(), job_id, expansion, list(out.delivered))
        if self.world.rng.random() < self.world.active("again"):
            seconds = self.world.rng.expovariate(1 / self.world.plan.work)
            self.world.loop.call_later(seconds, self._again, job_id, expansion)
        return out

    def _again(self, job_id: str, expansion: Expansion) -> None:
        problem_id = job_id.rpartition("/")[0]
        if problem_id in self.live:
            out = super().deliver(job_id, expansion, self.world.loop.now)
            self.world.note("again", HERE.get(), job_id, expansion, list(out.delivered))
            self.engine._apply(problem_id, out)

    def _job(self, live: Any, seq: int) -> Job:
        job = super()._job(live, seq)
        self.world.kin[HERE.get(), job.id] = job.seed
        if self.world.plan.keys.spoiled(job):
            self.world.spoiled.add(job.id)
        return job

    def answer(self, problem_id: str, now: float, seconds: float | None = None) -> Answer:
        tree = self.live[problem_id].tree
        answer = super().answer(problem_id, now, seconds)
        self.world.note("answer", HERE.get(), problem_id, shape(tree), list(tree.ended), answer)
        return answer


class WatchedPool(Pool):
    """Notes what every request came to."""

    def __init__(self, world: World, *given: Any, **named: Any) -> None:
        self.world = world
        self.name = world.pools = world.pools + 1
        super().__init__(*given, **named)

    def join(self, replica: Replica) -> int:
        number = super().join(replica)
        link, process = getattr(replica.call, "__self__", None), HERE.get()
        life = process.life if process is not None else 0
        self.world.note("join", process, self.name, number, (life, getattr(link, "epoch", 0)))
        return number

    async def _call(self, number: int, item_id: str, item: Any, *how: Any) -> Any:
        reply = await super()._call(number, item_id, item, *how)
        kind = "ok"
        if isinstance(reply, ReplicaLost):
            kind = "lost" if reply.death != "other" and reply.begun else "left"
        elif isinstance(reply, Exception):
            kind = (
                "refused" if isinstance(reply, TreesearchError) and "RequestError" in type(reply).__name__ else "failed"
            )
        role = "proposer" if isinstance(item, Job) else "scorer"
        tokens = sum(s.tokens or 0 for c in reply for s in c) if kind == "ok" and role == "proposer" else 0
        self.world.note(
            "call",
            HERE.get(),
            role,
            item_id,
            kind,
            number,
            self.name,
            tokens,
            item.seed if role == "proposer" else item_id,
        )
        return reply
