"""The task's own check as scorer or outcome model: an upper bound, not a result. Every run with it is marked ORACLE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from treesearch.backends.base import LastScore, Scored, Scorer
from treesearch.checker import Checker
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job

UNFINISHED = 0.5


@dataclass(frozen=True)
class Oracle:
    """Scorer `oracle`: 1 for a right answer, 0 for a wrong one, 0.5 for a step before the end."""

    label: ClassVar[str | None] = "ORACLE"

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        return OracleScorer(task)


@dataclass(frozen=True)
class OracleOutcome(Oracle):
    """Outcome `oracle`: 1 for a right answer, 0 for a wrong one."""

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        return LastScore(OracleScorer(task))


class OracleScorer:
    """Looks at the reference. A hostile task is read and checked in processes that can be killed."""

    max_jobs = 256

    def __init__(self, task: Task) -> None:
        self.task = task
        self.checker = Checker()

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [Scored(tuple([await self._scores(job, chain) for chain in chains]), 0) for job, chains in items]

    async def _scores(self, job: Job, chain: Chain) -> tuple[float, ...]:
        last = UNFINISHED
        if chain[-1].finish != "step":
            texts = [step.text for step in (*job.path, *chain)]
            answer, _ = await self.checker.read(self.task, job.problem.question, texts)
            last = float(answer is not None and await self.checker.check(self.task, job.problem, answer) is True)
        return (*[UNFINISHED] * (len(chain) - 1), last)

    async def close(self) -> None:
        self.checker.close()
