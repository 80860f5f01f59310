"""Grade-school word problems with a number as the answer. Knows how answers are written, not what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.errors import ConfigError
from treesearch.tasks.readers import boxed, exact, final_text, first_number, last_number
from treesearch.types import Problem

_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_LINE = re.compile(r"(?m)^[ \t]*(?:A|Answer):[ \t]*([^\n]*)")
_SAID = re.compile(r"(?i)\banswer is:?[ \t]*([^\n]*)")


@dataclass(frozen=True, slots=True)
class GSM8K:
    """One step a line; the answer as `#### N`, a line `A: N`, a box, "the answer is N", or a closing sentence."""

    name: str = "gsm8k"
    separator: str = "\n"
    system: str = "Solve the problem step by step, one step a line, and end with a line '#### N', N being the answer."
    fields: tuple[str, str] = ("question", "answer")  # of the published files: what is Problem.question, .reference

    def prompt(self, question: str) -> str:
        """The question between the labels `Question:` and `Answer:`."""
        return f"Question: {question}\nAnswer:\n"

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        """The number that the text ends in; None if nothing says that it is the answer.

        A bare number counts only in a last line that is a whole sentence or nothing but the number: the middle of a
        text that was cut short is not an answer.
        """
        text = final_text("".join(steps)).strip()
        for pattern in (_HASHES, _LINE):
            if found := pattern.findall(text):
                return first_number(found[-1])
        if (box := boxed(text)) is not None:
            return last_number(box)
        if found := _SAID.findall(text):
            return first_number(found[-1])
        last = text.rpartition("\n")[2].strip()
        return last_number(last) if last.endswith((".", "!")) or exact(last) is not None else None

    def canonical(self, answer: str) -> str:
        """The number in lowest terms (`5.0` is `5`, `1,000` is `1000`); text that is no number stays as it is."""
        number = exact(answer)
        return answer.strip() if number is None else str(number)

    def check(self, problem: Problem, answer: str) -> bool | None:
        """Whether the numbers are equal; the reference is a number or a solution that ends in `#### N`."""
        if problem.reference is None:
            return None
        reference = self.read(problem.question, [problem.reference])
        return self.canonical(problem.reference if reference is None else reference) == self.canonical(answer)

    def problems(self, name: str) -> list[Problem]:
        """Nothing is built in: raises ConfigError that says what to pass instead."""
        raise ConfigError(
            f"problems {name!r}: no word problems are packaged; use gsm8k, which is read from the Hub, or the path of a file"
        )
