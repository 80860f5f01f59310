"""Equal questions are asked once: a value, once given, stays; who asks meanwhile waits for it; a failure is not kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")
MOST = 200_000  # values kept


class Once(Generic[Value]):
    """Values by a key of 64 bits, `types.digest` of what was asked."""

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._flying: dict[int, asyncio.Task[Value]] = {}

    async def get(self, key: int, ask: Callable[[], Awaitable[Value]]) -> tuple[Value, bool]:
        """(the value, whether `ask` was called for it now). Raises what `ask` raises, to all who wait."""
        if key in self._values:
            return self._values[key], False
        task = self._flying.get(key)
        if task is not None:
            return await asyncio.shield(task), False
        task = self._flying[key] = asyncio.ensure_future(self._keep(key, ask))
        task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task), True  # a cancelled asker does not take it from the others

    async def _keep(self, key: int, ask: Callable[[], Awaitable[Value]]) -> Value:
        value = await ask()
        if len(self._values) >= MOST:
            self._values.clear()
        self._values[key] = value
        return value

    def _landed(self, key: int, task: asyncio.Task[Value]) -> None:
        self._flying.pop(key, None)
        if not task.cancelled():
            task.exception()  # if all who asked are gone, nobody else looks at it

    def clear(self) -> None:
        self._values.clear()

    def cancel(self) -> None:
        """End what is under way."""
        for task in self._flying.values():
            task.cancel()
