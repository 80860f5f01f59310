"""The scorer's actor, for step scores and outcomes alike: builds the config's model and forwards."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from actors.replica import Replica, single
from treesearch.backends.base import LastScore
from treesearch.backends.base import Scorer as Backend
from treesearch.config import Config
from treesearch.tasks import load_task
from treesearch.types import Chain, Job
from treesearch.wire import chains_of, job_of


class Scorer(Replica):
    """Items are (job, chains), payloads (scores, tokens computed)."""

    backend: Backend

    def build(self, config: Config, spec: Any) -> Backend:
        backend: Backend = spec.build(load_task(config.task), config.prompt)
        return LastScore(backend) if self.role == "outcome" else backend

    def work(self, row: Sequence[Any]) -> tuple[str, Coroutine[Any, Any, Any]]:
        job, chains = job_of(row[0]), chains_of(row[1])
        return job.id, self._score(job, chains)

    async def _score(self, job: Job, chains: tuple[Chain, ...]) -> Any:
        scored = await single(self.backend.score([(job, chains)]))
        return scored.scores, scored.tokens
