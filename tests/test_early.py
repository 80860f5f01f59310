"""Chains that are scored while others of their job are drawn: the same scores, each asked for once, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.fakes import FakeProposer, FakeScorer
from tests.test_engine import make, run
from treesearch import early
from treesearch.algorithms import SEARCHES
from treesearch.backends.base import Scored, Tell
from treesearch.early import Early
from treesearch.types import Chain, Job, Problem, Sampling, Step

BEAM = SEARCHES["beam"](beams=3, branch=4)


class Telling(FakeProposer):
    """Draws the chains of a job one by one, and tells of each; `lies` once of another chain than it then gives."""

    tell: Tell | None = None
    lies = False

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        replies = await super().propose(jobs)
        for job, chains in zip(jobs, replies, strict=True):
            assert self.tell is not None and not isinstance(chains, Exception)
            for k, chain in enumerate(chains):
                if self.lies and k == 0:
                    chain = (replace(chain[0], text="other\n", score=-1.0), *chain[1:])
                self.tell(job, k, chain)
                for _ in range(5):
                    await asyncio.sleep(0)
        return replies


class Noting(FakeScorer):
    """Notes the chains of each item, and a chain's path with it."""

    max_jobs = 64

    def __init__(self) -> None:
        self.items: list[int] = []
        self.read: list[tuple[str, ...]] = []

    async def score(self, items: Any) -> list[Any]:
        for job, chains in items:
            self.items.append(len(chains))
            self.read += [(job.problem.id, *(step.text for step in (*job.path, *chain))) for chain in chains]
        return await super().score(items)


def test_chains_are_read_as_they_come_and_none_twice(monkeypatch: Any) -> None:
    monkeypatch.setattr(early, "WORTH", 1)
    plain, noting = Noting(), Noting()
    assert run(make([Telling(max_jobs=64)], [noting], search=BEAM)) == run(
        make([FakeProposer(max_jobs=64)], [plain], search=BEAM)
    )
    assert sorted(noting.read) == sorted(plain.read)
    assert noting.items.count(1) > len(noting.items) / 2 and plain.items.count(1) == 0


def test_what_is_told_and_is_not_so_does_not_count(monkeypatch: Any) -> None:
    monkeypatch.setattr(early, "WORTH", 1)
    liar = Telling(max_jobs=64)
    liar.lies = True
    assert run(make([liar], [Noting()], search=BEAM)) == run(make([FakeProposer()], search=BEAM))


def test_a_scorer_that_fails_fails_the_job_as_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(early, "WORTH", 1)

    class Failing(Noting):
        async def score(self, items: Any) -> list[Any]:
            return [ValueError("no") if chains[0][0].text == "3\n" else reply
                    for (_, chains), reply in zip(items, await super().score(items), strict=True)]  # fmt: skip

    engine = make([Telling(max_jobs=64)], [Failing()], search=BEAM)
    assert len(run(engine)) == 8 and engine.stats.failed > 0


def job(name: str, n: int) -> Job:
    return Job(name, Problem("p", "?"), (), 0, n, "step", Sampling(), 1)


def chain(text: str, tokens: int) -> Chain:
    return (Step(text, tokens=tokens),)


def test_chains_wait_until_they_fill_a_step_or_go_along() -> None:
    asked: list[str] = []

    async def score(name: str, job: Job, chains: tuple[Chain, ...]) -> Scored:
        asked.append(name)
        return Scored(((0.5,),), 1)

    async def main() -> None:
        some, a, b = Early(score), job("p/1", 3), job("p/2", 3)
        some.begin(a), some.begin(b)
        some.tell(0, a, 0, chain("x", early.WORTH - 1))
        some.tell(1, b, 0, chain("y", early.WORTH - 1))  # of another scorer
        await asyncio.sleep(0)
        assert asked == []
        some.tell(0, b, 1, chain("z", 1))
        await asyncio.sleep(0)
        assert asked == ["p/1#0", "p/2#1"]
        some.tell(0, a, 1, chain("v", 1))
        some.tell(0, replace(b), 2, chain("w", 1))  # of another engine
        assert list(some.told("p/2", [chain("y", early.WORTH - 1), chain("z", 1)])) == [1]
        some.send(0), some.send(1)
        await asyncio.sleep(0)
        assert asked == [
            "p/1#0",
            "p/2#1",
            "p/1#1",
        ]  # job 2 has all its chains: what waited of it is asked with the rest
        await some.end("p/1")
        await some.end("p/2")
        some.tell(0, a, 2, chain("late", early.WORTH))
        await asyncio.sleep(0)
        assert len(asked) == 3

    asyncio.run(main())


def test_what_is_read_of_a_job_that_ends_is_given_up() -> None:
    ended: list[str] = []

    async def score(name: str, job: Job, chains: tuple[Chain, ...]) -> Scored:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
        raise AssertionError

    async def main() -> None:
        some, a = Early(score), job("p/1", 2)
        some.begin(a)
        some.tell(0, a, 0, chain("x", early.WORTH))
        await asyncio.sleep(0)
        await asyncio.wait_for(some.end("p/1"), 1)

    asyncio.run(main())
    assert ended == ["p/1#0"]
