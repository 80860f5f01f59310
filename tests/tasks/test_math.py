"""Mathematics: boxed answers, their forms, and the published solutions. Only harmless answers are looked into here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treesearch.tasks import TASKS
from treesearch.tasks.math import normalise
from treesearch.types import Problem

DATA = Path(os.environ.get("TREESEARCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASK = TASKS["math"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{1}$ no, \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a}", None),
        (r"\boxed 5.", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{}", None),
        (r"The final answer is $x+1$.", "x+1"),
        ("<think>\\boxed{3}</think> \\boxed{4}", "4"),
        ("nothing", None),
    ],
)
def test_the_last_box_is_read(text: str, answer: str | None) -> None:
    assert TASK.read("", [text]) == answer


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac12", r"\dfrac{2}{4}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("10,000", r"10,\!000", True),
        ("1, 200", "1200", False),
        (r"90^\circ", "90", True),
        (r"\text{Evelyn}", r"\text{Bob}", False),
        (r"\text{Evelyn}", r"\text{ Evelyn }", True),
        (r"\pi x", r"x \pi", True),
        (r"\sin x", r"\sin{x}", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", False),
        (r"\{1, 2\}", r"\{2,1\}", True),
        ("12", "1+2", False),
        ("3", "1+2", True),
        ("12", "1 2", False),
        (r"x \in (1,2)", "(1,2)", True),
        ("2", "3", False),
    ],
)
def test_equal_answers_are_equal_however_written(gold: str, answer: str, right: bool) -> None:
    assert TASK.check(Problem("p", "", gold), answer) is right


@pytest.mark.parametrize(
    ("one", "other"),
    [(r"\frac{1}{2}", "0.5"), (r"\dfrac{x}{2}", r"\frac{x}{2}"), ("3.0", "3"), ("-\\frac{2}{4}", "-1/2")],
)
def test_the_same_value_has_one_canonical_form(one: str, other: str) -> None:
    assert TASK.canonical(one) == TASK.canonical(other)


def test_answers_beyond_the_caps_are_compared_as_text() -> None:
    deep, long = "(" * 3000 + "x" + ")" * 3000, "x+" * 2000 + "1"
    for text in (deep, long):
        assert TASK.canonical(text) == text
        assert TASK.check(Problem("p", "", text), text) is True
        assert TASK.check(Problem("p", "", "x"), text) is False


def test_all_published_solutions_yield_their_own_answer() -> None:
    path = DATA / "math500_test.jsonl"
    if not path.exists():
        pytest.skip(f"no data: {path} is missing")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = []
    for row in rows:
        answer = TASK.read(row["problem"], [row["solution"]])
        if answer is None or TASK.check(Problem("p", row["problem"], row["answer"]), answer) is not True:
            wrong.append(row["unique_id"])
    assert (len(rows), wrong) == (500, [])


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters() | st.sampled_from("\\{}$,.0123456789\n ") | st.characters(categories=["Cs"]), max_size=300)
)
def test_no_text_makes_the_reader_fail(text: str) -> None:
    for said in (text, "\\boxed{" + text, "\\boxed" + text + "}", "the final answer is " + text):
        answer = TASK.read("", [said])
        assert answer is None or isinstance(normalise(answer), str)
