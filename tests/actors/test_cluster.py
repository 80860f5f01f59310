"""What the driver hands out, without a Ray."""

from __future__ import annotations

from typing import Any

import pytest

from actors.cluster import Cluster
from tests.fakes import problems
from treesearch.config import load
from treesearch.tasks import load_task


@pytest.mark.parametrize("unread", [3, None])
@pytest.mark.parametrize("managers", [1, 2])
def test_the_source_is_asked_until_it_says_that_it_ends(unread: int | None, managers: int) -> None:
    """Where the number of problems is known, nobody asked for more after the last one, and no run on Ray ended."""
    nothing: Any = None
    cluster = Cluster(load(None, [f"cluster.managers={managers}"]), load_task("plain"), nothing, nothing)
    cluster._source, cluster._unread = iter(problems(3)), unread
    handed = [problem.id for _ in range(6) for problem in cluster._next(4)]
    assert handed == ["p0", "p1", "p2"] and cluster._ended
    assert not cluster._done(), "they are under way"
