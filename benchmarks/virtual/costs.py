"""What each part of a cluster costs, measured on the real parts one by one; `costs.json` keeps what was measured last.

Jobs, replies, rows and lines are those of a real search (`SEARCH`) over SIMULATED models that answer at once. Seconds are
the processor's, best of five, but for the store's, which are on the clock: it may wait for a disk. What a call costs in Ray
itself is not measured here but published (`RAY`); what the front end of a real model costs is not counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sqlite3
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from actors.link import Link
from actors.proposer import Proposer
from actors.replica import Replica
from actors.scorer import Scorer
from benchmarks.overhead import NullProposer
from benchmarks.virtual.constants import SMALL, on
from benchmarks.virtual.loops import ours, problems
from benchmarks.virtual.models import Machine
from benchmarks.virtual.sample import SEARCH, Sample, Typical, sampled
from treesearch import __version__
from treesearch.algorithms import SEARCHES
from treesearch.backends.base import Scored
from treesearch.checker import Checker
from treesearch.config import load
from treesearch.results import Results
from treesearch.run import result
from treesearch.store import Packed, Store, checked, packed
from treesearch.tasks import load_task
from treesearch.tree import Tree
from treesearch.types import Chain, Expansion, Job
from treesearch.wire import chain_rows, chains_of, job_row, problem_row, seal, unseal

KEPT = Path(__file__).with_name("costs.json")
RAY = {
    "caller": 1 / 7_500,
    "callee": 1 / 2_900,
}  # s a call: release/perf_metrics of Ray, 1:n and 1:1 asynchronous actors
TREES = (1, 2, 4, 8, 16, 32, 64)  # live on one card, of which its rate is kept
MANY, FEW = 32, 1  # items of a call, between which the cost of a call and of an item are told apart
TIMES = 5
LIVE = 256  # problems; a manager has hundreds


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes; of an expansion unless its name says of what. `manager`, `replica` (both roles together) and
    `driver` are processes, `store` is the lock under which the driver's one writer commits, `problem` a whole search.
    """

    manager: float  # search, engine, pools, lines and packing of rows
    manager_call: float  # of a line
    manager_poll: float
    manager_usage: float  # of a poll, for each line
    manager_problem: float
    replica: float
    replica_call: float
    opening: float  # in the driver: a poll's answer
    checking: float  # in the driver: a row that came as a frame
    driver_poll: float
    driver_usage: float
    driver_problem: float
    store: float  # checking included
    wire: int  # bytes between a manager and replicas
    row: int  # bytes of a journalled reply
    usage: int  # bytes of a poll, for each line
    line: int  # bytes of a problem's line of results
    node: int  # bytes of memory
    nodes: float  # of an expansion
    tokens: float
    expansions: float  # of a problem
    ray: dict[str, float] = field(default_factory=lambda: dict(RAY))


@dataclass(frozen=True)
class Kept:
    """What costs.json holds. `typical`: steps as long as models write; `null`: those of benchmarks.cluster, ten tokens.
    `card`: expansions/s of one SIMULATED card by live trees; `credits`: jobs in flight that its proposer is given."""

    where: dict[str, Any]
    typical: Costs
    null: Costs
    card: list[tuple[int, float]]
    credits: int

    @classmethod
    def read(cls, path: Path = KEPT) -> Kept:
        kept = json.loads(path.read_text())
        card = [(int(trees), float(rate)) for trees, rate in kept["card"]]
        return cls(kept["where"], Costs(**kept["typical"]), Costs(**kept["null"]), card, kept["credits"])


def measure(proposer: NullProposer, live: int = LIVE) -> Costs:
    """All costs with these steps, and so many live problems."""
    found = sampled(proposer, live)
    rows, per = found.rows(), found.expansions / len(found.answers)
    lines = [asyncio.run(_line(found, role)) for role in ("proposer", "scorer")]
    replicas = [asyncio.run(_replica(found, role)) for role in ("proposer", "scorer")]
    frames = [packed(row) for row in rows]
    packing = best(lambda: [packed(row) for row in rows]) / len(rows)
    checking = best(lambda: [checked(row) for row in frames]) / len(rows)
    sealing, opening = _copied(frames)
    told_of, heard_of, usage = _usage()
    ends = _ends(found)
    return Costs(
        manager=found.seconds + sum(item for _, item in lines) + packing + sealing,
        manager_call=sum(call for call, _ in lines) / len(lines),
        manager_poll=ends["poll"], manager_usage=told_of, manager_problem=ends["manager"],
        replica=sum(item for _, item in replicas), replica_call=sum(call for call, _ in replicas) / len(replicas),
        opening=opening, checking=checking, driver_poll=ends["poll"], driver_usage=heard_of,
        driver_problem=ends["driver"], store=_committing(frames),
        wire=_wire(found),
        row=sum(len(seal(frame)) for frame in frames) // len(frames), usage=usage, line=int(ends["line"]),
        node=_node(proposer), nodes=sum(len(chain) for _, chains, _ in found.jobs for chain in chains) / len(found.jobs),
        tokens=sum(answer.tokens_generated or 0 for answer in found.answers) / found.expansions, expansions=per,
    )  # fmt: skip


def _wire(found: Sample) -> int:
    """Bytes of a job and of its chains to be scored, and of the replies to both."""
    frames = [
        seal([0, said, None])
        for job, chains, scored in found.jobs
        for said in (
            job_row(job), (job_row(job), chain_rows(chains)), chain_rows(chains), (scored.scores, scored.tokens),
        )
    ]  # fmt: skip
    return sum(map(len, frames)) // len(found.jobs)


def best(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of TIMES."""
    spent = []
    for _ in range(TIMES):
        began = clock()
        work()
        spent.append(clock() - began)
    return min(spent)


def _apart(few: float, many: float) -> tuple[float, float]:
    """(seconds of a call, of an item) from seconds of calls with FEW and with MANY items."""
    item = (many - few) / (MANY - FEW)
    return max(0.0, few - FEW * item), item


async def _line(found: Sample, role: str) -> tuple[float, float]:
    """A real line whose replica has its replies sealed beforehand: (seconds of a call, of an item)."""
    spent = {}
    for size in (FEW, MANY):
        groups = _groups(found, size)
        payloads = [[chain_rows(c) if role == "proposer" else (s.scores, s.tokens) for _, c, s in g] for g in groups]
        spent[size] = float("inf")
        for _ in range(TIMES):
            number, replies = 0, []
            for group in payloads:
                replies.append(seal([1, [(number + k + 1, True, p) for k, p in enumerate(group)], {}]))
                number += len(group)
            ready = iter(replies)

            async def exchange(frame: bytes, ready: Any = ready) -> bytes:
                return next(ready)  # type: ignore[no-any-return]

            link = Link(exchange, client="m", role=role, epoch=1, silence=30.0, gap=lambda: 0.0, lost=_fail)
            began = time.process_time()
            for group in groups:
                await link.call([job if role == "proposer" else (job, chains) for job, chains, _ in group])
            spent[size] = min(spent[size], (time.process_time() - began) / len(groups))
            assert link.calls == len(groups), f"{link.calls} calls for {len(groups)} groups"
            link.close()
    return _apart(spent[FEW], spent[MANY])


async def _replica(found: Sample, role: str) -> tuple[float, float]:
    """A real replica whose model answers at once, asked by frames sealed beforehand: (seconds of a call, of an item)."""
    spent = {}
    for size in (FEW, MANY):
        groups = _groups(found, size)
        rows = [[job_row(j) if role == "proposer" else (job_row(j), chain_rows(c)) for j, c, _ in g] for g in groups]
        spent[size] = float("inf")
        for _ in range(TIMES):
            replica: Replica = (Proposer if role == "proposer" else Scorer)({}, role, 0, 1, None)
            replica.backend = _Known(found)
            frames = [
                seal(["m", [(k, row, None) for k, row in enumerate(group)], [], [], 0.0, 10.0, False]) for group in rows
            ]
            began = time.process_time()
            for frame in frames:
                await replica.exchange(frame)
            spent[size] = min(spent[size], (time.process_time() - began) / len(frames))
    return _apart(spent[FEW], spent[MANY])


class _Known:
    """A model that has the replies of a sample."""

    def __init__(self, found: Sample) -> None:
        self.replies = {job.id: (chains, scored) for job, chains, scored in found.jobs}

    async def propose(self, jobs: Sequence[Job]) -> list[Any]:
        return [self.replies[job.id][0] for job in jobs]

    async def score(self, items: Sequence[tuple[Job, Any]]) -> list[Any]:
        return [self.replies[job.id][1] for job, _ in items]


def _groups(found: Sample, size: int) -> list[list[tuple[Job, tuple[Chain, ...], Scored]]]:
    return [found.jobs[k : k + size] for k in range(0, len(found.jobs) - size + 1, size)]


def _fail(error: Exception) -> None:
    raise AssertionError(f"a line was lost: {error}")


def _copied(frames: Sequence[Any]) -> tuple[float, float]:
    """Seconds a row to seal and to unseal a poll's answer."""
    groups = [frames[k : k + 256] for k in range(0, len(frames), 256)]
    sealed = [seal(group) for group in groups]
    return (best(lambda: [seal(group) for group in groups]) / len(frames),
            best(lambda: [unseal(frame) for frame in sealed]) / len(frames))  # fmt: skip


def _usage(lines: int = 1024) -> tuple[float, float, int]:
    """Of a poll, for each line: seconds in the manager and in the driver, and bytes."""
    counted = {k: {"prompt_tokens": 10**9 + k, "cached_tokens": 9 * 10**8 + k} for k in range(lines)}
    sealed = seal([("proposer", k, dict(usage)) for k, usage in counted.items()])

    def heard() -> None:
        kept = {}
        for role, epoch, usage in unseal(sealed):
            kept[epoch] = role, usage

    told = best(lambda: seal([("proposer", k, dict(usage)) for k, usage in counted.items()]))
    return told / lines, best(heard) / lines, len(sealed) // lines


def _ends(found: Sample) -> dict[str, float]:
    """Of a problem: seconds in the manager and in the driver from its hand-out to its line, and bytes of the line; of an
    empty poll: seconds on either side.
    """
    config, checker = load(None, ["problems=-", "task=plain"]), Checker()

    async def made() -> list[Any]:
        return [await result(answer, config, load_task("plain"), checker) for answer in found.answers]

    rows = asyncio.run(made())
    manager = best(lambda: asyncio.run(made())) + best(lambda: seal(rows))
    sealed = seal(rows)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "run.db", "a")

        def handed() -> None:
            for answer in found.answers:
                store.lease(answer.problem.id)
                seal([problem_row(answer.problem), *store.frames(answer.problem.id)])

        results = Results(Path(folder))
        results.open()

        def lines() -> None:
            for row in unseal(sealed):
                results.append(row)

        driver = best(handed) + best(lines)
        store.close()
    count, stats = len(found.answers), dict.fromkeys("abcdefghijk", 10**6)
    poll = best(lambda: [unseal(seal([1, [], [], 3, stats, [], [], [], None])) for _ in range(1000)]) / 1000
    return {"manager": manager / count, "driver": driver / count, "line": len(sealed) / count, "poll": poll}


def _committing(rows: Sequence[Packed], group: int = 64) -> float:
    """Seconds on the clock of a row, in commits of so many to a new journal; the fastest half of them."""
    spent: list[float] = []
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(Path(folder) / "run.db", "a")
            for problem in {row[0] for row in rows}:
                store.lease(problem)
            for k in range(0, len(rows) - group + 1, group):
                began = time.perf_counter()
                store.commit(rows[k : k + group])
                spent.append(time.perf_counter() - began)
            store.close()
    spent.sort()
    return sum(spent[: len(spent) // 2]) / (len(spent) // 2) / group


def _node(proposer: NullProposer, nodes: int = 4000) -> int:
    """Bytes of memory of a node in a tree whose every step is an object of its own, as if it came over a wire."""
    frames = [seal([[chain_rows(((step,),))] for step in proposer.steps[k : k + 4]]) for k in range(0, 800, 4)]
    tracemalloc.start()
    tree, before = Tree(), tracemalloc.get_traced_memory()[0]
    while len(tree) < nodes:
        chains = tuple(chain for (rows,) in unseal(frames[len(tree) % len(frames)]) for chain in chains_of(rows))
        tree.grow(Expansion(max(0, len(tree) - 5), chains))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown // len(tree)


def card(trees: Sequence[int] = TREES) -> list[tuple[int, float]]:
    """Expansions/s of one SIMULATED card under both engines by live trees, no message taking any time."""
    found = []
    for live in trees:
        run = ours(Machine(on(SMALL, 1)), SEARCHES["mcts"](**SEARCH), problems(max(4, 2 * live)), live)
        found.append((live, run.full.delivered / run.full.seconds * run.expansions / run.generated))
    return found


def where() -> dict[str, Any]:
    """The machine, and the versions of what is measured."""
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": date.today().isoformat(), "machine": platform.platform(), "processor": (model or [platform.machine()])[0],
        "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version, "treesearch": __version__,
    }  # fmt: skip


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def keep(path: Path = KEPT) -> Kept:
    """Measure everything, and write it down."""
    credits = on(SMALL, 1).proposer[1].max_num_seqs // 2
    kept = Kept(where(), measure(Typical()), measure(NullProposer()), card(), credits)
    path.write_text(json.dumps(asdict(kept), indent=1) + "\n")
    return kept
