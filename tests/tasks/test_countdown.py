"""Countdown and game 24: how solutions are read, made canonical and checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treesearch.errors import ConfigError
from treesearch.tasks import TASKS, expressions
from treesearch.types import Problem

DATA = Path(os.environ.get("TREESEARCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
GAME, COUNTDOWN = TASKS["game24"], TASKS["countdown"]
TEXTS = st.text(
    st.characters() | st.sampled_from("0123456789+-*/()= \n") | st.characters(categories=["Cs"]), max_size=300
)


def test_steps_compose_the_expression_of_the_original_numbers() -> None:
    steps = ["13 - 9 = 4 (left: 4 4 4)\n", "4 * 4 = 16 (left: 4 16)\n", "16 + 4 = 20 (left: 20)"]
    assert GAME.read("4 4 9 13", steps) == "((4 * 4) + (13 - 9))"[1:-1]


def test_the_compact_form_reads_the_same_as_the_long_one() -> None:
    long = GAME.read("4 5 6 10", ["10 - 4 = 6 (left: 5 6 6)\n", "5 * 6 = 30 (left: 6 30)\n", "30 - 6 = 24 (left: 24)"])
    assert long == "(5 * 6) - (10 - 4)" == GAME.read("4 5 6 10", ["10-4=6\n", "5*6=30\n", "30-6=24"])
    assert GAME.check(Problem("p", "4 5 6 10", "24"), long)


def test_wrong_arithmetic_composes_to_a_wrong_expression() -> None:
    answer = GAME.read(
        "1 1 10 15", ["10 + 15 = 24 (left: 1 1 24)\n", "1 * 24 = 24 (left: 1 24)\n", "1 * 24 = 24 (left: 24)"]
    )
    assert answer == "1 * (1 * (10 + 15))"
    assert GAME.check(Problem("p", "1 1 10 15", "24"), answer) is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10 - 4 = 6",
        "10-4=6\n5*6=30",
        "10-4=6\n5*7=35\n35-6=29",
        "10-4=6\nhello\n30-6=24",
        "10^4=6\n5*6=30\n30-6=24",
    ],
)
def test_steps_that_do_not_use_up_the_numbers_are_unreadable(text: str) -> None:
    assert GAME.read("4 5 6 10", [text]) is None


def test_fractions_between_the_steps_are_matched_by_value() -> None:
    answer = GAME.read("3 3 8 8", ["8/3=8/3\n", "3-8/3=1/3\n", "8/1/3=24"])
    assert answer == "8 / (3 - (8 / 3))"
    assert GAME.check(Problem("p", "3 3 8 8", "24"), answer)


def test_an_answer_line_wins_over_the_steps() -> None:
    steps = ["10 - 4 = 6 (left: 5 6 6)\n", "5 * 6 = 30\n", "30 - 6 = 24\n", "Answer: 5 * (10 - 4) - 6 = 24"]
    assert GAME.read("4 5 6 10", steps) == "5 * (10 - 4) - 6"
    assert GAME.read("4 5 6 10", ["Answer: None"]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(4 + 5) + 6", "6 + (5 + 4)"),
        ("5 * (10 - 4) - 6", "(10 - 4) * 5 - 6"),
        ("8 - (5 - 3)", "3 + 8 - 5"),
        ("8 / (4 / 2)", "2 * 8 / 4"),
        ("-(2 - 5) * 3", "(2 - 5) * (-3)"),
    ],
)
def test_order_and_brackets_do_not_divide_votes(one: str, other: str) -> None:
    assert GAME.canonical(one) == GAME.canonical(other)


@pytest.mark.parametrize(("one", "other"), [("8 - 5", "5 - 8"), ("8 / 2", "2 / 8"), ("2 * 3 + 4", "2 * (3 + 4)")])
def test_different_expressions_have_different_canonical_forms(one: str, other: str) -> None:
    assert GAME.canonical(one) != GAME.canonical(other)


def test_the_canonical_form_keeps_the_value() -> None:
    for text in ("5 * (10 - 4) - 6", "8 / (3 - (8 / 3))", "-(2 - 5) * 3 - (-4 - 1) / 7", "-3", "1 - -1"):
        parsed = expressions.parse(text)
        again = expressions.parse(GAME.canonical(text))
        # A canonical text may start with a divisor ("/3*8"), which reads as no expression: only sums are compared.
        if again is not None:
            assert parsed is not None and expressions.value(again) == expressions.value(parsed)


@pytest.mark.parametrize(
    "answer",
    [
        "4 * 6",
        "4 * 6 * 10 / 10 + 5 - 5",
        "(4 + 5) * 6 - 10",
        "24",
        "",
        "4 5 6 10",
        "(4",
        "4 / (5 - 5) + 6 + 10",
        "5*(10-4)-6)",
    ],
)
def test_answers_that_break_a_rule_are_wrong(answer: str) -> None:
    assert GAME.check(Problem("p", "4 5 6 10", "24"), answer) is False


def test_the_checker_agrees_with_all_recorded_labels() -> None:
    path = DATA / "game24_gpt4_cot_samples.jsonl"
    if not path.exists():
        pytest.skip(f"no data: {path} is missing")
    wrong, cases = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        problem = Problem(row["id"], " ".join(map(str, row["numbers"])), "24")
        for sample in row["samples"]:
            cases += 1
            answer = GAME.read(problem.question, [sample["text"]])
            if (answer is not None and GAME.check(problem, answer)) != bool(sample["correct"]):
                wrong.append(sample["text"])
    assert (cases, wrong) == (10_000, [])


def test_the_built_in_sets_are_the_published_split() -> None:
    test, train = GAME.problems("game24"), GAME.problems("game24:train")
    assert [p.id for p in test] == [f"game24-{i}" for i in range(900, 1000)]
    assert test[0] == Problem("game24-900", "4 5 6 10", "24")
    assert len(train) == 1262 and not {p.question for p in train} & {p.question for p in test}
    with pytest.raises(ConfigError, match="game24:train"):
        GAME.problems("game25")


def test_countdown_takes_its_target_from_the_question() -> None:
    assert COUNTDOWN.check(Problem("p", "2 3 -> 6"), "2 * 3") is True
    assert COUNTDOWN.check(Problem("p", "2 3 -> 5"), "2 * 3") is False
    assert COUNTDOWN.read("2 3 -> 6", ["2*3=6"]) == "2 * 3"
    problems = COUNTDOWN.problems("countdown")
    assert len({p.question for p in problems}) == 100 and problems == COUNTDOWN.problems("countdown")


@pytest.mark.parametrize("question", ["", "4 5 6", "4 x -> 3", "-> 3", "4 5 -> ", "4 5 -> x"])
def test_a_question_that_is_no_puzzle_is_refused(question: str) -> None:
    with pytest.raises(ConfigError, match="4 5 6 10"):
        COUNTDOWN.prompt(question)


def test_long_and_deep_expressions_are_refused_not_evaluated() -> None:
    for text in ("(" * 3000 + "1" + ")" * 3000, "-" * 400 + "1", "9" * 5000, "1+" * 400 + "1", "9^9^9^9", "9**9**9"):
        assert expressions.parse(text) is None or text.startswith("9" * 10)
        assert GAME.canonical(text) == text and GAME.check(Problem("p", "1 2 3 4"), text) is False


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_no_text_makes_the_reader_or_the_parser_fail(text: str) -> None:
    for task, question in ((GAME, "4 5 6 10"), (COUNTDOWN, "4 5 6 10 -> 24")):
        for said in (text, "Answer: " + text):
            answer = task.read(question, [said])
            if answer is not None:
                task.check(Problem("p", question, "24"), answer)
                assert task.canonical(answer) == task.canonical(answer)
        task.canonical(text)
