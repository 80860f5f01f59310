"""The simulated backend under cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from tests.backends.models import job
from treesearch.backends.base import Limits
from treesearch.backends.simulated import Simulated
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt


def test_a_cancelled_request_no_longer_slows_the_others() -> None:
    waits: list[float] = []

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    def sleep(seconds: float) -> Awaitable[None]:
        waits.append(seconds)
        return forever()

    async def scenario() -> None:
        spec = Simulated(base_ms=1, per_sequence_us=1000)
        proposer = spec.build(load_task("plain"), Prompt(), Limits(), sleep=sleep)
        for _ in range(2):
            request = asyncio.ensure_future(proposer.propose([job(n=4)]))
            await asyncio.sleep(0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    asyncio.run(scenario())
    assert waits == pytest.approx([0.005, 0.005])
