"""What does safety cost, and how fast is a run back? Replay, resume, and the journal's share of a run.

    python -m benchmarks.durability [--replies 100000] [--problems 500] [--seconds 10] [--json FILE]

Models are SIMULATED and cost nothing; manager, store, engine and the run's folder are the real ones. Seconds are of this
machine, wall time where nothing else is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.overhead import NullProposer, NullScorer
from treesearch.algorithms import SEARCHES
from treesearch.backends.simulated import SimulatedProposer
from treesearch.checker import Checker
from treesearch.config import digest, load
from treesearch.engine import Engine, Settings
from treesearch.errors import RunError
from treesearch.manager import Manager
from treesearch.run import run
from treesearch.store import Store
from treesearch.tasks import load_task
from treesearch.types import Chain, Problem

GOALS = {"seconds": 5.0, "resume_seconds": 15.0, "journal_share": 0.03, "replies_per_processor_second": 50_000.0}
RATE = 1_000  # replies a second


def problems(count: int) -> Iterator[Problem]:
    return (Problem(f"p{k}", f"question {k}", "1") for k in range(count))


class Paced(NullProposer):
    """Answers so that `RATE` replies come a second, however long each takes to handle."""

    max_jobs = 64

    def __init__(self) -> None:
        super().__init__()
        self.due = 0.0

    async def propose(self, jobs: Any) -> list[tuple[Chain, ...] | Exception]:
        self.due = max(self.due + len(jobs) / RATE, time.monotonic() - 0.05)
        await asyncio.sleep(self.due - time.monotonic())
        return await super().propose(jobs)


async def searched(
    store: Store | None, count: int, search: Any, proposer: NullProposer
) -> tuple[int, float, float, float]:
    """(replies, wall seconds, processor seconds of the loop's thread, of all threads) of a whole run."""
    checker = Checker()
    engine = Engine(search, load_task("plain"), [proposer], [NullScorer()], checker=checker, store=store,
                    settings=Settings(trees=64))  # type: ignore[list-item]  # fmt: skip
    before = _clocks()
    async for _ in engine.answers(problems(count)):
        pass
    wall, loop, process = (now - then for now, then in zip(_clocks(), before, strict=True))
    checker.close()
    return engine.stats.expansions, wall, loop, process


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.thread_time(), time.process_time()


def replay(folder: Path, replies: int) -> dict[str, Any]:
    """Read and replay a journal of so many replies, as a manager that takes over does."""
    search = SEARCHES["mcts"](simulations=64, branch=4)
    count = max(1, replies // 64)
    store = Store.open(folder / "run.db", "a")
    asyncio.run(searched(store, count, search, NullProposer()))
    store.close()
    begun, processor = time.perf_counter(), time.process_time()
    store, manager, found = Store.open(folder / "run.db", "a"), Manager(search), 0
    checking, reading = time.perf_counter() - begun, 0.0
    for problem in problems(count):
        start = time.perf_counter()
        journal, close = store.load(problem.id)
        reading += time.perf_counter() - start
        manager.open(problem, 0.0, journal, close)
        manager.answer(problem.id, 0.0)
        found += len(journal)
    spent, processor = time.perf_counter() - begun, time.process_time() - processor
    store.close()
    return {"replies": found, "bytes": (folder / "run.db").stat().st_size, "seconds": spent, "processor_seconds": processor,
            "checking_seconds": checking, "reading_seconds": reading, "replies_per_second": found / spent,
            "replies_per_processor_second": found / processor}  # fmt: skip


def resume(folder: Path, count: int) -> dict[str, Any]:
    """From `run` to the first job of a run that was killed with half its problems done, a quarter under way."""
    (folder / "set.jsonl").write_text("".join(
        json.dumps({"id": p.id, "question": p.question, "answer": p.reference}) + "\n" for p in problems(count)))  # fmt: skip
    given = load(None, [f"problems={folder / 'set.jsonl'}", "task=plain", "search={type: mcts, simulations: 64, branch: 4}",
                        "proposer=simulated", "scorer=simulated"])  # fmt: skip
    asyncio.run(run(given, folder / "out"))
    results = folder / "out" / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[: count // 2]))
    store = Store.open(folder / "out" / "run.db", digest(given))
    for problem in list(problems(count))[count // 2 :]:  # these are half done
        store._db.execute("DELETE FROM closes WHERE problem = ?", (problem.id,))
        store._db.execute("DELETE FROM replies WHERE problem = ? AND k >= 32", (problem.id,))
    store.close()
    reached: list[float] = []

    def ready(*_: Any) -> Any:
        reached.append(time.perf_counter())
        raise RunError("models would be loaded now")

    begun = time.perf_counter()
    with suppress(RunError):
        asyncio.run(run(given, folder / "out", drive=ready))
    before_models, begun = reached[0] - begun, time.perf_counter()
    first = _first_job(given, folder / "out")
    return {"problems": count, "resume_seconds": before_models, "first_job_seconds": first - begun}


def _first_job(given: Any, out: Path) -> float:
    """When the first job that is not in the journal is asked; then the run is stopped."""
    asked: list[float] = []

    async def propose(self: Any, jobs: Any) -> Any:
        asked.append(time.perf_counter())
        raise KeyboardInterrupt

    with mock.patch.object(SimulatedProposer, "propose", propose), suppress(KeyboardInterrupt):
        asyncio.run(run(given, out))
    return asked[0]


def overhead(folder: Path, seconds: float) -> dict[str, Any]:
    """What the journal adds at `RATE` replies a second: processor time of the loop's thread, and of all threads, as shares
    of the wall time. The writer's thread works while the loop waits for models; least of three runs each.
    """
    search, count = SEARCHES["mcts"](simulations=64, branch=4), max(1, int(RATE * seconds) // 64)
    runs: dict[bool, list[tuple[int, float, float, float]]] = {False: [], True: []}
    for k in range(6):
        store = Store.open(folder / f"{k}.db", "a") if k % 2 else None
        runs[bool(k % 2)].append(asyncio.run(searched(store, count, search, Paced())))
        if store is not None:
            store.close()
    replies, wall = runs[True][0][:2]
    loop, process = (min(r[i] for r in runs[True]) - min(r[i] for r in runs[False]) for i in (2, 3))
    return {"replies": replies, "replies_per_second": replies / wall, "loop_microseconds_per_reply": loop / replies * 1e6,
            "all_microseconds_per_reply": process / replies * 1e6, "journal_share": loop / replies * RATE,
            "journal_share_all_threads": process / replies * RATE}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=100_000, help="to replay")
    parser.add_argument("--problems", type=int, default=500, help="of the run that is resumed")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of the run that is measured with and without a journal"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    print(f"SIMULATED models; {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as place:
        found: dict[str, Any] = {}
        for name, measure, size in (
            ("replay", replay, given.replies), ("resume", resume, given.problems), ("journal", overhead, given.seconds),
        ):  # fmt: skip
            (Path(place) / name).mkdir()
            found[name] = measure(Path(place) / name, size)
            for key, value in found[name].items():
                goal = f"   goal {GOALS[key]:,g}" if key in GOALS else ""
                print(
                    f"{name:8} {key:28} {value:>16,.3f}{goal}"
                    if isinstance(value, float)
                    else f"{name:8} {key:28} {value:>12,}"
                )
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
