"""Answers that are equal though written differently: one group in a vote, the same one whatever arrived first."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeProposer, FakeScorer, problems
from treesearch.algorithms import SEARCHES
from treesearch.answers import AnswerRule, votes
from treesearch.checker import Checker
from treesearch.engine import Engine, Settings
from treesearch.errors import RunError
from treesearch.forms import Forms
from treesearch.store import Store
from treesearch.tasks import TASKS
from treesearch.types import Answer, Chain, Job, Step, chain_seed

WRITTEN = (r"2\sqrt{2}", r"\sqrt{8}", r"\frac{4}{\sqrt{2}}", "3", "x=3", r"\pi", "7/2", "12")
GROUPS = ({r"2\sqrt{2}", r"\sqrt{8}", r"\frac{4}{\sqrt{2}}"}, {"3", "x=3"}, {r"\pi"}, {"7/2"}, {"12"})


def same(one: str, other: str) -> bool:
    return any({one, other} <= group for group in GROUPS)


class Mixed(FakeProposer):
    """Says one of the ways to write five answers; which one is a function of the job."""

    def _one(self, job: Job) -> tuple[Chain, ...]:
        assert job.n is not None
        drawn = (random.Random(chain_seed(job.seed, i)) for i in range(job.first, job.first + job.n))
        return tuple(
            (Step(rf"\boxed{{{rng.choice(WRITTEN)}}}", tokens=1, score=rng.random(), finish="answer"),) for rng in drawn
        )


class Counting:
    """A checker that knows GROUPS, takes its time, and counts what it is asked."""

    def __init__(self, seed: int = 0) -> None:
        self.asked: Counter[frozenset[str]] = Counter()
        self.rng = random.Random(seed)

    async def read(self, task: object, question: str, steps: Sequence[str]) -> tuple[str, str]:
        answer = steps[-1].removeprefix(r"\boxed{").removesuffix("}")
        return answer, answer

    async def equal(self, task: object, one: str, other: str) -> bool:
        self.asked[frozenset((one, other))] += 1
        for _ in range(self.rng.randrange(9)):
            await asyncio.sleep(0)
        return same(one, other)


def engine(
    checker: Any, seed: int = 0, max_jobs: int = 64, n: int = 12, task: Any = TASKS["math"], **more: Any
) -> Engine:
    search = SEARCHES["sample"](n=n, parallel=None)
    return Engine(search, task, [Mixed(max_jobs, seed)], [FakeScorer()], checker=checker, **more)


def answers(engine: Engine, count: int = 4) -> dict[str, Answer]:
    async def main() -> list[Answer]:
        return [answer async for answer in engine.answers(problems(count))]

    return {a.problem.id: replace(a, seconds=0.0) for a in asyncio.run(main())}


def test_a_form_is_delivered_under_the_first_delivered_form_that_it_is_equal_to() -> None:
    """Whatever arrived first, and though equality need not be transitive."""
    pairs = [("a", "b"), ("b", "c")]  # a and c are not found equal
    for arrival in itertools.permutations("abcd"):
        forms = Forms()
        for form in arrival:
            for other in forms.arrive(form):
                if (form, other) in pairs or (other, form) in pairs:
                    forms.join(form, other)
        assert [forms.label(form) for form in "abcdab"] == ["a", "a", "c", "d", "a", "a"]
    assert [forms.arrive(form) for form in "ab"] == [[], []]


def test_plain_numbers_are_not_compared_with_each_other() -> None:
    forms = Forms()
    forms.arrive("3")
    assert forms.arrive("-7/2") == []
    assert forms.arrive("x") == ["3", "-7/2"]
    assert forms.arrive("3.0") == ["3", "-7/2", "x"], "not in lowest terms"


def test_any_arrival_order_gives_the_same_groups() -> None:
    calm = answers(engine(Counting(), max_jobs=1))
    for seed in range(5):
        assert answers(engine(Counting(seed), seed=seed)) == calm
    for answer in calm.values():
        first: list[str] = []
        for candidate in answer.candidates:
            assert candidate.answer is not None
            label = next((seen for seen in first if same(seen, candidate.answer)), candidate.answer)
            first.append(candidate.answer)
            assert candidate.canonical == next(seen for seen in first if same(seen, label))


def test_256_candidates_cost_a_handful_of_comparisons_and_no_pair_twice() -> None:
    checker = Counting()
    (answer,) = answers(engine(checker, n=256), 1).values()
    assert len(answer.candidates) == 256 and {c.answer for c in answer.candidates} == set(WRITTEN)
    assert set(checker.asked.values()) == {1}
    assert len(checker.asked) == 8 * 7 / 2 - 3, "of eight forms, three are plain numbers"
    weights = votes(answer.candidates, AnswerRule("majority"))
    assert len(weights) == len(GROUPS)
    counted = Counter(next(k for k, group in enumerate(GROUPS) if c.answer in group) for c in answer.candidates)
    assert sorted(weights.values()) == sorted(map(float, counted.values()))


def test_a_run_stopped_anywhere_resumes_to_the_same_groups(tmp_path: Path) -> None:
    whole = answers(engine(Counting()))
    for k in (1, 2, 3):
        store = Store.open(tmp_path / f"{k}.db", "a")

        async def some(k: int, store: Store) -> None:
            stream = engine(Counting(), seed=k, max_jobs=5, store=store, settings=Settings(trees=2)).answers(
                problems(4)
            )
            for _ in range(k):
                await anext(stream)
            await stream.aclose()

        asyncio.run(some(k, store))
        assert answers(engine(Counting(), seed=9, store=store)) == whole
        store.close()


def test_what_is_journalled_replays_without_a_checker(tmp_path: Path) -> None:
    class Never(Counting):
        async def equal(self, task: object, one: str, other: str) -> bool:
            raise AssertionError("asked")

    store = Store.open(tmp_path / "run.db", "a")
    whole = answers(engine(Counting(), store=store))
    assert answers(engine(Never(), store=store)) == whole
    store.close()


def test_a_task_without_equal_is_asked_nothing() -> None:
    checker = Counting()
    engine_ = engine(checker, task=TASKS["gsm8k"])
    (answer,) = answers(engine_, 1).values()
    assert not checker.asked and all(c.canonical == c.answer for c in answer.candidates)


def test_a_checker_that_cannot_start_ends_the_run() -> None:
    class Gone(Counting):
        async def equal(self, task: object, one: str, other: str) -> bool:
            raise RunError("a checker process could not start")

    with pytest.raises(RunError, match="could not start"):
        answers(engine(Gone()))


def test_votes_join_what_math_verify_holds_to_be_equal() -> None:
    checker = Checker()
    (answer,) = answers(engine(checker, n=48), 1).values()
    checker.close()
    said = {c.answer for c in answer.candidates}
    assert said == set(WRITTEN)
    assert len({c.canonical for c in answer.candidates}) == len(GROUPS)
    assert all(same(c.canonical or "", c.answer or "") for c in answer.candidates)
