"""What waits is batched; a batch for which there is no memory is tried again in halves, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from treesearch.backends.batcher import Batcher

Answers = list[tuple[int, Callable[[Any], None]]]


class Memory:
    """Work on numbers, as many at once as there is room for."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory.\nTried to")
        self.batches: list[list[int]] = []

    def work(self, batch: Answers) -> None:
        self.batches.append([item for item, _ in batch])
        if len(batch) > self.room:
            raise self.error
        for item, answer in batch:
            answer(2 * item)


def run(work: Callable[[Answers], None], count: int, size: int = 1) -> list[Any]:
    async def main() -> list[Any]:
        batcher: Batcher[int, Any] = Batcher(work, lambda item: size, 64)
        try:
            return list(await asyncio.gather(*map(batcher.run, range(count))))
        finally:
            await batcher.close()

    return asyncio.run(main())


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
])  # fmt: skip
def test_a_batch_too_large_for_the_memory_is_done_in_halves(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(room=32, error=error)
    assert run(memory.work, 64) == [2 * k for k in range(64)]
    assert [len(batch) for batch in memory.batches] == [64, 32, 32]
    assert [record.getMessage() for record in caplog.records] == ["out of memory with 64 at once: 32 from now on"]
    assert caplog.records[0].levelno == logging.WARNING


def test_it_is_halved_once_and_then_each_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(room=8)
    replies = run(memory.work, 64)
    assert [len(batch) for batch in memory.batches] == [64, 32, 32] and len(caplog.records) == 1
    for reply in replies:
        assert isinstance(reply, MemoryError) and reply.__traceback__ is None and reply.__context__ is None
        assert str(reply) == (
            "out of memory with 32 at once (CUDA out of memory.); "
            "lower max_batch, or gpu_memory_utilization of what shares the card"
        )


def test_one_item_cannot_be_parted() -> None:
    memory = Memory(room=0)
    (reply,) = run(memory.work, 1, size=4)
    assert isinstance(reply, MemoryError) and "with 4 at once" in str(reply) and memory.batches == [[0]]


def test_who_was_answered_before_there_was_no_memory_is_not_asked_again() -> None:
    asked: list[list[int]] = []

    def work(batch: Answers) -> None:
        asked.append([item for item, _ in batch])
        batch[0][1]("done")
        if len(batch) > 2:
            raise MemoryError
        for item, answer in batch[1:]:
            answer(item)

    assert run(work, 4) == ["done", "done", 2, "done"] and asked == [[0, 1, 2, 3], [1, 2], [3]]


def test_any_other_error_is_everybodys() -> None:
    memory = Memory(room=1, error=ZeroDivisionError("oh"))
    replies = run(memory.work, 4)
    assert all(isinstance(reply, ZeroDivisionError) for reply in replies) and len(memory.batches) == 1
