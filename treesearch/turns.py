"""Jobs that wait for their turn at a scorer, and are called together, those of the oldest tree first. Knows no reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Turns:
    """Waiting jobs by scorer. A tree is known by its age, 0 the oldest."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, tuple[int, asyncio.Future[None]]]] = {}  # scorer -> job id -> tree, turn

    async def wait(self, scorer: int, tree: int, job_id: str) -> None:
        """Returns when the job is called."""
        held = self._held.setdefault(scorer, {})
        turn = asyncio.get_running_loop().create_future()
        held[job_id] = tree, turn
        try:
            await turn
        finally:
            held.pop(job_id, None)

    def call(self, scorer: int, may_go: Callable[[int], bool] = lambda tree: True) -> None:
        """The jobs of trees that may go do so."""
        held = self._held.get(scorer, {})
        called = [job_id for job_id, (tree, _) in held.items() if may_go(tree)]
        for job_id in sorted(called, key=lambda job_id: held[job_id][0]):
            _, turn = held[job_id]
            if not turn.done():
                turn.set_result(None)
        for job_id in called:
            del held[job_id]

    def waits(self, job_id: str) -> bool:
        """Whether the job waits here."""
        return any(job_id in held for held in self._held.values())
