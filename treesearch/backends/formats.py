"""How each PRM family reads a solution: one table. Knows no model class.

A family says what comes before the first step, what is appended to each step (stripped of its own separator), and that the
score is the probability of class 1 at the last token of what was appended. A family of language models names two labels:
there the score is the probability of the first among the two as the next token. More families are more rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from treesearch.errors import ConfigError

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, slots=True)
class Format:
    """`prefix(question, chat)` is the text before the first step, `mark` the text whose last token carries the score.

    `between` stands before every step but the first. `labels` (right, wrong) are single tokens of a language model.
    """

    name: str
    prefix: Callable[[str, Any], str]
    mark: str
    between: str = ""
    labels: tuple[str, str] | None = None

    def step(self, text: str, first: bool = True) -> str:
        """The step as the model reads it, its mark appended; a mark inside the step is taken out, so counts agree."""
        inner = text.replace(self.mark, " ") if self.mark.strip() else text
        return ("" if first else self.between) + inner.strip() + self.mark


def _qwen(question: str, chat: Any) -> str:
    """Model card of Qwen/Qwen2.5-Math-PRM-7B: chat with the boxed-answer system prompt, steps in the assistant's turn."""
    text: str = chat([{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": question}])
    return text


def _plain(question: str, chat: Any) -> str:
    return question + "\n"


def _spaced(question: str, chat: Any) -> str:
    """Model card of peiyi9979/math-shepherd-mistral-7b-prm: question, space, steps that end in " ки", a line each."""
    return question + " "


FORMATS = {
    "bundled": Format("bundled", _plain, "<extra_0>"),
    "qwen2.5-math-prm": Format("qwen2.5-math-prm", _qwen, "<extra_0>"),
    "newline": Format("newline", _plain, "\n"),
    "math-shepherd": Format("math-shepherd", _spaced, " ки", between="\n", labels=("+", "-")),
}


def recognise(architectures: list[str], has_chat: bool) -> Format:
    """The family of a model by its config: Qwen2 process reward models, with or without a chat template; else newline."""
    if "Qwen2ForProcessRewardModel" in architectures:
        return FORMATS["qwen2.5-math-prm" if has_chat else "bundled"]
    if any(name.endswith("ForTokenClassification") for name in architectures):
        return FORMATS["newline"]
    raise ConfigError(
        f"architectures {architectures}: not a known PRM; use a Qwen2ForProcessRewardModel or a token-classification model, "
        f"or set scorer.family to one of {', '.join(FORMATS)}"
    )


def form_of(family: str | None, architectures: list[str], has_chat: bool) -> Format:
    """The form a user named, else the one the model's config shows. Raises ConfigError."""
    return FORMATS[family] if family else recognise(architectures, has_chat)


def check_family(family: str | None) -> None:
    """Raises ConfigError for a family that is no row of the table."""
    if family is not None and family not in FORMATS:
        raise ConfigError(f"scorer.family = {family!r}: unknown; known: {', '.join(FORMATS)}")
