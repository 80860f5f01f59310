"""When jobs begin and proposers rest: not while a scorer has enough to read; then together, the oldest tree first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tests.fakes import FakeProposer, FakeScorer, problems
from tests.test_engine import make, run
from treesearch.backpressure import Backpressure
from treesearch.pool import Replica
from treesearch.types import Chain, Job

ENOUGH = 10


def played(scene: Callable[[Backpressure, Callable[..., asyncio.Task[None]], list[str]], Awaitable[None]]) -> list[str]:
    """The jobs whose turn came, in order; `asks(job, priority, scorer)` lets one wait for it."""
    went: list[str] = []

    async def main() -> None:
        pressure = Backpressure()

        async def ask(job: str, priority: int, scorer: int) -> None:
            await pressure.turn(scorer, ENOUGH, job, priority)
            went.append(job)

        def asks(job: str, priority: int = 0, scorer: int = 0) -> asyncio.Task[None]:
            return asyncio.create_task(ask(job, priority, scorer))

        await scene(pressure, asks, went)

    asyncio.run(main())
    return went


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_jobs_wait_for_a_scorer_that_has_enough_and_go_together_the_oldest_first() -> None:
    async def scene(pressure: Backpressure, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        asks("early")
        await turns()
        with pressure.reading(0, ENOUGH, ENOUGH - 1):
            with pressure.reading(0, ENOUGH, 1):
                asks("b/1", 1), asks("a/1", 0), asks("c/1", 2)
                asks("other", 0, scorer=1)
                await turns()
                assert went == ["early", "other"] and pressure.waits("a/1") and not pressure.waits("other")
            await turns()
            assert len(went) == 5 and not pressure.waits("a/1")

    assert played(scene) == ["early", "other", "a/1", "b/1", "c/1"]


def test_a_job_that_nobody_wants_waits_no_more_and_holds_nobody_up() -> None:
    async def scene(pressure: Backpressure, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        with pressure.reading(0, ENOUGH, ENOUGH):
            unwanted = asks("a/1")
            asks("b/1")
            await turns()
            unwanted.cancel()
            await turns()
            assert not pressure.waits("a/1") and pressure.waits("b/1")
        await turns()

    assert played(scene) == ["b/1"]


def test_a_scorer_of_which_nothing_is_known_holds_nobody_up() -> None:
    async def main() -> None:
        pressure = Backpressure()
        for nothing in (None, 0):
            with pressure.reading(0, nothing, 10**9):
                await asyncio.wait_for(pressure.turn(0, nothing, "a/1", 0), 1)

    asyncio.run(main())


def test_jobs_of_a_scorer_that_is_gone_go_on_though_it_is_still_read_elsewhere() -> None:
    async def scene(pressure: Backpressure, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        with pressure.reading(0, ENOUGH, ENOUGH):
            asks("b/1", 1), asks("a/1", 0)
            await turns()
            pressure.release(0)
            await turns()
            assert went == ["a/1", "b/1"]

    played(scene)


def test_a_search_that_ends_before_its_job_has_begun_waits_for_nobody() -> None:
    scorer = Slow(1)
    engine = make([FakeProposer(max_jobs=64)], [scorer])

    async def main() -> str:
        stream = engine.answers(problems(1))
        asking = asyncio.ensure_future(anext(stream))
        with engine.backpressure.reading(0, 1, 10):
            await turns(1)
            engine.cancel("p0")
            answer = await asyncio.wait_for(asking, 5)
        await stream.aclose()
        return str(answer.stopped)

    assert asyncio.run(main()) == "cancelled"


class Slow(FakeScorer):
    """Has enough with one token, and reads for some turns of the loop; notes the most items that it had at once."""

    def __init__(self, enough: int | None) -> None:
        self.enough, self.items, self.most = enough, 0, 0

    async def score(self, items):  # type: ignore[no-untyped-def]
        self.items += len(items)
        self.most = max(self.most, self.items)
        await turns(20)
        self.items -= len(items)
        return await super().score(items)


def test_an_engine_asks_for_less_while_its_scorer_is_busy_and_finds_the_same() -> None:
    held, free = Slow(1), Slow(None)
    assert run(make([FakeProposer(max_jobs=64)], [held])) == run(make([FakeProposer(max_jobs=64)], [free]))
    assert held.items == free.items == 0 and free.most == FakeScorer.max_jobs


def test_an_ended_search_does_not_wait_for_its_scorer() -> None:
    """A held job of a search that is cancelled is given up; its answer is there although the scorer never is done."""

    class Stuck(FakeScorer):
        enough = 1
        asked = 0

        async def score(self, items):  # type: ignore[no-untyped-def]
            self.asked += 1
            if items[0][0].problem.id == "p0":
                await asyncio.Event().wait()
            return await super().score(items)

    scorer = Stuck()
    engine = make([FakeProposer(max_jobs=64)], [scorer])

    async def main() -> list[str]:
        found = []
        stream = engine.answers(problems(3))
        asking = asyncio.ensure_future(anext(stream))
        await turns(200)
        held = [job_id for job_id in engine._tasks if engine.backpressure.waits(job_id)]
        assert {job_id.split("/")[0] for job_id in held} & {"p1", "p2"}
        for problem_id in ("p1", "p2"):
            engine.cancel(problem_id)
        found.append((await asyncio.wait_for(asking, 5)).problem.id)
        found.append((await asyncio.wait_for(anext(stream), 5)).problem.id)
        await stream.aclose()
        return sorted(found)

    assert asyncio.run(main()) == ["p1", "p2"]


def test_what_runs_beside_a_scorer_rests_while_that_has_enough_and_is_told_once() -> None:
    told: list[tuple[int, bool]] = []
    pressure = Backpressure(lambda *what: told.append(what))
    with pressure.reading(0, ENOUGH, ENOUGH - 1), pressure.reading(1, None, 10**9), pressure.reading(2, 0, 10**9):
        assert told == []
        with pressure.reading(0, ENOUGH, 1):
            with pressure.reading(0, ENOUGH, 1):
                assert told == [(0, True)]
            assert told == [(0, True)]
        assert told == [(0, True), (0, False)]
    assert told == [(0, True), (0, False)]


def test_nothing_rests_for_a_scorer_that_is_gone_though_it_is_still_read_elsewhere() -> None:
    told: list[tuple[int, bool]] = []
    pressure = Backpressure(lambda *what: told.append(what))
    with pressure.reading(0, ENOUGH, ENOUGH):
        with pressure.reading(0, ENOUGH, ENOUGH):
            pressure.release(0)
        assert told == [(0, True), (0, False)]
    assert told == [(0, True), (0, False)]


class Resting(FakeProposer):
    """Ends no job while it rests; `rests`: how often it did."""

    def __init__(self, card: object = None) -> None:
        super().__init__(max_jobs=64)
        self.rests, self.told, self.going = 0, False, asyncio.Event()
        self.going.set()
        if card is not None:
            self.card = card

    def rest(self, rests: bool) -> None:
        assert rests is not self.told
        self.told = rests
        self.rests += rests
        self.going.clear() if rests else self.going.set()

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        await turns(1)
        await self.going.wait()
        return await super().propose(jobs)


def test_a_proposer_rests_while_the_scorer_is_busy_and_the_same_is_found() -> None:
    resting, apart = Resting(), Resting(card="another")
    found = [run(make([proposer], [Slow(1)])) for proposer in (resting, apart)]
    assert found[0] == found[1] and found[0] == run(make([FakeProposer(max_jobs=64)], [Slow(None)]))
    assert resting.rests > 0 and not resting.told and apart.rests == 0


def test_a_proposer_goes_on_when_its_run_ends() -> None:
    proposer, scorer = Resting(), Slow(1)
    engine = make([proposer], [scorer])

    async def main() -> None:
        stream = engine.answers(problems(4))
        asking = asyncio.ensure_future(anext(stream))
        while not proposer.told:
            await turns(1)
        asking.cancel()
        await asyncio.wait([asking])
        await stream.aclose()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert proposer.rests == 1 and not proposer.told


def test_only_replicas_on_the_card_rest() -> None:
    told: list[str] = []

    def replica(name: str, card: str | None) -> Replica:
        return Replica(FakeProposer().propose, 8, rest=lambda rests: told.append(f"{name} {rests}"), card=card)

    engine = make([FakeProposer()], [FakeScorer()])
    assert engine.scorers is not None
    for name, card in (("a", "1"), ("b", "2"), ("c", None)):
        engine.proposers.join(replica(name, card))
    scorer = engine.scorers.join(Replica(FakeScorer().score, 8, enough=ENOUGH, card="1"))
    with engine.backpressure.reading(scorer, ENOUGH, ENOUGH):
        assert told == ["a True"]
    assert told == ["a True", "a False"]
    other = engine.scorers.join(Replica(FakeScorer().score, 8, enough=ENOUGH, card="1"))
    with engine.backpressure.reading(other, ENOUGH, ENOUGH):
        with engine.backpressure.reading(scorer, ENOUGH, ENOUGH):
            del told[:]
        assert told == ["a True"], "another scorer there has enough"
    assert told == ["a True", "a False"]
