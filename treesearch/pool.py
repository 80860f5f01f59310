"""Replicas of one backend and their slots. The sole owner of retry and timeout; knows no tree and no search."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from treesearch.dispatch import Dispatch
from treesearch.errors import RequestError

Reply = TypeVar("Reply")
Call = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
TRIES = 3


class Pool:
    """Sends items to replicas, each within its credits; a failure is retried elsewhere, a hang timed out.

    `calls[r]` takes a list of items and gives a list of replies or exceptions. `credits[r]` bounds the items in flight.
    """

    def __init__(self, calls: Sequence[Call], credits: Sequence[int], timeout: float | None = None) -> None:
        self.calls = list(calls)
        self.dispatch = Dispatch(credits)
        self.timeout = timeout
        self.retries = 0
        self._turns: dict[str, asyncio.Future[int]] = {}

    async def run(self, item_id: str, item: Any) -> Any:
        """The reply to one item. Raises RequestError, or the last failure after three tries."""
        for attempt in range(TRIES):
            replica = await self._slot(item_id)
            try:
                async with asyncio.timeout(self.timeout):
                    (reply,) = await self.calls[replica]([item])
            except Exception as error:  # a backend that raises for the whole call fails each of its items
                reply = error
            finally:
                self.dispatch.done(replica, item_id)
                self._send()
            if not isinstance(reply, Exception):
                return reply
            if isinstance(reply, RequestError) or attempt == TRIES - 1:
                raise reply
            self.retries += 1
        raise AssertionError("unreachable")

    def waits(self, item_id: str) -> bool:
        """Whether the item still waits for a slot."""
        return item_id in self._turns

    async def _slot(self, item_id: str) -> int:
        turn = asyncio.get_running_loop().create_future()
        self._turns[item_id] = turn
        self.dispatch.add(item_id)
        self._send()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was sent in the very moment it was cancelled
                self.dispatch.done(turn.result(), item_id)
            elif self._turns.pop(item_id, None) is not None:
                self.dispatch.drop(item_id)
            raise

    def _send(self) -> None:
        for replica, item_id in self.dispatch.take():
            self._turns.pop(item_id).set_result(replica)
