"""No scorer, or no outcome model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from treesearch.tasks.base import Prompt, Task


@dataclass(frozen=True)
class NoModel:
    """Scorer or outcome `none`: steps stay unscored, so only a majority vote can choose."""

    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt) -> None:
        return None
