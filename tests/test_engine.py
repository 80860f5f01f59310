"""The engine on fake replicas: same answers however many there are; faults, budgets, resumption, and what they cost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes import FakeProposer, FakeScorer, InlineChecker, problems
from treesearch.algorithms import SEARCHES
from treesearch.backends.base import Scored
from treesearch.engine import Engine, Settings
from treesearch.errors import RequestError, RunError
from treesearch.manager import Budget
from treesearch.store import Store
from treesearch.types import Answer, Chain, Job

SEARCH = SEARCHES["mcts"](simulations=10, parallel=4, branch=3)


def make(proposers: Sequence[Any], scorers: Sequence[Any] | None = None, *, search: Any = SEARCH, store: Store | None = None,
         **settings: Any) -> Engine:  # fmt: skip
    scorers = [FakeScorer()] if scorers is None else scorers
    return Engine(search, None, proposers, scorers, settings=Settings(**settings), checker=InlineChecker(), store=store)  # type: ignore[arg-type]


def run(engine: Engine, count: int = 8) -> dict[str, Answer]:
    async def main() -> list[Answer]:
        return [answer async for answer in engine.answers(problems(count))]

    return {a.problem.id: replace(a, seconds=0.0, tokens_wasted=0) for a in asyncio.run(main())}


def test_any_number_of_replicas_gives_the_same_answers() -> None:
    one = run(make([FakeProposer(max_jobs=1)]))
    many = run(make([FakeProposer(max_jobs=7, seed=k) for k in range(4)], [FakeScorer(), FakeScorer()]))
    assert one == many and len(one) == 8


def test_replicas_that_crash_lose_nothing() -> None:
    calm, stormy = run(make([FakeProposer()])), make([FakeProposer(), FakeProposer(seed=1, crashes=0.05)])
    assert run(stormy) == calm
    assert stormy.proposers.retries > 0


def test_a_failed_request_is_a_value_and_counted() -> None:
    engine = make([FakeProposer(failures=0.2)])
    assert len(run(engine)) == 8
    assert engine.stats.failed > 0


def test_credits_bound_what_is_in_flight() -> None:
    proposer = FakeProposer(max_jobs=3)
    run(make([proposer]))
    assert proposer.most == 3


def test_all_sampled_tokens_are_generated_or_wasted() -> None:
    proposer = FakeProposer()
    engine = make([proposer], search=SEARCHES["sample"](n=12, parallel=6, stop="certain"))

    async def main() -> list[Answer]:
        return [answer async for answer in engine.answers(problems(8))]

    answers = asyncio.run(main())
    assert sum((a.tokens_generated or 0) + (a.tokens_wasted or 0) for a in answers) == proposer.sampled
    assert any(a.tokens_wasted for a in answers) and any(a.stopped == "decided" for a in answers)


def test_a_stopped_run_resumes_from_its_journal_to_the_same_answers(tmp_path: Path) -> None:
    whole = run(make([FakeProposer()]))
    for k in (1, 3, 5):

        async def some(k: int, store: Store) -> None:
            engine = make([FakeProposer(seed=k)], store=store, trees=3)
            seen = 0
            stream = engine.answers(problems(8))
            async for _ in stream:
                seen += 1
                if seen == k:
                    break
            await stream.aclose()

        store = Store.open(tmp_path / f"{k}.db", "a")
        asyncio.run(some(k, store))
        store.close()
        store = Store.open(tmp_path / f"{k}.db", "a")
        again = FakeProposer(seed=9)
        assert run(make([again], store=store)) == whole
        store.close()


def test_a_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    first = run(make([FakeProposer()], store=store))
    store.close()
    store, idle = Store.open(tmp_path / "run.db", "a"), FakeProposer()
    assert run(make([idle], store=store)) == first
    assert idle.calls == 0
    store.close()


class Deaf(FakeProposer):
    """Answers what is asked for p0; the rest waits for ever, and swallows the first `interrupts`."""

    interrupts = 0

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        while jobs[0].problem.id != "p0":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.interrupts -= 1
                if self.interrupts < 0:
                    raise
        return await super().propose(jobs)


def stopped_after_one(engine: Engine, opened: list[str]) -> None:
    """Stop the engine when the first of a thousand problems has its answer; `opened` are those it took."""

    async def main() -> None:
        stream = engine.answers(p for p in problems(1000) if opened.append(p.id) is None)
        async for _ in stream:
            break
        assert len(engine._tasks) > 1 and engine.room()
        await asyncio.wait_for(stream.aclose(), 20)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_an_engine_that_stops_begins_nothing_while_its_requests_end(tmp_path: Path) -> None:
    """It once opened further searches, and journalled ends that it did not know yet."""
    opened: list[str] = []
    store = Store.open(tmp_path / "run.db", "a")
    stopped_after_one(make([Deaf(max_jobs=64)], store=store, trees=3), opened)
    assert opened == ["p0", "p1", "p2"]
    assert [store.load(problem)[1] is not None for problem in opened] == [True, False, False]
    store.close()


def test_a_backend_that_swallows_an_interrupt_does_not_keep_the_engine_from_stopping() -> None:
    """asyncio.wait_for of Python 3.11 does so where the reply comes in the same moment; Ctrl-C then hung for ever."""
    deaf = Deaf(max_jobs=64)
    deaf.interrupts = 20
    stopped_after_one(make([deaf], trees=3), [])
    assert deaf.interrupts < 0


@pytest.mark.parametrize(("scores", "message"), [
    (lambda c: [0.5] * (len(c) + 1), "scores for"),
    (lambda c: [0.5] * (len(c) - 1), "scores for"),
    (lambda c: [math.nan] * len(c), "nan"),
    (lambda c: [math.inf] * len(c), "inf"),
])  # fmt: skip
def test_a_wrong_count_or_value_of_scores_is_an_error_value_never_a_zero(scores: Any, message: str) -> None:
    class Broken(FakeScorer):
        async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
            return [Scored(tuple(tuple(scores(c)) for c in chains)) for _, chains in items]

    engine = make([FakeProposer()], [Broken()], search=SEARCHES["sample"](n=2))
    answers = run(engine, 2)
    assert all(a.answer is None and not a.candidates for a in answers.values())
    assert engine.stats.failed == engine.stats.expansions > 0


def test_a_proposer_that_gives_no_step_or_too_few_chains_is_an_error_value() -> None:
    class Empty(FakeProposer):
        async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
            return [((),) if job.first % 2 else () for job in jobs]

    engine = make([Empty()], search=SEARCHES["sample"](n=2))
    assert all(a.answer is None for a in run(engine, 1).values())
    assert engine.stats.failed > 0


def test_a_refused_request_is_not_asked_of_another_replica() -> None:
    class Refuses(FakeProposer):
        async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
            self.calls += 1
            return [RequestError("prompt of 9,000 tokens is longer than the context of 512") for _ in jobs]

    proposer = Refuses()
    engine = make([proposer], search=SEARCHES["sample"](n=1))
    answer = run(engine, 1)["p0"]
    assert answer.stopped == "error" and "9,000 tokens" in (answer.error or "")
    assert engine.proposers.retries == 0 and proposer.calls == 3  # the search itself asks three times


def test_a_deadline_closes_the_search_with_the_leaves_it_has() -> None:
    class Slow(FakeProposer):
        async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
            await asyncio.sleep(0.02)
            return [self._one(job) for job in jobs]

    engine = make([Slow()], search=SEARCHES["sample"](n=500, parallel=1), budget=Budget(seconds=0.3))
    answer = run(engine, 1)["p0"]
    assert answer.stopped == "deadline" and 0 < len(answer.candidates) < 500


def test_an_empty_problem_set_ends_at_once() -> None:
    assert run(make([FakeProposer()]), 0) == {}


def test_the_same_id_twice_is_refused() -> None:
    async def main() -> None:
        async for _ in make([FakeProposer()]).answers(problems(1) * 2):
            pass

    with pytest.raises(RunError, match="'p0' is given twice"):
        asyncio.run(main())


def test_a_journal_that_cannot_be_written_ends_the_run_and_publishes_nothing(tmp_path: Path) -> None:
    class Full(Store):
        def append(self, rows: Any) -> None:
            raise RunError("disk full")

    store = Full.open(tmp_path / "run.db", "a")
    with pytest.raises(RunError, match="disk full"):
        run(make([FakeProposer()], store=store))
    store.close()


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_nothing_is_journalled_after_a_commit_that_failed(tmp_path: Path, k: int) -> None:
    """Otherwise a journal has a hole, or a close before the replies behind it, and resumes to another answer."""

    class FailsOnce(Store):
        commits = 0

        def append(self, rows: Any) -> None:
            self.commits += 1
            if self.commits == k:
                raise RunError("disk full")
            super().append(rows)

    class Slow(FakeProposer):
        """So that there are more commits than fail."""

        async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
            await asyncio.sleep(0.003)
            return await super().propose(jobs)

    whole = run(make([FakeProposer()]))
    store = FailsOnce.open(tmp_path / "run.db", "a")
    with pytest.raises(RunError, match="disk full"):
        run(make([Slow(max_jobs=2, seed=k)], store=store))
    assert isinstance(store, FailsOnce) and store.commits == k
    store.close()
    store = Store.open(tmp_path / "run.db", "a")
    assert run(make([FakeProposer()], store=store)) == whole
    assert store.notes == []
    store.close()


def test_tokens_that_came_to_nothing_are_wasted() -> None:
    class Broken(FakeScorer):
        async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
            return [Scored(((math.nan,),) * len(chains)) for _, chains in items]

    proposer = FakeProposer()
    engine = make([proposer], [Broken()], search=SEARCHES["sample"](n=4))

    async def main() -> list[Answer]:
        return [answer async for answer in engine.answers(problems(3))]

    answers = asyncio.run(main())
    assert proposer.sampled == sum(a.tokens_wasted or 0 for a in answers) > 0
    assert not any(a.tokens_generated for a in answers)


@pytest.mark.parametrize("read", [(42, "42"), ("42", ("4", "2"))])
def test_an_answer_that_is_no_text_is_refused_before_it_is_journalled(tmp_path: Path, read: tuple[Any, Any]) -> None:
    """Frames do not hold it: a journal that did could not be loaded."""

    class Odd(InlineChecker):
        async def read(self, task: object, question: str, steps: Sequence[str]) -> tuple[Any, Any]:
            return read

    store = Store.open(tmp_path / "run.db", "a")
    engine = make([FakeProposer()], store=store)
    engine.task, engine.checker = SimpleNamespace(name="odd"), Odd()  # type: ignore[assignment]
    (answer,) = run(engine, 1).values()
    assert (
        answer.stopped == "error"
        and "task odd read" in str(answer.error)
        and "must be text or None" in str(answer.error)
    )
    replies, close = store.load("p0")
    assert replies and close is not None and not any(c[-1].answer for r in replies for c in r.expansion.chains)
    store.close()
