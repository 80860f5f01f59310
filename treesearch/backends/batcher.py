"""Batches what waits: one worker thread, no timer. Knows no model.

While the thread is busy, items wait; when it is free it takes all that wait, up to a size. Each item is answered as soon as
the work has its result, not when its batch ends. A batch for which there is no memory is tried again in halves, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Answer = Callable[[Result | Exception], None]
_log = logging.getLogger(__name__)


class Batcher(Generic[Item, Result]):
    """`work` gets a list of (item, answer) in a thread and calls each `answer` once with a result or an exception."""

    def __init__(
        self,
        work: Callable[[list[tuple[Item, Callable[[Result | Exception], None]]]], None],
        size: Callable[[Item], int],
        most: int,
    ) -> None:
        self._work, self._size, self._most = work, size, most
        self._halved = False
        self._waiting: deque[tuple[Item, asyncio.Future[Result | Exception]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def run(self, item: Item) -> Result | Exception:
        """The result for one item, or the exception that is its reply."""
        future: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        await asyncio.sleep(0)  # let everybody who asks in this turn of the loop in
        while self._waiting:
            batch = self._take()
            error = await self._tried(batch)
            left = [(item, future) for item, future in batch if not future.done()]
            if left and isinstance(error, MemoryError) and self._halve(batch):
                self._waiting.extendleft(reversed(left))
                continue
            for _, future in left:
                future.set_result(error)

    async def _tried(self, batch: list[tuple[Item, asyncio.Future[Result | Exception]]]) -> Exception:
        """Why whoever has no reply now gets none."""
        error: Exception = RuntimeError("the model gave no reply")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._work, self._answers(batch))
        except Exception as raised:
            error = raised
            if out_of_memory(raised):  # an error of its own: that one's traceback holds what fills the memory
                error = MemoryError(
                    f"out of memory with {self._rows(batch)} at once ({str(raised).strip().partition(chr(10))[0][:200]}); "
                    "lower max_batch, or gpu_memory_utilization of what shares the card"
                )
        await asyncio.sleep(0)  # replies of the thread come in first
        return error

    def _halve(self, batch: list[tuple[Item, asyncio.Future[Result | Exception]]]) -> bool:
        """Take half as much as this from now on, if that was not done before and the batch can be parted."""
        if self._halved or len(batch) < 2:
            return False
        rows = self._rows(batch)
        self._halved, self._most = True, max(1, rows // 2)
        _log.warning("out of memory with %d at once: %d from now on", rows, self._most)
        return True

    def _rows(self, batch: list[tuple[Item, asyncio.Future[Result | Exception]]]) -> int:
        return sum(self._size(item) for item, _ in batch)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result | Exception]]]:
        batch: list[tuple[Item, asyncio.Future[Result | Exception]]] = []
        room = self._most
        while self._waiting and (not batch or self._size(self._waiting[0][0]) <= room):
            item, future = self._waiting.popleft()
            if not future.done():  # else nobody waits for it any more
                room -= self._size(item)
                batch.append((item, future))
        return batch

    def _answers(
        self, batch: list[tuple[Item, asyncio.Future[Result | Exception]]]
    ) -> list[tuple[Item, Callable[[Result | Exception], None]]]:
        loop = asyncio.get_running_loop()

        def answer(future: asyncio.Future[Result | Exception]) -> Callable[[Result | Exception], None]:
            return lambda result: loop.call_soon_threadsafe(_set, future, result)  # type: ignore[return-value]

        return [(item, answer(future)) for item, future in batch]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=True)


def _set(future: asyncio.Future[Result | Exception], result: Result | Exception) -> None:
    if not future.done():
        future.set_result(result)


def out_of_memory(error: Exception) -> bool:
    """Whether there was no memory, on a card (torch.OutOfMemoryError) or beside it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)  # torch says so of a machine's own
    )
