"""The command line: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.specs import Calls, install
from treesearch.cli import app
from treesearch.errors import RunError
from treesearch.store import Store

ARGUMENTS = ["--set", "task=plain", "--set", "search={type: sample, n: 3}"]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("set.jsonl").write_text("".join(json.dumps({"question": f"q{k}", "answer": "1"}) + "\n" for k in range(3)))


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_run_prints_its_folder_first_and_last_and_exits_with_0():
    done = call("run", *ARGUMENTS, "--set", "problems=set.jsonl")
    assert done.exit_code == 0, done.output
    printed = done.stdout.splitlines()
    assert printed[0] == printed[-1] and Path(printed[0]).parent == Path("runs") and printed[0].endswith("-mcts")
    assert {"config.yaml", "run.db", "results.jsonl", "summary.json"} <= {p.name for p in Path(printed[0]).iterdir()}
    assert "[SIMULATED]" in done.stdout and "accuracy" in done.stdout


def test_run_again_with_the_written_config_does_nothing():
    assert call("run", *ARGUMENTS, "--set", "problems=set.jsonl", "--out", "o").exit_code == 0
    asked = Calls.asked
    assert call("run", "o/config.yaml", "--out", "o").exit_code == 0
    assert Calls.asked == asked


def test_an_interrupted_run_exits_with_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Calls, "interrupt_after", 4)
    done = call("run", *ARGUMENTS, "--set", "problems=set.jsonl", "--out", "o")
    assert done.exit_code == 130
    assert "go on with: treesearch run o/config.yaml --out o" in done.stderr
    monkeypatch.setattr(Calls, "interrupt_after", None)
    assert call("run", "o/config.yaml", "--out", "o").exit_code == 0
    assert len(Path("o/results.jsonl").read_text().splitlines()) == 3


def test_a_run_that_cannot_go_on_says_why_and_how_by_its_exit_code(monkeypatch: pytest.MonkeyPatch):
    error = RunError("no proposer is left")

    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", fails)
        done = call("run", *ARGUMENTS, "--set", "problems=set.jsonl", "--out", "o")
    assert done.exit_code == 1
    assert done.stderr.endswith(f"error: {error}\ngo on with: treesearch run o/config.yaml --out o\n")
    assert call("run", "o/config.yaml", "--out", "o").exit_code == 0


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["run", "none.yaml"], "no such file"),
        (["run", "--set", "serach.n=1"], "did you mean search?"),
        (["run", "--set", "problems=none.jsonl"], "no such file"),
        (["run", "--set", "task=game42"], "game24"),
        (["run", *ARGUMENTS, "--set", "search.n=0"], "search.n = 0: must be at least 1"),
        (["solve", "q", "--config", "none.yaml"], "no such file"),
        (["sweep", "none.yaml", "--out", "o"], "no such file"),
    ],
)
def test_bad_config_exits_with_2_and_one_message(arguments: list[str], part: str):
    done = call(*arguments)
    assert done.exit_code == 2 and part in done.stderr
    assert "Traceback" not in done.output and len(done.stderr.splitlines()) == 1
    assert not Path("o").exists()


def test_bad_usage_exits_with_2():
    assert call("run", "--nonsense").exit_code == 2
    assert call("sweep", "a.yaml").exit_code == 2


def test_solve_prints_the_answer_last():
    done = call("solve", "what?", *ARGUMENTS)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "SIMULATED"
    assert set(done.stdout.splitlines()[-1].split()) <= set("012345")


def test_solve_without_an_answer_exits_with_1():
    done = call("solve", "what?", *ARGUMENTS, "--set", "proposer.failures=1")
    assert done.exit_code == 1 and "no answer was found" in done.stderr


def test_a_question_that_is_no_text_is_refused():
    done = call("solve", "caf\udce9", *ARGUMENTS)
    assert done.exit_code == 2 and "set the terminal to UTF-8" in done.stderr


def test_python_dash_m_is_the_same_command_line():
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "treesearch", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 0 and "solve" in done.stdout
