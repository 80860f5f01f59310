"""Game of 24: four numbers, each once, make 24. Knows only what it adds to countdown: the target and the puzzles."""

from __future__ import annotations

from dataclasses import dataclass

from treesearch.errors import ConfigError
from treesearch.tasks.countdown import Countdown, whole_numbers
from treesearch.tasks.puzzles import PUZZLES
from treesearch.types import Problem

_TEST = range(900, 1000)  # the published test split


@dataclass(frozen=True, slots=True)
class Game24(Countdown):
    """`4 5 6 10`; steps and answers as in countdown."""

    name: str = "game24"
    system: str = (
        "Use each of the given numbers exactly once with + - * / to make 24. Combine two numbers a line, as in "
        "'13 - 9 = 4 (left: 4 4 10)', and end with a line 'Answer: EXPRESSION = 24'."
    )

    def puzzle(self, question: str) -> tuple[tuple[int, ...], int]:
        """Numbers and 24. Raises ConfigError if the question is not whole numbers with spaces between."""
        return whole_numbers(question, question), 24

    def problems(self, name: str) -> list[Problem]:
        """`game24`: the 100 published test puzzles, ids game24-900 to game24-999; `game24:train`: all the others."""
        if name not in ("game24", "game24:train"):
            raise ConfigError(f"problems {name!r}: task game24 has 'game24' and 'game24:train'; or give a path")
        wanted = [i for i in range(len(PUZZLES)) if (i in _TEST) == (name == "game24")]
        return [Problem(f"game24-{i}", " ".join(map(str, PUZZLES[i])), "24") for i in wanted]
