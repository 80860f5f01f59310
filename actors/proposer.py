"""The proposer's actor: builds the config's proposer and forwards."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from actors.replica import Replica, single
from treesearch.backends.base import Proposer as Backend
from treesearch.config import Config
from treesearch.tasks import load_task
from treesearch.types import Job
from treesearch.wire import chain_rows, job_of


class Proposer(Replica):
    """Items are jobs, payloads chains."""

    backend: Backend

    def build(self, config: Config, spec: Any) -> Backend:
        backend: Backend = spec.build(load_task(config.task), config.prompt, config.limits)
        return backend

    def work(self, row: Sequence[Any]) -> tuple[str, Coroutine[Any, Any, Any]]:
        job = job_of(row)
        return job.id, self._propose(job)

    async def _propose(self, job: Job) -> Any:
        return chain_rows(await single(self.backend.propose([job])))
