"""SIMULATED models that make trouble, always with the same requests: errors, NaN, and prompts that kill their process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from treesearch.backends.base import Limits, Scored
from treesearch.backends.simulated import Simulated, SimulatedProposer, SimulatedScorer, SimulatedScores
from treesearch.errors import RequestError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job, digest

POISON = "drink this"  # in a question


@dataclass(frozen=True)
class Troubled(Simulated):
    """SIMULATED proposer of which some requests always fail; a poisonous question ends its process, if `deadly`."""

    failures: float = 0.003
    base_ms: float = 150.0
    deadly: bool = True

    def build(self, task: Task, prompt: Prompt, limits: Limits, sleep: Any = asyncio.sleep) -> SimulatedProposer:
        return TroubledProposer(self, task, limits, sleep)


class TroubledProposer(SimulatedProposer):
    spec: Troubled

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        if any(POISON in job.problem.question for job in jobs):
            if self.spec.deadly:
                os._exit(1)
            return [RequestError("poison") for _ in jobs]
        return await super().propose(jobs)


@dataclass(frozen=True)
class TroubledScorer(SimulatedScorer):
    """SIMULATED scorer that now and then gives NaN, always for the same requests."""

    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Task, prompt: Prompt) -> TroubledScores:
        return TroubledScores(self.noise)


class TroubledScores(SimulatedScores):
    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [_blind(item[0], scored) for item, scored in zip(items, await super().score(items), strict=True)]


def _blind(job: Job, scored: Scored | Exception) -> Scored | Exception:
    if isinstance(scored, Scored) and digest(job.id, "nan") % 1000 < 3:
        return Scored(tuple((float("nan"),) * len(row) for row in scored.scores), scored.tokens)
    return scored
