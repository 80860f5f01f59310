"""How each PRM family reads a solution: one table. Knows no model class.

A family says what comes before the first step, what is appended to each step (stripped of its own separator), and that the
score is the probability of class 1 at the last token of what was appended. More families are more rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from treesearch.errors import ConfigError

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, slots=True)
class Format:
    """`prefix(question, chat)` is the text before the first step, `mark` the text whose last token carries the score."""

    name: str
    prefix: Callable[[str, Any], str]
    mark: str

    def step(self, text: str) -> str:
        """The step as the model reads it, its mark appended; a mark inside the step is taken out, so counts agree."""
        return text.replace(self.mark, " ").strip() + self.mark if self.mark.strip() else text.strip() + self.mark


def _qwen(question: str, chat: Any) -> str:
    """Model card of Qwen/Qwen2.5-Math-PRM-7B: chat with the boxed-answer system prompt, steps in the assistant's turn."""
    text: str = chat([{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": question}])
    return text


def _plain(question: str, chat: Any) -> str:
    return question + "\n"


FORMATS = {
    "bundled": Format("bundled", _plain, "<extra_0>"),
    "qwen2.5-math-prm": Format("qwen2.5-math-prm", _qwen, "<extra_0>"),
    "newline": Format("newline", _plain, "\n"),
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
