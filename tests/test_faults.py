"""Every write of a run fails once: the run ends with what is safe, and goes on to equal results once there is room."""

from __future__ import annotations

import asyncio
import builtins
import errno
import io
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.test_crash import command, config, lines, trees
from treesearch.errors import RunError
from treesearch.run import run

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
SQL = {
    "ENOSPC": sqlite3.OperationalError("database or disk is full"),
    "EIO": sqlite3.OperationalError("disk I/O error"),
}


class Disk:
    """Counts what a run does to its folder, and fails at the k-th: for once, or from then on."""

    def __init__(self, out: Path, error: str, k: int | None, for_ever: bool, short: bool) -> None:
        self.out, self.error, self.k, self.for_ever, self.short = out, error, k, for_ever, short
        self.count = 0
        self.kinds: list[str] = []

    def fails(self, kind: str) -> bool:
        self.count += 1
        self.kinds.append(kind)
        return self.k is not None and (self.count == self.k or (self.for_ever and self.count > self.k))

    def act(self, kind: str, path: Any = None) -> None:
        if self.fails(kind):
            number = ERRORS[self.error]
            raise OSError(number, os.strerror(number), str(path) if path else None)


class Connection(sqlite3.Connection):
    """SQLite's connection, whose statements that write may fail."""

    disk: Disk

    def execute(self, sql: str, *given: Any) -> Any:
        if sql.split()[0] in ("BEGIN", "INSERT", "COMMIT", "UPDATE", "DELETE") and self.disk.fails(sql.split()[0]):
            raise SQL[self.disk.error]
        return super().execute(sql, *given)

    def executemany(self, sql: str, rows: Any) -> Any:
        if self.disk.fails("rows"):
            super().executemany(sql, list(rows)[:1])  # in the middle of them
            raise SQL[self.disk.error]
        return super().executemany(sql, rows)


class Raw(io.FileIO):
    """A file whose writes may fail, or be cut short before they fail."""

    disk: Disk

    def write(self, data: Any) -> int:
        if self.disk.fails("write"):
            if self.disk.short:
                super().write(bytes(data)[: len(data) // 2])
            number = ERRORS[self.disk.error]
            raise OSError(number, os.strerror(number))
        return super().write(data)


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    """All that `run` writes goes through `disk`: SQL statements, bytes, fsync, rename."""

    def connect(path: Any, **given: Any) -> Any:
        factory = type("Here", (Connection,), {"disk": disk})
        return real_connect(path, factory=factory, **given)

    def opened(path: Any, mode: str = "r", buffering: int = -1, **given: Any) -> Any:
        if "b" in mode and mode[0] in "wa" and str(path).startswith(str(disk.out)):
            raw = type("Here", (Raw,), {"disk": disk})(str(path), mode.replace("b", ""))
            return raw if buffering == 0 else io.BufferedWriter(raw)
        return real_open(path, mode, buffering, **given)

    def synced(descriptor: int) -> None:
        disk.act("fsync")
        real_fsync(descriptor)

    def replaced(a: Any, b: Any) -> None:
        disk.act("rename", b)
        real_replace(a, b)

    real_connect, real_open, real_fsync, real_replace = sqlite3.connect, builtins.open, os.fsync, os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        patch.setattr("treesearch.results.open", opened, raising=False)
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", replaced)
        yield


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(f'{{"id": "p{k}", "question": "question {k}", "answer": "{k}"}}\n' for k in range(3)))
    return path


def fail_everywhere(
    asked: Path, tmp_path: Path, error: str, for_ever: bool, short: bool, each: int, first: int = 0
) -> None:
    """Fail the k-th act for every `each`-th k."""
    given = config(asked, "beam", "engine.trees=1")
    with failing(Disk(tmp_path / "whole", error, None, for_ever, short)):
        asyncio.run(run(given, tmp_path / "whole"))
    wanted, tree = lines(tmp_path / "whole"), trees(given, tmp_path / "whole")
    ended, k, kinds = 0, 1 + first, set()
    while True:
        out = tmp_path / f"out{k}"
        disk = Disk(out, error, k, for_ever, short)
        told = None
        with failing(disk):
            try:
                asyncio.run(run(given, out))
            except RunError as failure:
                told = str(failure)
        if disk.count < k:
            break  # it has no k-th act
        kinds.add(disk.kinds[k - 1])
        where = f"act {k} ({disk.kinds[k - 1]}), {error}"
        assert told is not None, f"{where}: the run ended as if nothing had happened"
        assert "cannot write" in told and ("safe" in told or "nothing was" in told), f"{where}: {told}"
        asyncio.run(run(given, out))
        assert lines(out) == wanted and trees(given, out) == tree, f"{where}: other results after going on"
        ended += 1
        k += each
    assert {"INSERT", "COMMIT", "BEGIN", "rows", "write", "fsync", "rename"} <= kinds or each > 1
    print(f"{error}{' for ever' * for_ever}{', short' * short}: {ended} of {k - 1} acts ({', '.join(sorted(kinds))}), each "
          "ended with what is safe and went on to equal results")  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_a_write_that_fails_ends_the_run_which_goes_on(asked: Path, tmp_path: Path, error: str):
    fail_everywhere(asked, tmp_path, error, for_ever=error == "ENOSPC", short=error == "ENOSPC", each=9)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("for_ever", "short"), [(False, False), (True, False), (False, True)])
def test_every_write_that_fails_ends_the_run_which_goes_on(
    asked: Path, tmp_path: Path, error: str, for_ever: bool, short: bool
):
    fail_everywhere(asked, tmp_path, error, for_ever, short, each=1)


# The process itself


def started(folder: Path, *, prepare: Callable[[], None] | None = None, out: str = "out", problems: int = 40) -> Any:
    rows = (f'{{"id": "p{k}", "question": "question {k}", "answer": "{k}"}}\n' for k in range(problems))
    (folder / "set.jsonl").write_text("".join(rows))
    return subprocess.run(command(out), cwd=folder, capture_output=True, text=True, preexec_fn=prepare)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [150, 400])
def test_a_limit_of_file_sizes_ends_the_run_which_goes_on(tmp_path: Path, kilobytes: int):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, kilobytes << 10))

    ended = started(tmp_path, prepare=limit)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert "cannot write" in ended.stderr and "safe" in ended.stderr and "go on with" in ended.stderr
    assert started(tmp_path).returncode == 0 and started(tmp_path, out="whole").returncode == 0
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")


def mounted(options: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a file system of its own at $at; skips where that is not allowed."""
    inside = f"set -e; at=$(mktemp -d); mount -t tmpfs -o {options} none $at; {script}"
    if subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(["unshare", "-m", "sh", "-c", inside], capture_output=True, text=True, env=environment)


SETS = ("--set problems=$at/set.jsonl --set task=plain --set 'proposer={type: simulated, steps: 4}' --set scorer=simulated "
        "--set 'search={type: mcts, simulations: 40}'")  # fmt: skip
PROBLEMS = 'i=0; while [ $i -lt 60 ]; do echo "{\\"question\\": \\"q$i\\", \\"answer\\": \\"1\\"}"; i=$((i+1)); done'


@pytest.mark.slow
def test_a_full_disk_ends_the_run_which_goes_on_once_there_is_room(tmp_path: Path):
    script = (
        f"{PROBLEMS} > $at/set.jsonl; code=0; $PYTHON -m treesearch run {SETS} --out $at/out || code=$?; echo code $code; "
        f"mount -o remount,size=64m $at; $PYTHON -m treesearch run {SETS} --out $at/out; "
        f"$PYTHON -m treesearch run {SETS} --out $at/whole; cp -r $at/out $at/whole {tmp_path}"
    )
    done = mounted("size=1m", script)
    assert done.returncode == 0 and "code 1\n" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert (
        "error: cannot write" in done.stderr and "safe" in done.stderr and "go on with: treesearch run" in done.stderr
    )
    assert lines(tmp_path / "out") == lines(tmp_path / "whole") and len(lines(tmp_path / "out")) == 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("mount -o remount,ro $at", "Read-only file system"),
        ("dd if=/dev/zero of=$at/all bs=4096 2>/dev/null || true", "No space left on device"),
    ],
)
def test_a_folder_that_cannot_be_written_is_said_before_a_model_loads(spoil: str, told: str):
    """The model does not exist: that would be said if it were looked for."""
    model = "--set 'proposer={type: transformers, model: /nowhere}'"
    script = f"{PROBLEMS} > $at/set.jsonl; {spoil}; $PYTHON -m treesearch run {SETS} {model} --out $at/new/out"
    done = mounted("size=1m", script)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: cannot write to " in done.stderr and told in done.stderr and "nothing was begun" in done.stderr


def test_a_folder_of_somebody_else_is_said_before_a_model_loads(asked: Path, tmp_path: Path, monkeypatch: Any):
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(RunError, match=r"cannot write to .*: Permission denied; .*nothing was begun"):
        asyncio.run(run(config(asked, "beam", "proposer={type: transformers, model: /nowhere}"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()
