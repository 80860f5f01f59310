"""The public way of asking a PRM, and what is said of the ways side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.levels import Fours, verdicts
from tests.backends.models import job
from treesearch.backends.base import Scored
from treesearch.types import Chain, Job, Step


class Asked:
    """A PRM that gives each chain its number as a score, and notes how many it was asked at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.forgotten = 0

    async def forget(self) -> None:
        self.forgotten += 1

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored]:
        self.sizes += [len(chains) for _, chains in items]
        return [Scored(tuple((float(c[0].text),) for c in chains), len(chains)) for _, chains in items]


def test_four_chains_are_asked_at_a_time_and_nothing_is_remembered() -> None:
    scorer, chains = Asked(), tuple((Step(str(k)),) for k in range(10))
    first, second = asyncio.run(Fours(scorer).score([(job(), chains), (job(), chains[:1])]))
    assert scorer.sizes == [4, 4, 2, 1] and scorer.forgotten == 4
    assert first == Scored(tuple((float(k),) for k in range(10)), 10) and second == Scored(((0.0,),), 1)


def test_ways_are_compared_search_by_search(capsys: pytest.CaptureFixture[str]) -> None:
    def row(search: str, way: str, rate: float, **more: Any) -> dict[str, Any]:
        return {"search": search, "n": 16, "way": way, "rate": rate, **more}

    verdicts([row("beam", "treesearch", 6.0, eta=0.9), row("beam", "level", 2.0), row("mcts", "level", 1.0)])
    assert capsys.readouterr().out == "beam 16: 3.0 times level (goal 3); eta 0.90 (goal 0.5)\n"
