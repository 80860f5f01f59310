"""Replicas of one backend and their slots. The sole owner of retry and timeout; knows no tree and no search."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from treesearch.dispatch import Dispatch
from treesearch.errors import RequestError, RunError

Call = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
TRIES = 3  # of an item that fails by itself
DEATHS = 2  # replicas an item may take with it


class ReplicaLost(Exception):
    """A replica went away with the item on it: no fault of the item's, unless replicas keep dying of it.

    `suspicious` is false where the cause is known to be another (its node was removed, it left in good order).
    """

    def __init__(self, message: str, suspicious: bool = True) -> None:
        super().__init__(message)
        self.suspicious = suspicious


@dataclass(frozen=True, slots=True)
class Replica:
    """`call` takes a list of items and gives a list of replies or exceptions; `credits` bounds the items in flight.

    `abort`, where there is one, is told the ids of items nobody wants any more.
    """

    call: Call
    credits: int
    abort: Callable[[Sequence[str]], None] | None = None


class Pool:
    """Sends items to replicas, each within its credits; a failure is retried elsewhere, a hang timed out.

    Replicas may join and leave at any time; items wait while there is none.
    """

    def __init__(self, replicas: Sequence[Replica] = (), timeout: float | None = None) -> None:
        self.replicas: dict[int, Replica] = {}
        self.dispatch = Dispatch()
        self.timeout = timeout
        self.retries = 0
        self._joined = 0
        self._turns: dict[str, asyncio.Future[int]] = {}
        self._running: dict[str, int] = {}
        self._unwanted: set[str] = set()  # running items that are not asked again
        self._accused: dict[int, str] = {}  # replica that died -> the suspect that ran on it
        self._shut: RunError | None = None
        for replica in replicas:
            self.join(replica)

    @property
    def credits(self) -> int:
        return sum(self.dispatch.credits.values())

    def join(self, replica: Replica) -> int:
        """Give work to a replica from now on; returns its number here."""
        number, self._joined = self._joined, self._joined + 1
        self.replicas[number] = replica
        self.dispatch.join(number, replica.credits)
        self._send()
        return number

    def leave(self, number: int) -> None:
        """Give no more work to a replica. Its owner ends the calls under way, with ReplicaLost."""
        if number in self.dispatch.suspect:
            self._accused[number] = self.dispatch.suspect[number]
        self.dispatch.leave(number)
        self._send()

    def shut(self, error: RunError) -> None:
        """No replica will ever come again: whoever waits, now or later, gets this error."""
        self._shut = error
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(error)

    async def run(self, item_id: str, item: Any) -> Any:
        """The reply to one item. Raises RequestError and RunError at once, or the item's third failure."""
        try:
            return await self._tried(item_id, item)
        finally:
            self._unwanted.discard(item_id)

    async def _tried(self, item_id: str, item: Any) -> Any:
        failures = deaths = 0
        while True:
            number = await self._slot(item_id, suspect=deaths > 0)
            reply = await self._call(number, item_id, item)
            if not isinstance(reply, Exception):
                return reply
            if item_id in self._unwanted:
                raise reply
            if isinstance(reply, ReplicaLost):
                deaths += reply.suspicious and self._accused.get(number, item_id) == item_id
                if deaths >= DEATHS:
                    raise RequestError(f"poison: {deaths} replicas died with this request on them ({reply})")
            else:
                failures += 1
                if isinstance(reply, RequestError | RunError) or failures == TRIES:
                    raise reply
            self.retries += 1

    def waits(self, item_id: str) -> bool:
        """Whether the item still waits for a slot."""
        return item_id in self._turns

    def abort(self, item_id: str) -> None:
        """Nobody wants this item any more: it ends where it waits; where it runs, its replica may end it early."""
        turn = self._turns.get(item_id)
        if turn is not None and not turn.done():
            turn.set_exception(RequestError("nobody wants it any more"))
        if item_id in self._running:
            self._unwanted.add(item_id)
            replica = self.replicas[self._running[item_id]]
            if replica.abort is not None:
                replica.abort([item_id])

    async def _call(self, number: int, item_id: str, item: Any) -> Any:
        """The reply or the exception that is its reply; the slot is free again afterwards."""
        self._running[item_id] = number
        try:
            async with asyncio.timeout(self.timeout) if self.timeout is not None else nullcontext():
                (reply,) = await self.replicas[number].call([item])
        except Exception as error:  # a backend that raises for the whole call fails each of its items
            return error
        finally:
            del self._running[item_id]
            self.dispatch.done(number, item_id)
            self._send()
        return reply

    async def _slot(self, item_id: str, suspect: bool) -> int:
        if self._shut is not None:
            raise self._shut
        turn = asyncio.get_running_loop().create_future()
        self._turns[item_id] = turn
        self.dispatch.add(item_id, suspect)
        self._send()
        try:
            return await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.dispatch.done(turn.result(), item_id)  # it was sent in the very moment it was cancelled
            elif self._turns.pop(item_id, None) is not None:
                self.dispatch.drop(item_id)
            raise

    def _send(self) -> None:
        while sent := self.dispatch.take():
            for number, item_id in sent:
                turn = self._turns.pop(item_id)
                if turn.done():  # cancelled, and its task does not know yet
                    self.dispatch.done(number, item_id)
                else:
                    turn.set_result(number)
