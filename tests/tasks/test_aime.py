"""AIME: whole numbers, however they are written."""

from __future__ import annotations

import pytest

from treesearch.tasks import TASKS
from treesearch.types import Problem

TASK = TASKS["aime"]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (r"so it is $\boxed{025}$.", "25"),
        (r"\boxed{000}", "0"),
        (r"\boxed{33.0}", "33"),
        (r"\boxed{m+n = 113}", "113"),
        (r"\boxed{\frac{50}{2}}", r"\frac{50}{2}"),
        (r"\boxed{1,000}", "1000"),
        ("The final answer is $204$.", "204"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{x+1}", "x+1"),
        (r"<think>\boxed{1}</think> it is \boxed{2}", "2"),
    ],
)
def test_an_answer_is_a_whole_number_without_leading_zeros(text: str, canonical: str) -> None:
    answer = TASK.read("", [text])
    assert answer is not None and TASK.canonical(answer) == canonical


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [("025", "25", True), ("25", "025", True), ("25", "25.5", False), (r"thus $\boxed{033}$", "33", True),
     ("204", "204.", True), ("204", "2^{2}", False), ("4", "2^{2}", False)],
)  # fmt: skip
def test_only_the_same_whole_number_is_right(reference: str, answer: str, right: bool) -> None:
    assert TASK.check(Problem("p", "", reference), answer) is right
    assert TASK.check(Problem("p", ""), answer) is None


def test_nothing_is_evaluated_so_nothing_runs_elsewhere() -> None:
    assert not TASK.hostile  # type: ignore[attr-defined]
    assert TASK.canonical("9^{9^{9^{9}}}") == "9^{9^{9^{9}}}"
    assert not TASK.equal("2+2", "4")  # type: ignore[attr-defined]
