r"""The AIME competition: every answer is a whole number from 0 to 999, in a box. Knows what it adds to mathematics."""

from __future__ import annotations

from dataclasses import dataclass

from treesearch.tasks.math import Math, normalise
from treesearch.tasks.readers import boxed, exact
from treesearch.types import Problem


@dataclass(frozen=True, slots=True)
class AIME(Math):
    r"""Steps and boxes as in math; `\boxed{025}` is 25, and only what stands after an equals sign counts."""

    name: str = "aime"
    hostile: bool = False  # nothing is evaluated
    system: str = (
        r"Please reason step by step, and put your final answer, a whole number from 0 to 999, within \boxed{}."
    )

    def canonical(self, answer: str) -> str:
        """The whole number without leading zeros; what is none stays as it is, without its spacing."""
        text = normalise(answer)
        number = exact(text.rpartition("=")[2])
        return str(number) if number is not None and number.denominator == 1 else text

    def equal(self, one: str, other: str) -> bool:
        """Only the same number is the same answer."""
        return one == other

    def check(self, problem: Problem, answer: str) -> bool | None:
        """Whether the whole numbers are equal; the reference is one, or a solution with a box."""
        if problem.reference is None:
            return None
        box = boxed(problem.reference)
        return self.canonical(problem.reference if box is None else box) == self.canonical(answer)
