"""What a problem set is: how to prompt, where a step ends, how an answer is read, made canonical and checked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from treesearch.types import Problem


@dataclass(frozen=True, slots=True)
class Prompt:
    """How a question is put, by style; see `tasks.prompts.build`, and `tasks.prompts.check` for what goes together."""

    style: str = "direct"
    system: str | None = None  # null: the task's own in chat; "": none
    examples: str | None = None  # path of a text file, put before the question by few_shot and in chat
    template: str | None = None  # "{question}" is replaced; the text of a question in place of the task's
    separator: str | None = (
        None  # ends a step in place of the task's separator; null: a blank line where a model thinks
    )
    revise: str | None = (
        None  # what a search that revises says after a solution; {judged} or {score}: how it was judged
    )
    thinking: bool = False  # the model thinks before it answers: there is no answer before </think>


class Task(Protocol):
    """A kind of problem. Implementations are small objects without state; no method reads a clock or a file.

    A task may also have `equal(one, other) -> bool`: whether two canonical forms that differ are one answer. Votes then
    group by it. Nobody asks it about two whole numbers or fractions in lowest terms. A task that declares
    `hostile = True` is run in processes that can be killed.
    """

    @property
    def name(self) -> str: ...

    @property
    def separator(self) -> str:
        """Text that ends a step, kept in the step ("\\n" or "\\n\\n")."""
        ...

    def prompt(self, question: str) -> str:
        """The text put before the first step (direct style)."""
        ...

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        """The answer in a finished chain of step texts; None if nothing can be read."""
        ...

    def canonical(self, answer: str) -> str:
        """Equal answers have equal canonical forms; votes group by it. Pure and cheap, or run in a checker process."""
        ...

    def check(self, problem: Problem, answer: str) -> bool | None:
        """Whether the answer is right; None without a reference."""
        ...

    def problems(self, name: str) -> list[Problem]:
        """A built-in problem set by name (`game24`, `game24:train`); raises ConfigError if there is none."""
        ...
