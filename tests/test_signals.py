"""SIGTERM and Ctrl-C stop a run between two replies, say how to go on, and lose nothing that was delivered."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SECONDS = 2.0  # from the signal to the line that says how to go on


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


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_which_then_resumes_to_the_results_of_a_whole_one(folder: Path, sign: signal.Signals):
    seconds, code, said = interrupted(folder, sign)
    assert code == 130 and seconds < SECONDS
    assert "go on with: treesearch run out/config.yaml --out out" in said and "Traceback" not in said
    found = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert 3 <= len(found) < 12
    subprocess.run(command(folder), cwd=folder, check=True, capture_output=True)
    stopped = rows(folder / "out")
    (folder / "out").rename(folder / "first")
    subprocess.run(command(folder), cwd=folder, check=True, capture_output=True)
    assert stopped == rows(folder / "out") and len(stopped) == 12


@pytest.mark.slow
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


def rows(out: Path) -> list[dict]:
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "tokens")} for row in found]
