"""SIGTERM and Ctrl-C stop a run between two replies, say how to go on, and lose nothing that was delivered."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS = 2.0  # from the signal to the end of the process
AT_ONCE = 1.0  # to the line that says how to go on


def command(folder: Path, *more: str) -> list[str]:
    given = ["problems=set.jsonl", "task=plain", "search={type: mcts, simulations: 20, rollouts: 1}", "engine.trees=2",
             "proposer={type: simulated, steps: 4, base_ms: 20}", "scorer=simulated"]  # fmt: skip
    sets = [part for text in given for part in ("--set", text)]
    return [sys.executable, "-m", "treesearch", "run", *sets, "--out", "out", *more]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ({"id": f"p{k}", "question": f"question {k}", "answer": str(k)} for k in range(12))
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def interrupted(folder: Path, sign: signal.Signals) -> tuple[float, int, str]:
    """(seconds to the line that says how to go on, exit code, standard error) of a run stopped after three lines."""
    run = subprocess.Popen(command(folder), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    results = folder / "out" / "results.jsonl"
    for _ in range(1200):
        if results.exists() and results.read_text().count("\n") >= 3:
            break
        time.sleep(0.05)
    struck = time.monotonic()
    run.send_signal(sign)
    assert run.stderr is not None
    said = ""
    while "go on with" not in said and (line := run.stderr.readline()):
        said += line
    seconds = time.monotonic() - struck
    return seconds, run.wait(30), said


@pytest.mark.parametrize(
    "sign", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGHUP, marks=[pytest.mark.slow, pytest.mark.alone])]
)
def test_a_signal_stops_the_run_which_then_resumes_to_the_results_of_a_whole_one(folder: Path, sign: signal.Signals):
    seconds, code, said = interrupted(folder, sign)
    assert code == 130 and seconds < AT_ONCE
    assert "go on with: treesearch run out/config.yaml --out out" in said and "Traceback" not in said
    found = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert 3 <= len(found) < 12
    subprocess.run(command(folder), cwd=folder, check=True, capture_output=True)
    stopped = rows(folder / "out")
    (folder / "out").rename(folder / "first")
    subprocess.run(command(folder), cwd=folder, check=True, capture_output=True)
    assert stopped == rows(folder / "out") and len(stopped) == 12


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("given", [0, 2])
def test_a_run_that_waits_for_standard_input_stops_too_and_goes_on_with_all_of_it(
    folder: Path, sign: signal.Signals, given: int
):
    more = ["--set", "problems=-"]
    lines = (folder / "set.jsonl").read_bytes().splitlines(keepends=True)
    run = subprocess.Popen(command(folder, *more), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)  # fmt: skip
    assert run.stdin is not None and run.stdout is not None and run.stderr is not None
    assert run.stdout.readline() == b"out\n"
    run.stdin.write(b"".join(lines[:given]))
    run.stdin.flush()
    results = folder / "out" / "results.jsonl"
    for _ in range(1200):
        if not given or (results.exists() and results.read_text().count("\n") == given):
            break
        time.sleep(0.05)
    time.sleep(0.5 if given else 2)  # signals are heeded once the loop runs
    struck = time.monotonic()
    run.send_signal(sign)
    assert run.wait(30) == 130 and time.monotonic() - struck < 5 * SECONDS  # to the end of the process
    said = run.stderr.read()
    assert b"go on with" in said and b"Traceback" not in said and b"Fatal" not in said
    done = subprocess.run(command(folder, *more), cwd=folder, input=b"".join(lines), capture_output=True)
    assert done.returncode == 0 and [row["id"] for row in rows(folder / "out")] == [f"p{k}" for k in range(12)]


STUBBORN = """
import time
from dataclasses import dataclass
from treesearch.backends.simulated import Simulated

@dataclass(frozen=True)
class Stubborn(Simulated):
    def build(self, *given):
        built = super().build(*given)
        async def close():
            print("closing", flush=True)
            time.sleep(60)
        built.close = close
        return built
"""


@pytest.mark.parametrize(
    "sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=[pytest.mark.slow, pytest.mark.alone])]
)
def test_a_second_signal_ends_a_run_that_takes_long_to_stop(folder: Path, sign: signal.Signals):
    (folder / "stubborn.py").write_text(STUBBORN)
    more = ["--set", "proposer={type: 'stubborn:Stubborn', base_ms: 20}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(folder)])}
    run = subprocess.Popen(command(folder, *more), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           env=environment)  # fmt: skip
    assert run.stdout is not None and run.stderr is not None
    results = folder / "out" / "results.jsonl"
    wait_for(lambda: results.exists() and results.read_text().count("\n") >= 3)
    run.send_signal(sign)
    assert "closing\n" in run.stdout  # all is written, but the model does not end
    struck = time.monotonic()
    run.send_signal(sign)
    assert run.wait(30) == 130 and time.monotonic() - struck < AT_ONCE
    assert run.stderr.read().endswith("interrupted\ngo on with: treesearch run out/config.yaml --out out\n")
    assert len(rows(folder / "out")) >= 3


def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(folder: Path):
    """All processes of the foreground get it; the live line goes, the cursor comes back."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execv(sys.executable, command(folder))
    said, struck = b"", math.inf
    results = folder / "out" / "results.jsonl"
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # its last process has ended
            break
        if struck == math.inf and results.exists() and results.read_text().count("\n") >= 3:
            struck = time.monotonic()
            os.write(terminal, b"\x03")
    seconds = time.monotonic() - struck
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130 and seconds < SECONDS
    assert b"interrupted" in said and b"go on with" in said and b"Traceback" not in said
    assert said.rfind(b"\x1b[?25h") > said.rfind(b"\x1b[?25l") >= 0  # the cursor was hidden, and is shown


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_that_is_stopped_and_continued_ends_as_if_it_had_not_been(folder: Path):
    """SIGSTOP and SIGCONT: a closed laptop, a scheduler that suspends."""
    run = subprocess.Popen(command(folder, "--set", "budget.seconds=600"), cwd=folder, stdout=subprocess.DEVNULL)
    results = folder / "out" / "results.jsonl"
    for most in (1, 5):
        wait_for(lambda most=most: results.exists() and results.read_text().count("\n") >= most)
        run.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        lines = results.read_text().count("\n")
        time.sleep(0.3)
        assert results.read_text().count("\n") == lines
        run.send_signal(signal.SIGCONT)
    assert run.wait(60) == 0
    stopped = rows(folder / "out")
    (folder / "out").rename(folder / "first")
    subprocess.run(command(folder, "--set", "budget.seconds=600"), cwd=folder, check=True, capture_output=True)
    assert stopped == rows(folder / "out") and len(stopped) == 12


def wait_for(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        time.sleep(0.01)


def rows(out: Path) -> list[dict]:
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "tokens")} for row in found]
