"""Number puzzles: make a target from numbers, each used once. Knows how a solution is written, not how one is found."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from treesearch.errors import ConfigError
from treesearch.tasks import expressions
from treesearch.tasks.arithmetic import reachable
from treesearch.tasks.readers import exact, final_text, labelled
from treesearch.types import Problem

_WHOLE = r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?"
# `8/1/3` is 8/1 over 3 or 8 over 1/3: both readings are tried, the first operand with its fraction and without.
_MOVES = [
    re.compile(
        rf"\s*({_WHOLE}{fraction})\s*([-+*/])\s*({_WHOLE}(?:/[0-9]{{1,12}})?)\s*="
        rf"\s*({_WHOLE}(?:/[0-9]{{1,12}})?)\s*(?:\(left:[^()]*\))?\s*"
    )
    for fraction in ("(?:/[0-9]{1,12})?", "")
]
_SETS, _SEED = 100, 20240


@dataclass(frozen=True, slots=True)
class Countdown:
    """`4 5 6 10 -> 24`. A step is `13 - 9 = 4 (left: 4 4 10)` or `13-9=4`; a last line `Answer: EXPR = 24` wins."""

    name: str = "countdown"
    separator: str = "\n"
    system: str = (
        "Use each of the given numbers exactly once with + - * / to reach the target. Combine two numbers a line, like "
        "'13 - 9 = 4 (left: 4 4 10)', and end with a line 'Answer: EXPRESSION = TARGET'."
    )

    def prompt(self, question: str) -> str:
        """The question and a line end. Raises ConfigError if the question is not a puzzle."""
        self.puzzle(question)
        return question + "\n"

    def puzzle(self, question: str) -> tuple[tuple[int, ...], int]:
        """Numbers and target of a question. Raises ConfigError if it is not of the form `4 5 6 10 -> 24`."""
        left, arrow, right = question.partition("->")
        if not arrow or not right.strip().isdecimal():
            raise ConfigError(f"question {question!r} has no target: write it as '4 5 6 10 -> 24'")
        return whole_numbers(left, question), int(right)

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        """The expression of the last line `Answer: EXPR = ...`, else the one the steps compose; None if neither."""
        text = final_text("".join(steps))
        said = labelled(text)
        if said is not None:
            expression = said.partition("\n")[0].partition("=")[0].strip()
            return expression if re.search(r"[0-9]", expression) else None  # "Answer: None" says there is none
        return compose(self.puzzle(question)[0], text)

    def canonical(self, answer: str) -> str:
        """Equal up to order and brackets within sums and within products; no arithmetic is done."""
        parsed = expressions.parse(answer)
        return answer.strip() if parsed is None else expressions.canonical(parsed)

    def check(self, problem: Problem, answer: str) -> bool:
        """Whether the expression uses each number exactly once and equals the target, in exact fractions."""
        given, target = self.puzzle(problem.question)
        wanted: Fraction | int | None = target if problem.reference is None else exact(problem.reference)
        if wanted is None:
            raise ConfigError(f"{problem.id}: the reference {problem.reference!r} is no number; give the target")
        parsed = expressions.parse(answer.partition("=")[0])
        return (
            parsed is not None and expressions.numbers(parsed) == sorted(given) and expressions.value(parsed) == wanted
        )

    def problems(self, name: str) -> list[Problem]:
        """`countdown`: 100 puzzles of four numbers 1 to 13 and a target 10 to 99, the same ones every time."""
        if name != "countdown":
            raise ConfigError(f"problems {name!r}: task countdown has only the set 'countdown'; or give a path")
        return _generated()


def _generated() -> list[Problem]:
    rng, found = random.Random(_SEED), dict[str, Problem]()
    while len(found) < _SETS:
        given = tuple(sorted(rng.randint(1, 13) for _ in range(4)))
        target = rng.randint(10, 99)
        question = f"{' '.join(map(str, given))} -> {target}"
        if question not in found and reachable(given, target):
            found[question] = Problem(f"countdown-{len(found)}", question, str(target))
    return list(found.values())


def whole_numbers(text: str, question: str) -> tuple[int, ...]:
    words = text.split()
    if not words or not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
        raise ConfigError(f"question {question!r} is no puzzle: write whole numbers with spaces, as in '4 5 6 10'")
    return tuple(map(int, words))


def compose(given: Sequence[int], text: str) -> str | None:
    """The expression that the moves in `text` build from the given numbers; None if they do not use up all of them.

    An operand is the first number left that was written with its value. A result has the value that the text says, so
    wrong arithmetic composes to a wrong expression: it is neither repaired nor dropped.
    """
    left: list[tuple[Fraction | None, str]] = [(Fraction(number), str(number)) for number in given]
    lines = [line for line in text.split("\n") if line.strip() and line.strip() != "Steps:"]
    if len(lines) != len(left) - 1:
        return None
    for line in lines:
        readings = [found.groups() for pattern in _MOVES if (found := pattern.fullmatch(line))]
        if not any(_apply(left, *reading) for reading in readings):
            return None
    return left[0][1].removeprefix("(").removesuffix(")")


def _apply(left: list[tuple[Fraction | None, str]], first: str, op: str, second: str, result: str) -> bool:
    """Replace two of the numbers left by what was written as their result; False if they are not there."""
    rest = list(left)
    a, b = _take(rest, exact(first)), _take(rest, exact(second))
    if a is None or b is None:
        return False
    left[:] = [*rest, (exact(result), f"({a} {op} {b})")]
    return True


def _take(left: list[tuple[Fraction | None, str]], wanted: Fraction | None) -> str | None:
    """Remove the first number of this value and give its expression."""
    for i, (number, _) in enumerate(left):
        if wanted is not None and number == wanted:
            return left.pop(i)[1]
    return None
