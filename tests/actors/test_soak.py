"""A short soak: a fault each ten seconds for two minutes, and every problem has the answer of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_short_soak_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """What grows shows only in an hour: `python -m benchmarks.soak`."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        "--minutes",
        "1.5",
        "--every",
        "10",
        "--rate",
        "1",
        "--keep",
        tmp_path / "runs",
    ]
    soak = subprocess.run(command, cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True)
    print(soak.stdout)
    said = [log.read_text()[-2000:] for log in (tmp_path / "runs").glob("*.log")]
    assert soak.returncode == 0, "\n".join([soak.stdout, soak.stderr[-2000:], *said])
    assert "SIMULATED" in soak.stdout and "FAILED" not in soak.stdout
    assert soak.stdout.count("lines unlike an undisturbed run's") == 3
