"""The task's own check as scorer or outcome model: an upper bound, not a result. Every run with it is marked ORACLE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from treesearch.backends.base import Scored
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job

UNFINISHED = 0.5


@dataclass(frozen=True)
class Oracle:
    """Scorer or outcome `oracle`: 1 for a right answer, 0 for a wrong one, 0.5 for a step before the end."""

    label: ClassVar[str | None] = "ORACLE"

    def build(self, task: Task, prompt: Prompt) -> OracleScorer:
        return OracleScorer(task)


class OracleScorer:
    """Looks at the reference."""

    max_jobs = 256

    def __init__(self, task: Task) -> None:
        self.task = task

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [Scored(tuple(tuple(self._scores(job, chain)) for chain in chains), 0) for job, chains in items]

    def _scores(self, job: Job, chain: Chain) -> list[float]:
        last = UNFINISHED
        if chain[-1].finish != "step":
            answer = self.task.read(job.problem.question, [step.text for step in (*job.path, *chain)])
            last = float(answer is not None and self.task.check(job.problem, answer) is True)
        return [UNFINISHED] * (len(chain) - 1) + [last]

    async def close(self) -> None: ...
