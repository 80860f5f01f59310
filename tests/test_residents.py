"""Which trees go on: the oldest, as many as a scorer's cache holds; the others' jobs wait, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.fakes import FakeProposer, FakeScorer, problems
from tests.test_backpressure import turns
from tests.test_engine import make, run
from treesearch.algorithms.sample import Sample
from treesearch.manager import LETTERS, STEP, Budget, Manager
from treesearch.residents import FILLED, Residents
from treesearch.types import Expand, Expansion, Problem, Step

KEEPS = 1000
ROOM = round(FILLED * KEEPS)
Scene = Callable[[Residents, Callable[..., asyncio.Task[None]], list[str]], Awaitable[None]]


def played(scene: Scene) -> None:
    """`asks(tree)` lets a job of the tree wait for its turn; those that went are in the list."""

    async def main() -> None:
        residents, went = Residents(), list[str]()

        async def ask(tree: int, job: str) -> None:
            await residents.turn(tree, job)
            went.append(job)

        def asks(tree: int, number: int = 0) -> asyncio.Task[None]:
            return asyncio.create_task(ask(tree, f"p{tree}/{number}"))

        await scene(residents, asks, went)

    asyncio.run(main())


def test_the_oldest_trees_go_as_many_as_fit_and_the_next_when_one_ends() -> None:
    async def scene(residents: Residents, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        for tree in (3, 0, 2, 1):
            residents.note(tree, ROOM // 2, 0, KEEPS)
        asks(3), asks(2), asks(2, 1), asks(1), asks(0)
        await turns()
        assert went == ["p1/0", "p0/0"] and residents.waits("p2/1") and not residents.waits("p0/0")
        residents.end(0)
        await turns()
        assert went[2:] == ["p2/0", "p2/1"] and residents.waits("p3/0")
        residents.end(0)  # again: nothing
        residents.end(2)
        await turns()
        assert went[4:] == ["p3/0"]

    played(scene)


def test_one_tree_always_goes_however_large_and_what_grows_displaces_the_youngest() -> None:
    async def scene(residents: Residents, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        residents.note(0, ROOM // 4, 0, KEEPS)
        residents.note(1, ROOM // 4, 0, KEEPS)
        await asks(1)
        residents.note(0, 10 * KEEPS, 0, KEEPS)
        await asks(0)
        asks(1, 1)
        await turns()
        assert went == ["p1/0", "p0/0"]
        residents.note(0, ROOM // 4, 0, KEEPS)
        await turns()
        assert went[2:] == ["p1/1"]

    played(scene)


def test_scorers_have_rooms_of_their_own_and_nobody_waits_at_one_that_is_gone() -> None:
    async def scene(residents: Residents, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        for tree, scorer in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 0)):
            residents.note(tree, ROOM, scorer, KEEPS)
        for tree in range(6):
            asks(tree)
        await turns()
        assert went == ["p0/0", "p2/0", "p5/0"], "the oldest of each, and one of which nothing is known"
        residents.note(1, ROOM, 2, KEEPS)  # another replica takes it over
        await turns()
        assert went[3:] == ["p1/0"]
        residents.leave(0)
        residents.leave(7)
        await turns()
        assert went[4:] == ["p4/0"] and residents.waits("p3/0")
        residents.end(4)

    played(scene)


def test_a_job_that_nobody_wants_waits_no_more() -> None:
    async def scene(residents: Residents, asks: Callable[..., asyncio.Task[None]], went: list[str]) -> None:
        residents.note(0, ROOM, 0, KEEPS)
        residents.note(1, ROOM, 0, KEEPS)
        unwanted = asks(1)
        await turns()
        unwanted.cancel()
        await turns()
        assert not residents.waits("p1/0")
        residents.end(0)
        await turns()
        assert went == []

    played(scene)


def test_a_working_set_counts_the_question_each_node_on_the_way_once_and_what_will_be_drawn() -> None:
    class Levels:
        def search(self, tree: Any) -> Any:
            first = tree.grow((yield [Expand(0, 2)]))
            second = tree.grow((yield [Expand(first[0], 2)]))
            yield [Expand(second[0], 3), Expand(second[1], 1)]

    manager = Manager(Levels())
    question = "x" * (LETTERS * 10)
    manager.open(Problem("p", question), 0.0)
    live = manager.live["p"]
    assert manager.working_set(live) == 10 + 2 * STEP
    step, unknown = Step("a\n", tokens=30), Step("y" * (LETTERS * 50))
    manager.deliver("p/0", Expansion(0, ((step,), (step,))), 0.0)
    assert manager.working_set(live) == 10 + 30 + 2 * 30
    manager.deliver("p/1", Expansion(1, ((step,), (step,))), 0.0)
    assert manager.working_set(live) == 10 + 3 * 30 + 4 * 30, "the node that both paths share counts once"
    live.tree.steps[1] = unknown
    assert manager.working_set(live) == 10 + 3 * 30 + 4 * 30, "once a round"
    live.due = 0
    assert manager.working_set(live) == 10 + 50 + 2 * 30 + 4 * 30, "by its letters, where nobody counted tokens"


class Small(FakeScorer):
    """Keeps few tokens; notes the most problems that it was asked about at once."""

    def __init__(self, keeps: int | None) -> None:
        self.keeps, self.now, self.most = keeps, list[str](), 0

    async def score(self, items):  # type: ignore[no-untyped-def]
        names = [job.problem.id for job, _ in items]
        self.now += names
        self.most = max(self.most, len(set(self.now)))
        await turns(20)
        for name in names:
            self.now.remove(name)
        return await super().score(items)


def test_chains_that_are_read_once_need_no_room() -> None:
    manager = Manager(Sample(n=8))
    manager.open(Problem("p", "x" * (LETTERS * 10)), 0.0)
    assert manager.working_set(manager.live["p"]) == 10
    free, small = Small(None), Small(100)
    for scorer in (free, small):
        run(make([FakeProposer(max_jobs=64)], [scorer], search=Sample(n=8)))
    assert small.most == free.most > 1


def test_an_engine_lets_fewer_trees_go_where_the_cache_is_small_and_finds_the_same() -> None:
    free, small = Small(None), Small(1)
    assert run(make([FakeProposer(max_jobs=64)], [free])) == run(make([FakeProposer(max_jobs=64)], [small]))
    assert free.most > 4 and small.most == 1
    hurried = Small(1)
    run(make([FakeProposer(max_jobs=64)], [hurried], budget=Budget(seconds=1e6)))
    assert hurried.most > 4, "where seconds are counted nobody waits for another"


def test_a_search_that_is_cancelled_while_it_waits_ends() -> None:
    engine = make([FakeProposer(max_jobs=64)], [Small(1)])

    async def main() -> list[str]:
        stream = engine.answers(problems(4))
        asking = asyncio.ensure_future(anext(stream))
        while not (waiting := [job_id for job_id in engine._tasks if engine.residents.waits(job_id)]):
            await turns(1)
        for problem_id in {job_id.split("/")[0] for job_id in waiting}:
            engine.cancel(problem_id)
        found = [await asyncio.wait_for(asking, 5)] + [answer async for answer in stream]
        return sorted(answer.stopped for answer in found)

    stopped = asyncio.run(main())
    assert len(stopped) == 4 and "cancelled" in stopped and "finished" in stopped
