"""Text in, text out: the answer is the text, compared exactly. Knows nothing about its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.errors import ConfigError
from treesearch.tasks.readers import final_text, labelled
from treesearch.types import Problem


@dataclass(frozen=True, slots=True)
class Plain:
    """One step a line; the answer is what follows a last `Answer:`, else the whole text."""

    name: str = "plain"
    separator: str = "\n"

    def prompt(self, question: str) -> str:
        """The question and a line end."""
        return question + "\n"

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        """The answer's text without the space around it; None if it is empty."""
        text = final_text("".join(steps))
        said = labelled(text)
        return (text.strip() if said is None else said) or None

    def canonical(self, answer: str) -> str:
        """The text with every run of white space made one space."""
        return " ".join(answer.split())

    def check(self, problem: Problem, answer: str) -> bool | None:
        """Whether the texts are the same up to white space."""
        return None if problem.reference is None else self.canonical(problem.reference) == self.canonical(answer)

    def problems(self, name: str) -> list[Problem]:
        """Nothing is built in: raises ConfigError that says what to pass instead."""
        raise ConfigError(f"problems {name!r}: task plain has no built-in set; set problems to the path of a file")
