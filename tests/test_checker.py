"""The checker: what runs where, and what an answer that never ends may cost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from treesearch.checker import Checker
from treesearch.errors import ConfigError, RunError
from treesearch.tasks import TASKS
from treesearch.tasks.math import Math
from treesearch.types import Problem

MATH, HALF = TASKS["math"], Problem("p", "", r"\frac{1}{2}")


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    found = Checker()
    assert asyncio.run(found.check(MATH, HALF, "x")) is False  # starts the process, so that no test pays for it
    yield found
    found.close()


def test_normal_answers_are_read_and_checked(checker: Checker) -> None:
    assert asyncio.run(checker.read(MATH, "", ["so\n\n", r"\boxed{\dfrac{1}{2}}"])) == (r"\dfrac{1}{2}", "1/2")
    assert asyncio.run(checker.read(MATH, "", ["nothing"])) == (None, None)
    assert asyncio.run(checker.check(MATH, HALF, "0.5")) is True
    assert asyncio.run(checker.check(MATH, HALF, "x+1")) is False
    assert asyncio.run(checker.check(MATH, Problem("p", ""), "1")) is None


def test_surrogates_and_control_characters_reach_the_process_and_come_back(checker: Checker) -> None:
    answer, canonical = asyncio.run(checker.read(MATH, "", ["\\boxed{\ud800\x00\x07}"]))
    assert answer == "\ud800\x00\x07" and canonical is not None


def test_harmless_tasks_run_inline_and_start_no_process() -> None:
    checker = Checker()
    assert asyncio.run(checker.read(TASKS["gsm8k"], "", ["#### 5.0"])) == ("5.0", "5")
    assert asyncio.run(checker.read(TASKS["gsm8k"], "", ["none"])) == (None, None)
    assert asyncio.run(checker.check(TASKS["gsm8k"], Problem("p", "", "5"), "5.0")) is True
    assert not checker._workers.all
    checker.close()


@pytest.mark.parametrize(
    "answer", ["9^{9^{9^{9}}}", "(1+x)^{3000}(1-x)^{3000}", "(" * 3000 + "1" + ")" * 3000, "10^{10^{10}}!"]
)
def test_a_hostile_answer_costs_two_seconds_at_most(checker: Checker, answer: str) -> None:
    before = time.monotonic()
    assert asyncio.run(checker.check(MATH, Problem("p", "", "2"), answer)) is False
    assert time.monotonic() - before < 10  # far below what it would take; the rest is a busy machine
    assert asyncio.run(checker.check(MATH, HALF, "0.5")) is True


HOSTILE = {
    "tower": "9^{9^{9^{9}}}",
    "tower of tens": "10^{10^{10}}",
    "factorial": "(10^8)!",
    "sum": r"\sum_{k=1}^{1000000000} k^k",
    "power": "7^{300000000}",
    "polynomial": "(1+x)^{3000}",
    "brackets": "(" * 3000 + "1" + ")" * 3000,
    "braces": "{" * 3000 + "1" + "}" * 3000,
    "fractions": r"\frac{1}{" * 40 + "1" + "}" * 40,
    "list": ",".join(map(str, range(2000))),
    "digits": "9" * 100_000,
    "text": "x" * 1_000_000,
    "import": "__import__('os').system('touch CANARY')",
    "import in text": r"\text{__import__('os').system('touch CANARY')}",
    "class": "().__class__.__bases__[0].__subclasses__()",
    "open": "open('CANARY','w')",
    "lambda": "(lambda:__import__('os').system('touch CANARY'))()",
    "NUL": "1\0+2",
    "escape": "\x1b]0;title\x07",
    "surrogate": "\ud800",
    "right to left": "\u202e12",
    "digits of another script": "\u0661\u0662",
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_no_hostile_answer_hangs_crashes_or_runs(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """Read, made canonical, checked in both directions and compared: each at most its two seconds, wrong, and no file."""
    answer = answer.replace("CANARY", str(tmp_path / "canary"))
    before = time.monotonic()
    asyncio.run(checker.read(MATH, "", [rf"\boxed{{{answer}}}"]))
    assert asyncio.run(checker.check(MATH, Problem("p", "", "2"), answer)) is False
    assert asyncio.run(checker.check(MATH, Problem("p", "", answer), "2")) is False
    assert asyncio.run(checker.equal(MATH, answer, "x+1")) is False
    assert time.monotonic() - before < 4 * 2 + 30, "four operations; the rest is a busy machine and new processes"
    assert not (tmp_path / "canary").exists()
    assert asyncio.run(checker.check(MATH, HALF, "0.5")) is True


def test_what_ran_out_of_time_is_wrong_counted_and_not_tried_again(checker: Checker) -> None:
    checker._cache.clear()
    counted, answer = checker.timeouts, "x+9^{9^{9^{9}}}"
    assert asyncio.run(checker.read(MATH, "", [rf"\boxed{{{answer}}}"])) == (answer, answer)
    for _ in range(2):
        assert asyncio.run(checker.check(MATH, HALF, answer)) is False
        assert checker.timeouts == counted + 1


def test_forms_are_one_answer_in_either_order_and_asked_once(checker: Checker) -> None:
    checker._cache.clear()
    for one, other in ((r"2\sqrt{2}", r"\sqrt{8}"), (r"\sqrt{8}", r"2\sqrt{2}")):
        assert asyncio.run(checker.equal(MATH, one, other)) is True
        assert len(checker._cache) == 3  # the pair, and whether each can be compared at all
    assert asyncio.run(checker.equal(MATH, r"\log_25", r"\log5")) is False
    assert asyncio.run(checker.equal(MATH, r"\text{Evelyn}", r"\text{evelny}")) is False


def test_a_form_that_takes_for_ever_does_so_once_not_with_each_other_form(checker: Checker) -> None:
    checker._cache.clear()
    counted, endless = checker.timeouts, "x+9^{9^{9^{9}}}"
    assert [asyncio.run(checker.equal(MATH, endless, other)) for other in ("x+1", "y", r"\pi")] == [False] * 3
    assert checker.timeouts == counted + 1


def test_a_process_killed_from_outside_is_replaced(checker: Checker) -> None:
    assert asyncio.run(checker.check(MATH, HALF, "1+1")) is False
    for process in list(checker._workers.all):
        os.kill(process.pid, signal.SIGKILL)
        process._program.wait()
    counted = checker.timeouts
    assert asyncio.run(checker.check(MATH, HALF, "1-1/2")) is True
    assert checker.timeouts == counted


def test_it_works_from_another_thread_and_many_at_once(checker: Checker) -> None:
    async def many() -> list[bool | None]:
        return list(await asyncio.gather(*(checker.check(MATH, HALF, f"{i}/{2 * i}") for i in range(1, 20))))

    with ThreadPoolExecutor(1) as thread:
        assert all(thread.submit(asyncio.run, many()).result())


@dataclass(frozen=True)
class Broken(Math):
    """Hostile and buggy."""

    name: str = "broken"

    def canonical(self, answer: str) -> str:
        raise KeyError(answer)

    def warm_up(self) -> None:
        """Nothing to import."""


@dataclass(frozen=True)
class Unloadable(Broken):
    """Cannot start."""

    def warm_up(self) -> None:
        raise ImportError("no such library")


def test_a_task_that_raises_makes_the_answer_unreadable_and_is_counted() -> None:
    checker = Checker()
    assert asyncio.run(checker.read(Broken(), "", [r"\boxed{1}"])) == (None, None)
    assert (checker.failures, checker.timeouts) == (1, 0)
    checker.close()


def test_a_task_that_cannot_load_is_an_error_of_the_run_not_of_the_answer() -> None:
    checker = Checker()
    with pytest.raises(RunError, match="no such library"):
        asyncio.run(checker.read(Unloadable(), "", [r"\boxed{1}"]))
    checker.close()


def test_a_hostile_task_without_a_name_is_refused() -> None:
    @dataclass(frozen=True)
    class Local(Math):
        name: str = "local"

    checker = Checker()
    with pytest.raises(ConfigError, match="importable"):
        asyncio.run(checker.read(Local(), "", ["1"]))
    checker.close()


def test_close_ends_every_process() -> None:
    checker = Checker()
    asyncio.run(checker.read(Broken(), "", ["1"]))
    programs = [process._program for process in checker._workers.all]
    checker.close()
    assert len(programs) == 1 and all(program.poll() is not None for program in programs)
    with pytest.raises(RuntimeError):
        asyncio.run(checker.read(Broken(), "", ["1"]))


def test_closing_ends_what_is_running() -> None:
    checker = Checker(seconds=1000.0)

    async def closed_meanwhile() -> bool | None:
        task = asyncio.ensure_future(checker.check(MATH, Problem("p", "", "2"), "9^{9^{9^{9}}}"))
        while not any(MATH.name in process.loaded for process in tuple(checker._workers.all)):
            await asyncio.sleep(0)
        await asyncio.to_thread(checker.close)
        return await task

    assert asyncio.run(closed_meanwhile()) is False
