"""Replicas of one backend and their slots. The sole owner of retry and timeout; knows no tree and no search."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from treesearch.dispatch import Dispatch
from treesearch.errors import RequestError, RunError

Call = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
TRIES = 3  # of an item that fails by itself


class ReplicaLost(Exception):
    """A replica went away with the item on it: no fault of the item's, unless replicas keep dying of it.

    `suspicious` is false where the cause is known to be another (its node was removed, it left in good order), `begun` is
    where the replica had not yet begun with the item (only a trial says so).
    """

    def __init__(self, message: str, suspicious: bool = True, begun: bool = True) -> None:
        super().__init__(message)
        self.suspicious, self.begun = suspicious, begun


@dataclass(frozen=True, slots=True)
class Replica:
    """`call` takes a list of items and gives a list of replies or exceptions; `credits` bounds the items in flight.

    `abort`, where there is one, is told the ids of items nobody wants any more; `trial` is the `call` of a suspect, which
    the replica runs while it runs no other suspect, whoever sends it.
    """

    call: Call
    credits: int
    abort: Callable[[Sequence[str]], None] | None = None
    trial: Call | None = None


class Pool:
    """Sends items to replicas, each within its credits; a failure is retried elsewhere, a hang timed out.

    Replicas may join and leave at any time; items wait while there is none. Items of one kin hold the same prompt. When a
    replica dies, what ran on it is suspected, its kin too, and tried: one of the kin at a time, on a replica that tries
    nothing else. If that one dies as well, the kin is poison, and none of it is sent again; a reply clears it.
    """

    def __init__(self, replicas: Sequence[Replica] = (), timeout: float | None = None) -> None:
        self.replicas: dict[int, Replica] = {}
        self.dispatch = Dispatch()
        self.timeout = timeout
        self.retries = 0
        self._joined = 0
        self._turns: dict[str, asyncio.Future[int]] = {}
        self._running: dict[str, int] = {}
        self._asked: set[str] = set()  # items that have no reply yet
        self._unwanted: set[str] = set()  # those of them that are not sent again
        self._suspects: dict[Hashable, asyncio.Lock] = {}  # kin -> its trial
        self._poison: dict[Hashable, str] = {}  # kin -> how that is known
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
        asyncio.get_running_loop().call_soon(self._send)  # once those who ran there have said what is suspect now

    def shut(self, error: RunError) -> None:
        """No replica will ever come again: whoever waits, now or later, gets this error."""
        self._shut = error
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(error)

    async def run(self, item_id: str, item: Any, kin: Hashable = None) -> Any:
        """The reply to one item. Raises RequestError and RunError at once, or the item's third failure."""
        self._asked.add(item_id)
        try:
            return await self._tried(item_id, item, item_id if kin is None else kin)
        finally:
            self._asked.discard(item_id)
            self._unwanted.discard(item_id)

    async def _tried(self, item_id: str, item: Any, kin: Hashable) -> Any:
        failures = 0
        while True:
            trial = self._suspects.get(kin)
            async with trial or nullcontext():
                if item_id in self._unwanted:
                    raise RequestError("nobody wants it any more")
                if kin in self._poison:
                    raise RequestError(self._poison[kin])
                if self._suspects.get(kin) is not trial:
                    continue  # cleared meanwhile
                number = await self._slot(item_id, suspect=trial is not None)
                if kin in self._poison or self._suspects.get(kin) is not trial:  # known meanwhile: not this way
                    self.dispatch.done(number, item_id)
                    self._send()
                    continue
                reply = await self._call(number, item_id, item, trial is not None)
                if isinstance(reply, ReplicaLost):
                    self._suspect(number, item_id, kin, reply, trial)
                elif trial is not None:
                    self._suspects.pop(kin, None)
            if not isinstance(reply, Exception):
                return reply
            if item_id in self._unwanted:
                raise reply
            if not isinstance(reply, ReplicaLost):
                failures += 1
                if isinstance(reply, RequestError | RunError) or failures == TRIES:
                    raise reply
            self.retries += 1

    def _suspect(self, number: int, item_id: str, kin: Hashable, lost: ReplicaLost, trial: asyncio.Lock | None) -> None:
        """A replica died with this item on it: whose fault that may be."""
        if not lost.suspicious or not lost.begun or self._accused.get(number, item_id) != item_id:
            return
        if trial is None:
            self._suspects.setdefault(kin, asyncio.Lock())
        else:
            self._poison[kin] = f"poison: two replicas died with this request on them, one tried it alone ({lost})"
            self._suspects.pop(kin, None)

    def waits(self, item_id: str) -> bool:
        """Whether the item still waits for a slot."""
        return item_id in self._turns

    def abort(self, item_id: str) -> None:
        """Nobody wants this item any more: it ends where it waits; where it runs, its replica may end it early."""
        turn = self._turns.get(item_id)
        if turn is not None and not turn.done():
            turn.set_exception(RequestError("nobody wants it any more"))
        if item_id in self._asked:
            self._unwanted.add(item_id)
        if item_id in self._running:
            replica = self.replicas[self._running[item_id]]
            if replica.abort is not None:
                replica.abort([item_id])

    async def _call(self, number: int, item_id: str, item: Any, trial: bool) -> Any:
        """The reply or the exception that is its reply; the slot is free again afterwards."""
        self._running[item_id] = number
        replica = self.replicas[number]
        try:
            async with asyncio.timeout(self.timeout) if self.timeout is not None else nullcontext():
                (reply,) = await (replica.trial if trial and replica.trial is not None else replica.call)([item])
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
