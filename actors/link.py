"""A manager's line to one replica: items go out and replies come back in batches, over one kind of call. Knows no Ray.

Messages are batched by what waits: a call goes as soon as there is something to send, but no sooner than `gap` after the
one before, so that a busy line carries many items a call. A line that fails or falls silent is closed for good: its
items end as ReplicaLost, and what its replica still says is not heard.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treesearch.backends.base import Scored
from treesearch.pool import ReplicaLost
from treesearch.wire import chain_rows, chains_of, error_of, fields, job_row, scores_of, seal, unseal

BEATS = 3  # a replica speaks so many times within the longest silence that is borne


@dataclass(frozen=True, slots=True)
class Codec:
    """How items of a role travel: item -> (job id, row), payload -> reply."""

    item: Callable[[Any], tuple[str, Any]]
    reply: Callable[[Any], Any]


def _scored(payload: Any) -> Scored:
    return Scored(*scores_of(payload))


def _judged(item: Any) -> tuple[str, Any]:
    job, chains = item
    return job.id, (job_row(job), chain_rows(chains))


SCORES = Codec(_judged, _scored)
CODECS = {"proposer": Codec(lambda job: (job.id, job_row(job)), chains_of), "scorer": SCORES, "outcome": SCORES}


class Link:
    """`exchange` is the replica's, `epoch` the life of it that is meant; `lost` is called once, before the items end."""

    def __init__(
        self,
        exchange: Callable[[bytes], Awaitable[bytes]],
        *,
        client: str,
        role: str,
        epoch: int,
        silence: float,
        gap: Callable[[], float],
        lost: Callable[[ReplicaLost], None],
    ) -> None:
        self.exchange, self.client, self.codec, self.epoch = exchange, client, CODECS[role], epoch
        self.silence, self.gap, self.lost = silence, gap, lost
        self.number = -1  # the replica's in its pool
        self.calls = self.items = 0
        self.usage: Mapping[str, int] = {}
        self.closed: ReplicaLost | None = None
        self._replies: dict[int, asyncio.Future[Any]] = {}  # item's number -> where its reply goes
        self._numbers: dict[str, int] = {}  # job id -> its newest item
        self._items: list[tuple[int, Any, bool | None]] = []
        self._trials: dict[int, bool | None] = {}  # suspect's number -> whether it runs alone; None: has not begun
        self._aborts: list[int] = []
        self._rests = False
        self._heard: list[tuple[int, bool]] = []  # suspects that have begun; items of which no more is heard (true)
        self._open = 0  # calls under way
        self._work = asyncio.Event()
        self._tasks = {asyncio.create_task(self._pump())}

    async def call(self, items: Sequence[Any]) -> list[Any]:
        """A reply or an exception for each item, as a pool wants it."""
        if len(items) == 1:  # as pools do: no task of its own
            return [await self._ask(items[0])]
        return list(await asyncio.gather(*map(self._ask, items)))

    async def trial(self, items: Sequence[Any], alone: bool) -> list[Any]:
        """The same for items that may have killed a replica; this one runs them one at a time, or even (`alone`) while
        no other manager has anything there."""
        return [await self._ask(item, alone) for item in items]

    def abort(self, job_ids: Sequence[str]) -> None:
        """Nobody wants these any more; their replies come early."""
        self._aborts += [self._numbers[job_id] for job_id in job_ids if job_id in self._numbers]
        self._work.set()

    def rest(self, rests: bool) -> None:
        """The replica shall draw nothing, as far as this manager is concerned, or go on."""
        self._rests = rests
        self._work.set()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _ask(self, item: Any, alone: bool | None = None) -> Any:
        """The reply to one item; a suspect's, if there is an `alone`."""
        if self.closed is not None:
            return ReplicaLost(str(self.closed), self.closed.death, begun=False)
        self.items += 1
        number = self.items
        job_id, row = self.codec.item(item)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self._numbers[job_id] = number
        self._items.append((number, row, alone))
        if alone is not None:
            self._trials[number] = None
        self._work.set()
        try:
            return await reply
        except asyncio.CancelledError:  # timed out, or nobody wants it any more
            if self._replies.pop(number, None) is not None and alone is None:
                self._heard.append((number, True))
                self._work.set()
            raise
        finally:
            if alone is not None:
                del self._trials[number]
                self._heard.append((number, True))  # the replica may try the next one
                self._work.set()
            if self._numbers.get(job_id) == number:
                del self._numbers[job_id]

    async def _pump(self) -> None:
        """Send what waits; while replies are due, keep one call open for them."""
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            sent = loop.time()
            gap = self.gap()
            (items, self._items), (aborts, self._aborts) = (self._items, []), (self._aborts, [])
            heard, self._heard = self._heard, []
            self._work.clear()
            frame = seal([self.client, items, aborts, heard, gap, self.silence / BEATS, self._rests])
            self._spawn(self._exchange(frame))
            if gap:
                await asyncio.sleep(sent + gap - loop.time())

    async def _exchange(self, frame: bytes) -> None:
        self.calls += 1
        self._open += 1
        try:
            async with asyncio.timeout(self.silence):
                epoch, replies, usage = fields(unseal(await self.exchange(frame)), 3, "exchange")
            replies = [fields(reply, 3, "reply") for reply in replies]
            if epoch != self.epoch:
                raise ReplicaLost(f"a replica of epoch {epoch} answers where {self.epoch} was asked")
        except ReplicaLost as error:
            self.lose(error)
            return
        except TimeoutError:
            self.lose(ReplicaLost(f"no word for {self.silence:g} s"))
            return
        except Exception as error:
            self.lose(ReplicaLost(cause(error), "other" if node_died(error) or memory_ended(error) else "silent"))
            return
        finally:
            self._open -= 1
        self.usage = usage
        for number, well, payload in replies:
            if number is None:
                self.lose(ReplicaLost(f"its engine died: {payload}", "engine"))
                return
            if well is None:
                self._begin(number, payload)
                continue
            reply = self._replies.pop(number, None)
            if reply is not None and not reply.done():
                reply.set_result(self._decoded(well, payload))
        if self._replies and not self._open:
            self._work.set()

    def _begin(self, number: int, alone: bool) -> None:
        """A suspect's turn has come: the replica waits until it knows that this is known here."""
        if number in self._trials:
            self._trials[number] = alone
        self._heard.append((number, number not in self._trials))
        self._work.set()

    def _decoded(self, well: bool, payload: Any) -> Any:
        try:
            return self.codec.reply(payload) if well else error_of(payload)
        except Exception as error:  # malformed: this item's failure
            return error

    def lose(self, error: ReplicaLost) -> None:
        """The replica is gone: say so, then end its items."""
        if self.closed is not None:
            return
        self.closed = error
        self.lost(error)
        for number, reply in self._replies.items():
            if not reply.done():
                alone = self._trials.get(number, True)
                reply.set_result(ReplicaLost(str(error), error.death, alone is not None, bool(alone)))
        self._replies.clear()
        self.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def node_died(error: Exception) -> bool:
    """Whether a replica went with its whole machine, which no request is to blame for."""
    gone = type(error).__name__ == "NodeDiedError" or getattr(error, "preempted", False)
    return gone or "node has died" in str(error).lower() or "node was terminated" in str(error).lower()


def memory_ended(error: Exception) -> bool:
    """Whether Ray ended a replica because its machine had no memory left: no one request is to blame for that."""
    return type(error).__name__ == "OutOfMemoryError"


def cause(error: BaseException) -> str:
    """Why a call failed, in one line: what Ray says after "because", else the first line."""
    if isinstance(error, Exception) and memory_ended(error):
        return "its machine ran out of memory"
    found = re.search(r"^The actor .*? because (.+?)(?:\. Some common causes.*)?$", str(error), re.MULTILINE)
    return found.group(1) if found else (str(error).strip() or repr(error)).splitlines()[0]
