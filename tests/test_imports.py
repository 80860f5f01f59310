"""`import treesearch` and `treesearch --help` load no heavy library and answer at once."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "vllm", "transformers", "openai")
REPORT = f"; import sys; print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
HELP = "from treesearch.cli import app; app(['--help'], standalone_mode=False)"
SECONDS = 0.5  # CPU time in user mode, interpreter start included


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_seconds(code: str) -> float:
    """User CPU time of one run: unlike the clock on the wall it does not count what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run(code)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


@pytest.mark.parametrize("code", ["import treesearch", HELP], ids=["import treesearch", "treesearch --help"])
def test_nothing_heavy_is_loaded(code: str):
    assert run(code + REPORT).splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("code", ["import treesearch", HELP], ids=["import treesearch", "treesearch --help"])
def test_the_answer_comes_within_half_a_second(code: str):
    assert min(cpu_seconds(code) for _ in range(5)) < SECONDS


def test_help_names_the_commands():
    output = run(HELP)
    for command in ("run", "solve", "sweep", "doctor"):
        assert command in output
