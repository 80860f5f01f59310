"""Word problems: how numbers are read and compared."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treesearch.errors import ConfigError
from treesearch.tasks import TASKS
from treesearch.types import Problem

DATA = Path(os.environ.get("TREESEARCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASK = TASKS["gsm8k"]


def data(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no data: {path} is missing")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 3.\n#### 18", "18"),
        ("#### 3\n#### $1,234.", "1234"),
        ("so 4\nA: 26", "26"),
        ("Answer: -5 apples", "-5"),
        (r"thus \boxed{18}", "18"),
        (r"thus $\boxed{\$1,800}$", "1800"),
        ("The answer is 7.", "7"),
        ("The answer is: $3.50", "3.50"),
        ("a\nShe makes 9 * 2 = $18 every day.", "18"),
        ("42", "42"),
        ("<think>#### 3</think><answer>4</answer>", "4"),
        ("She has 3 ducks and sells 2", None),
        ("I do not know.", None),
        ("", None),
        ("####", None),
    ],
)
def test_the_marked_number_is_read(text: str, answer: str | None) -> None:
    assert TASK.read("", [text]) == answer


@pytest.mark.parametrize(
    ("one", "other"), [("5.0", "5"), ("1,000", "1000"), ("$18", "18"), ("50%", "50"), ("7/14", "0.5")]
)
def test_the_same_number_written_otherwise_is_equal(one: str, other: str) -> None:
    assert TASK.canonical(one) == TASK.canonical(other)
    assert TASK.check(Problem("p", "", one), other) is True


def test_a_sum_is_no_number() -> None:
    assert TASK.canonical("1+2") == "1+2" and TASK.canonical("1 2") == "1 2"
    assert TASK.check(Problem("p", "", "12"), "1+2") is False


def test_a_reference_may_be_a_whole_solution_or_absent() -> None:
    assert TASK.check(Problem("p", "", "9 * 2 = 18.\n#### 18"), "18.00") is True
    assert TASK.check(Problem("p", "", "9 * 2 = 18.\n#### 18"), "19") is False
    assert TASK.check(Problem("p", ""), "18") is None


def test_recorded_solutions_get_the_recorded_verdict() -> None:
    agree, cases = 0, 0
    for row in data("gsm8k_model_solutions.jsonl"):
        problem = Problem("p", row["question"], row["ground_truth"])
        for model in (value for value in row.values() if isinstance(value, dict)):
            answer = TASK.read(problem.question, [model["solution"]])
            agree += (answer is not None and TASK.check(problem, answer)) == model["is_correct"]
            cases += 1
    assert cases == 5276 and agree / cases >= 0.999


def test_published_solutions_are_right() -> None:
    for row in data("gsm8k_test.jsonl"):
        answer = TASK.read(row["question"], row["answer"].splitlines(keepends=True))
        assert answer is not None and TASK.check(Problem("p", row["question"], row["answer"]), answer)


def test_there_is_no_packaged_set() -> None:
    with pytest.raises(ConfigError, match="path of a file"):
        TASK.problems("gsm8k")


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters() | st.sampled_from("0123456789$,.%/#:\n") | st.characters(categories=["Cs"]), max_size=300)
)
def test_no_text_makes_the_reader_fail(text: str) -> None:
    for said in (text, "#### " + text, "A: " + text, "\\boxed{" + text, "the answer is " + text):
        answer = TASK.read("", [said])
        if answer is not None:
            assert TASK.check(Problem("p", "", answer), answer) is True


def test_a_long_text_is_read_in_linear_time() -> None:
    for text in (
        "1," * 200_000,
        "$" * 200_000,
        "####" * 100_000,
        "answer is " * 50_000,
        "\\boxed{" * 50_000,
        "-" * 200_000,
    ):
        TASK.read("", [text])
