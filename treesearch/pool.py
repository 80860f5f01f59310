"""Replicas of one backend and their slots. The sole owner of retry and timeout; knows no tree and no search."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from treesearch.blame import Blame, Kin
from treesearch.dispatch import NOWHERE, Dispatch
from treesearch.errors import RequestError, RunError

Call = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
Trial = Callable[[Sequence[Any], bool], Awaitable[Sequence[Any]]]
Death = Literal["other", "silent", "engine"]  # of a replica, see ReplicaLost
TRIES = 3  # of an item that fails by itself
POISON = "poison: it was tried, and two replicas have died of which nothing else can have been the death"
AGAIN = object()  # instead of a reply


class ReplicaLost(Exception):
    """A replica went away with the item on it: no fault of the item's, unless replicas keep dying of it.

    `death`: of its "engine", which what ran there may be to blame for; "silent", as a killed process dies, a frozen one
    and one that crashed; of something "other" that no item can cause (its node was removed). Only a trial says whether
    the replica had `begun` with it, and whether it was `alone` there but for items of the same pool.
    """

    def __init__(self, message: str, death: Death = "silent", begun: bool = True, alone: bool = True) -> None:
        super().__init__(message)
        self.death, self.begun, self.alone = death, begun, alone


@dataclass(frozen=True, slots=True)
class Replica:
    """`call` takes a list of items and gives a list of replies or exceptions; `credits` bounds the items in flight.

    `abort`, where there is one, is told the ids of items nobody wants any more; `trial` is the `call` of suspects, which
    the replica runs while it runs no other suspect, whoever sends it, or (true) nothing at all of other pools. `enough`:
    tokens in flight that keep it busy, see `backpressure`; `keeps`: tokens its cache holds, see `residents` (None: not
    known); `rest`, where there is one, is told whether to draw nothing for a time; replicas that share a GPU have one `card`.
    """

    call: Call
    credits: int
    abort: Callable[[Sequence[str]], None] | None = None
    trial: Trial | None = None
    enough: int | None = None
    keeps: int | None = None
    rest: Callable[[bool], None] | None = None
    card: Hashable = None


class Pool:
    """Sends items to replicas, each within its credits; a failure is retried elsewhere, a hang timed out.

    Replicas may join and leave at any time; items wait while there is none. Items of one kin hold the same prompt. When a
    replica dies, what ran on it is sent again; what is suspected of the death (see blame), its kin too, is tried: one of
    the kin at a time, on a replica that tries nothing else. A kin that is found to be poison is not sent again.
    """

    def __init__(self, replicas: Sequence[Replica] = (), timeout: float | None = None) -> None:
        self.replicas: dict[int, Replica] = {}
        self.dispatch = Dispatch()
        self.timeout = timeout
        self.retries = 0
        self.paced = False  # whether of some replica it is known what is enough
        self.caching = False  # whether of some replica it is known what it keeps
        self._joined = 0
        self._turns: dict[str, asyncio.Future[int]] = {}
        self._running: dict[str, int] = {}
        self._asked: dict[str, Kin] = {}  # items that have no reply yet
        self._unwanted: set[str] = set()  # those of them that are not sent again
        self._blame = Blame()
        self._suspects: dict[Kin, asyncio.Lock] = {}  # whoever has it is tried
        self._held: dict[str, None] = {}  # items that wait for what becomes of their kin
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
        self.paced = self.paced or replica.enough is not None
        self.caching = self.caching or replica.keeps is not None
        self.dispatch.join(number, replica.credits)
        self._send()
        return number

    def leave(self, number: int) -> None:
        """Give no more work to a replica. Its owner ends the calls under way, with ReplicaLost."""
        self.dispatch.leave(number)
        asyncio.get_running_loop().call_soon(self._send)  # once those who ran there have said what is suspect now

    def shut(self, error: RunError) -> None:
        """No replica will ever come again: whoever waits, now or later, gets this error."""
        self._shut = error
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(error)

    async def run(self, item_id: str, item: Any, kin: Kin = None) -> Any:
        """The reply to one item. Raises RequestError and RunError at once, or the item's third failure."""
        kin = self._asked[item_id] = item_id if kin is None else kin
        try:
            return await self._tried(item_id, item, kin)
        finally:
            del self._asked[item_id]
            self._unwanted.discard(item_id)
            if kin in self._blame and kin not in self._asked.values():
                self._blame.gone(kin)
                self._review()

    async def _tried(self, item_id: str, item: Any, kin: Kin) -> Any:
        failures = 0
        while True:
            trial = self._suspects.get(kin)
            if trial is None:
                reply = await self._once(item_id, item, kin, None)
            else:
                async with trial:
                    reply = await self._once(item_id, item, kin, trial)
            if reply is AGAIN:
                continue
            if not isinstance(reply, Exception):
                return reply
            if item_id in self._unwanted:
                raise reply
            if not isinstance(reply, ReplicaLost):
                failures += 1
                if isinstance(reply, RequestError | RunError) or failures == TRIES:
                    raise reply
            self.retries += 1

    async def _once(self, item_id: str, item: Any, kin: Kin, trial: asyncio.Lock | None) -> Any:
        """A reply or the exception that is its reply; AGAIN, if it became known meanwhile that this is not the way."""
        if item_id in self._unwanted:
            raise RequestError("nobody wants it any more")
        if kin in self._blame.poison:
            raise RequestError(POISON)
        if self._suspects.get(kin) is not trial:
            return AGAIN  # cleared or held meanwhile
        number = self._at_once(item_id, kin) if trial is None else None
        if number is None:
            number = await self._slot(item_id, kin, suspect=trial is not None)
        if number == NOWHERE:
            return AGAIN
        if self._suspects.get(kin) is not trial or kin in self._blame.held or kin in self._blame.poison:
            self.dispatch.done(number, item_id)  # known meanwhile: not this way
            self._send()
            return AGAIN
        reply = await self._call(number, item_id, item, kin, trial is not None)
        self._learn(number, item_id, kin, reply, trial is not None)
        return reply

    def _learn(self, number: int, item_id: str, kin: Kin, reply: Any, tried: bool) -> None:
        """What a reply says of who kills replicas."""
        if isinstance(reply, ReplicaLost):
            if reply.death != "other" and reply.begun:
                self._blame.died(number, kin, tried, reply.alone, reply.death == "silent")
            self._review()
        elif isinstance(reply, TimeoutError):
            self._blame.hung(number, kin)
        elif kin in self._blame and item_id not in self._unwanted:  # else it may have ended before it could kill
            self._blame.answered(kin)
            self._review()

    def _review(self) -> None:
        """Suspects are who should be, and whoever waits as what he is no longer begins anew."""
        self._blame.settle(set(self._running.values()))
        self._suspects = {kin: self._suspects.get(kin) or asyncio.Lock() for kin in self._blame.suspects()}
        relieved = [item_id for item_id in self.dispatch.suspects() if self._asked[item_id] not in self._suspects]
        for item_id in relieved:
            self.dispatch.drop(item_id)
        judged = [item_id for item_id in self._held if self._asked[item_id] not in self._blame.held]
        for item_id in (*relieved, *judged):
            self._held.pop(item_id, None)
            turn = self._turns.pop(item_id)
            if not turn.done():
                turn.set_result(NOWHERE)

    def explained(self) -> list[int]:
        """Replicas that were found to have died of poison since this was last asked."""
        found, self._blame.explained = self._blame.explained, []
        return found

    def home(self, item_id: str) -> tuple[int, Replica | None]:
        """The replica that this item goes to if nothing changes, by number; NOWHERE and None while there is none."""
        number = self.dispatch.home(item_id)
        return number, self.replicas.get(number)

    def rest(self, card: Hashable, rests: bool) -> None:
        """Replicas on this card that can rest do so, or go on."""
        for replica in self.replicas.values():
            if replica.rest is not None and replica.card == card:
                replica.rest(rests)

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

    async def _call(self, number: int, item_id: str, item: Any, kin: Kin, tried: bool) -> Any:
        """The reply or the exception that is its reply; the slot is free again afterwards."""
        self._running[item_id] = number
        replica = self.replicas[number]
        try:
            if tried and replica.trial is not None:
                call = replica.trial([item], kin in self._blame.doubted)
            else:
                call = replica.call([item])
            if self.timeout is None:
                (reply,) = await call
            else:
                async with asyncio.timeout(self.timeout):
                    (reply,) = await call
        except Exception as error:  # a backend that raises for the whole call fails each of its items
            return error
        finally:
            del self._running[item_id]
            self.dispatch.done(number, item_id)
            self._send()
        return reply

    def _at_once(self, item_id: str, kin: Kin) -> int | None:
        """The replica that it can be sent to without waiting, if there is one."""
        if self._shut is not None or kin in self._blame.held:
            return None
        return self.dispatch.at_once(item_id)

    async def _slot(self, item_id: str, kin: Kin, suspect: bool) -> int:
        """The replica to send it to, waited for; NOWHERE once another kind of turn is due to its kin."""
        if self._shut is not None:
            raise self._shut
        turn = asyncio.get_running_loop().create_future()
        self._turns[item_id] = turn
        if kin in self._blame.held:
            self._held[item_id] = None
        else:
            self.dispatch.add(item_id, suspect)
        self._send()
        try:
            return await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.dispatch.done(turn.result(), item_id)  # it was sent in the very moment it was cancelled
            elif self._turns.pop(item_id, None) is not None and item_id not in self._held:
                self.dispatch.drop(item_id)
            self._held.pop(item_id, None)
            raise

    def _send(self) -> None:
        while self._turns and (sent := self.dispatch.take()):
            for number, item_id in sent:
                turn = self._turns.pop(item_id)
                if turn.done():  # cancelled, and its task does not know yet
                    self.dispatch.done(number, item_id)
                else:
                    turn.set_result(number)
