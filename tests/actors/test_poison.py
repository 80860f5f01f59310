"""One poisonous problem in 100 on a real Ray: the others are answered as if it were not there, at two restarts, or three
where whole processes go without a word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.ray]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("after", "silent"), [(0.0, False), (0.5, False), (0.5, True)])
def test_one_problem_in_a_hundred_kills_two_replicas_and_no_answer(tmp_path: Path, after: float, silent: bool) -> None:
    """At once, before anything can be said of it, or in the middle of a request. A Ray keeps what is of its process, as
    its token: this one has a process of its own."""
    mortal = f"proposer={{type: 'benchmarks.poison:Mortal', base_ms: 100, after: {after}, silent: {silent}}}"
    command = [sys.executable, "-m", "benchmarks.poison", "--simulations", "12", "--rounds", "1", "--set", mortal]
    home = {**os.environ, "HOME": str(tmp_path)}  # Ray writes a token there
    subprocess.run([*command, "--json", str(tmp_path / "found.json")], cwd=ROOT, env=home, check=True, timeout=200)
    (found,) = json.loads((tmp_path / "found.json").read_text())["rounds"]
    assert found["equal"] == found["of"] == 99
    assert found["restarts"] <= (3 if silent else 2)
    assert "poison" in found["error"]
