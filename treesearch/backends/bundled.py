"""The models that ship with the package, through the same code as any other model: plain sampling, no mask, no solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from treesearch.backends.base import Limits, Scorer
from treesearch.backends.reward import TransformersPRM
from treesearch.backends.transformers import Transformers, TransformersProposer
from treesearch.tasks.base import Prompt, Task


@dataclass(frozen=True)
class Bundled:
    """Proposer `bundled`: a small, weak reasoner about the Game of 24."""

    max_batch: int = 256
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> TransformersProposer:
        return Transformers(model="bundled", max_batch=self.max_batch).build(task, prompt, limits)


@dataclass(frozen=True)
class BundledPRM:
    """Scorer `bundled`: a small PRM for the Game of 24."""

    max_batch: int = 256
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        return TransformersPRM(model="bundled", max_batch=self.max_batch).build(task, prompt)
