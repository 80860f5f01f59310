"""One poisonous problem in 100 on a real Ray: the others are answered as if it were not there, at two restarts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.poison import compared

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.ray]


@pytest.fixture(scope="module", autouse=True)
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home, before = tmp_path_factory.mktemp("home"), os.environ.get("HOME")
    os.environ["HOME"] = str(home)  # Ray writes a token there
    import ray

    ray.init(address="local", include_dashboard=False, logging_level="WARNING")
    yield
    ray.shutdown()
    os.environ["HOME"] = before or ""


@pytest.mark.parametrize("after", [0.0, 0.5])
def test_one_problem_in_a_hundred_kills_two_replicas_and_no_answer(tmp_path: Path, after: float) -> None:
    """At once, before anything can be said of it, or in the middle of a request."""
    spec = f"proposer={{type: 'benchmarks.poison:Mortal', base_ms: 100, after: {after}}}"
    found = asyncio.run(asyncio.wait_for(compared(tmp_path, 100, 12, 2, spec), 200))
    print(found)
    assert found["equal"] == found["of"] == 99
    assert found["restarts"] <= 2
    assert "poison" in found["error"]
