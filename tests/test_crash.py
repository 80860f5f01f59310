"""A run that dies after any durable write, or is killed at any moment, resumes to the results and trees of a whole one."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import shape
from treesearch.config import Config, digest, load
from treesearch.errors import RunError
from treesearch.manager import Manager
from treesearch.problems import ProblemSet
from treesearch.results import Results, Row
from treesearch.run import run, settings
from treesearch.store import Packed, Store
from treesearch.tasks import load_task
from treesearch.types import digest as hashed

SEARCHES = {
    "sample": "{type: sample, n: 48, parallel: 4}",
    "beam": "{type: beam, beams: 4, branch: 5}",
    "mcts": "{type: mcts, simulations: 26, parallel: 4, branch: 3}",
    "ab_mcts": "{type: ab_mcts, simulations: 52}",
}
MODELS = ["task=plain", "proposer={type: simulated, steps: 4, failures: 0.05}", "scorer=simulated"]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(f'{{"id": "p{k}", "question": "question {k}", "answer": "{k}"}}\n' for k in range(3)))
    return path


def config(asked: Path, search: str, *more: str) -> Config:
    return load(None, [f"problems={asked}", f"search={SEARCHES[search]}", *MODELS, *more])


def lines(out: Path) -> list[Row]:
    """Lines of a run but for what is of its time: seconds, and tokens sampled in vain."""
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{**row, "seconds": 0, "tokens": {**row["tokens"], "wasted": 0}} for row in found]


def trees(config: Config, out: Path) -> tuple[int, int]:
    """(hash of all trees that the journal leads to, their nodes)."""
    given = settings(config)
    store, found, nodes = Store.open(out / "run.db", digest(config)), [], 0
    for problem in ProblemSet(config.problems, load_task(config.task)):
        manager = Manager(config.search, sampling=given.sampling, rule=given.rule, seed=given.seed)
        assert manager.open(problem, 0.0, *store.load(problem.id)).ended
        found.append(repr(shape(manager.live[problem.id].tree)))
        nodes += len(manager.live[problem.id].tree)
    assert store.notes == []
    store.close()
    return hashed(*found), nodes


def snapshots(patch: pytest.MonkeyPatch, out: Path, to: Path) -> None:
    """Copy the folder as a power cut would leave it after each row that is committed and each line that is written."""
    count = iter(range(10_000))
    commit, append = Store.commit, Results.append

    def copy() -> None:
        shutil.copytree(out, to / f"{next(count)}", ignore=shutil.ignore_patterns("*-shm"))

    def one_by_one(self: Store, rows: Iterable[Packed]) -> frozenset[str]:
        for row in rows:
            assert not commit(self, [row])
            copy()
        return frozenset()

    def written(self: Results, row: Row) -> None:
        append(self, row)
        copy()

    patch.setattr(Store, "commit", one_by_one)
    patch.setattr(Results, "append", written)


def crash_everywhere(search: str, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int) -> int:
    """Resume from every `each`-th point; returns how many there were."""
    given, whole, points = config(asked, search), tmp_path / "whole", tmp_path / "points"
    with monkeypatch.context() as patch:
        snapshots(patch, whole, points)
        asyncio.run(run(given, whole))
    wanted, (tree, nodes) = lines(whole), trees(given, whole)
    assert 150 <= nodes <= 700
    copies = sorted(points.iterdir(), key=lambda path: int(path.name))
    for point in copies[::each]:
        asyncio.run(run(given, point))
        assert lines(point) == wanted, f"{search}: other results after {point.name} of {len(copies)} writes"
        assert trees(given, point)[0] == tree, f"{search}: another tree after {point.name} of {len(copies)} writes"
    print(
        f"{search}: {nodes} nodes in 3 trees, {len(copies)} durable writes, resumed after {len(copies[::each])}, all equal"
    )
    return len(copies)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_crash_after_a_durable_write_changes_nothing(
    search: str, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert crash_everywhere(search, asked, tmp_path, monkeypatch, each=29) >= 40


@pytest.mark.slow
def test_a_crash_after_any_durable_write_changes_nothing(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = [crash_everywhere(s, asked, tmp_path / s, monkeypatch, each=1) for s in SEARCHES]
    print(f"{sum(found)} points, all equal")
    assert sum(found) >= 350


def test_rows_are_committed_before_their_line_is_written(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What stands in results.jsonl at any moment can be made anew from run.db alone, without a model."""
    given, out = config(asked, "beam"), tmp_path / "whole"
    with monkeypatch.context() as patch:
        snapshots(patch, out, tmp_path / "points")
        asyncio.run(run(given, out))
    wanted = {row["id"]: row for row in lines(out)}
    for point in (tmp_path / "points").iterdir():
        store = Store.open(point / "run.db", digest(given))
        for row in lines(point):
            replies, close = store.load(row["id"])
            assert close is not None and len(replies) == row["expansions"] == wanted[row["id"]]["expansions"]
        store.close()


# The process itself


def command(out: str) -> list[str]:
    sets = ["problems=set.jsonl", "search={type: mcts, simulations: 24, parallel: 4}", "engine.trees=6", "scorer=simulated",
            "task=plain", "proposer={type: simulated, steps: 4, base_ms: 12, failures: 0.05}"]  # fmt: skip
    return [
        sys.executable,
        "-m",
        "treesearch",
        "run",
        "--out",
        out,
        *(part for text in sets for part in ("--set", text)),
    ]


def kills(tmp_path: Path, count: int, seed: int) -> None:
    """Kill runs `count` times at moments that the seed draws, until each is done; all must end as the whole one did."""
    rng = random.Random(seed)
    rows = (f'{{"id": "p{k}", "question": "question {k}", "answer": "{k}"}}\n' for k in range(40))
    (tmp_path / "set.jsonl").write_text("".join(rows))
    quiet: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    subprocess.run(command("whole"), check=True, **quiet)
    wanted, killed, runs, at_writing = lines(tmp_path / "whole"), 0, 0, 0
    while killed < count:
        runs += 1
        out = tmp_path / f"out{runs}"
        while True:
            process = subprocess.Popen(command(out.name), **quiet)
            before = _size(out)
            while process.poll() is None and _size(out) == before and killed < count:
                time.sleep(0.002)  # it has begun when it writes
            time.sleep(rng.uniform(0, 0.7) if killed < count else 0)
            if killed < count and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                killed += 1
                at_writing += _size(out) != before
                continue
            assert process.wait(60) == 0, process.stderr and process.stderr.read()
            process.communicate()
            break
        assert lines(out) == wanted, f"seed {seed}, run {runs}: other results after {killed} kills"
    print(f"seed {seed}: {killed} kills (SIGKILL), {at_writing} of them after new writes, {runs} runs, all equal")


def _size(out: Path) -> int:
    with suppress(FileNotFoundError):  # the log goes with the process that closes it
        return sum(path.stat().st_size for path in out.glob("run.db*"))
    return 0


@pytest.mark.slow
def test_a_process_killed_at_any_moment_changes_nothing(tmp_path: Path):
    kills(tmp_path, int(os.environ.get("TREESEARCH_KILLS", 30)), int(os.environ.get("TREESEARCH_SEED", 5)))


@pytest.mark.slow
def test_of_twenty_processes_on_one_folder_one_runs_and_names_itself_to_the_others(tmp_path: Path):
    rows = (f'{{"id": "p{k}", "question": "question {k}", "answer": "{k}"}}\n' for k in range(300))
    (tmp_path / "set.jsonl").write_text("".join(rows))
    given: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command("out"), **given) for _ in range(20)]
    said = {process.pid: process.communicate()[1] for process in processes}
    codes = {process.pid: process.returncode for process in processes}
    (winner,) = (pid for pid, code in codes.items() if code == 0)
    losers = [text for pid, text in said.items() if pid != winner]
    assert all(f"in use by another run (pid {winner} on " in text and "Traceback" not in text for text in losers), (
        losers
    )
    assert set(codes.values()) == {0, 1} and len(lines(tmp_path / "out")) == 300


def test_a_process_that_goes_on_after_it_was_given_up_cannot_write(asked: Path, tmp_path: Path):
    """The lock was lost (a file system without locks, a lock file that was removed): the lease is what holds."""
    given = config(asked, "beam")
    older: list[Store] = []

    class Thawed(Store):
        def commit(self, rows: Iterable[Packed]) -> frozenset[str]:
            if not older:  # it stops here, and another begins
                older.append(self)
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                asyncio.run(run(given, tmp_path / "out"))
            return super().commit(rows)

    async def first() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("treesearch.run.Store", Thawed)
            await run(given, tmp_path / "out")

    with pytest.raises(RunError, match=r"another process has gone on with .*run\.db \(problem 'p"):
        asyncio.run(first())
    asyncio.run(run(given, tmp_path / "whole"))
    assert trees(given, tmp_path / "out") == trees(given, tmp_path / "whole")
