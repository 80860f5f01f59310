r"""Competition mathematics: boxed LaTeX answers, compared by math-verify. Knows no process: see `hostile`.

A model can write an answer that takes forever to evaluate, so the checker runs this task in processes it can kill
(`treesearch.checker`). Only the LaTeX grammar of math-verify is used; sympy's own parsers, which evaluate Python, never
see the text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from treesearch.errors import ConfigError
from treesearch.tasks.readers import boxed, exact, final_text
from treesearch.types import Problem

LONGEST = 2000  # characters of an answer that is looked into
DEEPEST = 50  # nested brackets
_SAID = re.compile(r"(?i)\b(?:final answer|answer) is:?[ \t]*([^\n]*)")
_SPACE = re.compile(r"(?:(?<!\\)\\[!,;: ]|\\q?quad(?![A-Za-z])|[\s$])+")
_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])")
# Spaces that mean something: `\pi x`, `2 3`, and `1, 200`, which is a list where `1,200` is a number.
_NEEDED = re.compile(r"(?<=\\)([A-Za-z]+) (?=[A-Za-z])|(?<=[0-9])() (?=[0-9])|(?<=[0-9])(,) (?=[0-9]{3}(?![0-9]))")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_FRACTION = re.compile(r"(-?)\\frac\{(-?[0-9]{1,40})\}\{([0-9]{1,40})\}|(-?)\\frac([0-9])([0-9])")


@dataclass(frozen=True, slots=True)
class Math:
    r"""Steps are paragraphs; the answer is the last `\boxed{...}`, else what follows "the final answer is"."""

    name: str = "math"
    separator: str = "\n\n"
    hostile: bool = True  # equal and check may hang or crash: only in a process that can be killed
    system: str = r"Please reason step by step, and put your final answer within \boxed{}."
    fields: tuple[str, str] = ("problem", "answer")  # of the published files: what is Problem.question, .reference

    def prompt(self, question: str) -> str:
        """The question and an empty line."""
        return question + "\n\n"

    def warm_up(self) -> None:
        """Import what is slow to import, so that the first answer has its full time."""
        # It warns that its own timeouts are off: here the process is what is killed.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        _parse("1")

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        """The LaTeX of the answer, without the box; None if none is marked as such."""
        text = final_text("".join(steps))
        box = boxed(text)
        if box is not None:
            return box or None
        said = _SAID.findall(text)
        answer = said[-1].strip().rstrip(".").strip().strip("$").strip() if said else ""
        return answer or None

    def canonical(self, answer: str) -> str:
        """The number in lowest terms, or the LaTeX without its spacing; `equal` tells which of these are one answer."""
        text = normalise(answer)
        number = _number(text)
        return text if number is None else number

    def equal(self, one: str, other: str) -> bool:
        """Whether math-verify holds two forms to be equal. Symbolic: may take forever."""
        if one == other or not (_within_caps(one) and _within_caps(other)):
            return one == other
        if _number(one) is not None and _number(other) is not None:
            return False
        import math_verify

        # No timeouts of its own: they are signals, which work in a main thread only and do not stop C code.
        return bool(math_verify.verify(_parse(one), _parse(other), timeout_seconds=None))

    def check(self, problem: Problem, answer: str) -> bool | None:
        """Whether the answer equals the reference (LaTeX, or a solution with a box). Symbolic: may take forever."""
        if problem.reference is None:
            return None
        box = boxed(problem.reference)
        return self.equal(self.canonical(problem.reference if box is None else box), self.canonical(answer))

    def problems(self, name: str) -> list[Problem]:
        """Nothing is built in: raises ConfigError that says what to pass instead."""
        raise ConfigError(
            f"problems {name!r}: no mathematics is packaged; use math500, aime24 or aime25, which are read from the Hub, or "
            "the path of a file"
        )


def normalise(answer: str) -> str:
    r"""LaTeX without spacing and size commands: `\left( 3, \dfrac12 \right)` is `(3,\frac12)`."""
    text = answer.replace(r",\!", "").strip().strip("$").replace("\0", "")
    text = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    text = _NEEDED.sub(lambda m: f"{m[1] or m[3] or ''}\0", _SIZE.sub("", _SPACE.sub(" ", text)))
    text = text.replace(" ", "").replace("\0", " ")
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cfrac", r"\frac")
    return re.sub(r"\^\{?\\circ\}?$", "", text).rstrip(".")


def _number(text: str) -> str | None:
    """A plain number or simple fraction in lowest terms; a list of numbers is none."""
    if found := _FRACTION.fullmatch(text):
        sign, above, below = found.group(1, 2, 3) if found.group(3) else found.group(4, 5, 6)
        text = f"{sign}{above}/{below}".replace("--", "")
    value = None if "," in text or "%" in text else exact(text)
    return None if value is None else str(value)


def _within_caps(text: str) -> bool:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return len(text) <= LONGEST and deepest <= DEEPEST


@lru_cache(maxsize=1024)
def _parse(text: str) -> list[Any]:
    """What math-verify makes of a LaTeX expression: at most the parsed form and its text."""
    import math_verify

    return list(
        math_verify.parse(f"${text}$", extraction_config=[math_verify.LatexExtractionConfig()], parsing_timeout=None)
    )
