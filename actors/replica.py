"""One model behind a line: takes jobs in batches, answers each as soon as it is done. What both kinds of replica share.

A manager has one call open here most of the time (`exchange`). It brings new items and is answered when replies are ready;
the next call sets an older one free at once. So a manager and a replica exchange one message at a time, however many
jobs are under way, and a replica that says nothing for long is known to be dead or frozen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.metrics import Metrics
from treesearch import config as configs
from treesearch.config import Config, Data, specs_in, with_specs
from treesearch.run import usage_of
from treesearch.wire import error_row, seal, unseal

# Item's number, whether it went well, payload or error row; or None, how it begins. Without a number: how the engine died.
Reply = tuple[int | None, bool | None, Any]
FAREWELL = 1.0  # seconds between the death of an engine, of which the managers are told, and the end of its process
FORGET = 4  # a manager silent for so many beats is gone; if it lives, it has closed its line before (link.BEATS)
UTILIZATION = 0.9  # of a card's memory, shared out among the engines on it


class Mailbox:
    """Replies for one manager, until it fetches them."""

    def __init__(self) -> None:
        self.ready: list[Reply] = []
        self.running: dict[int, tuple[str, asyncio.Task[Any]]] = {}  # item's number -> job id, task
        self.unheard: dict[int, asyncio.Future[None]] = {}  # what is said of suspects and the manager may not know
        self.rests = False  # whether its manager wants nothing drawn
        self.heard, self.beat = now(), 0.0
        self._parked: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None

    def silent(self) -> bool:
        """Whether its manager has not been heard of for so long that it is gone."""
        return now() - self.heard > FORGET * self.beat

    def put(self, reply: Reply) -> None:
        self.ready.append(reply)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def collect(self, gap: float, beat: float) -> list[Reply]:
        """What is ready: not before `gap` seconds, not after `beat`, and at once when another call comes."""
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)
        loop = asyncio.get_running_loop()
        parked = self._parked = loop.create_future()
        until = loop.time() + beat
        if gap:
            await asyncio.wait([parked], timeout=gap)
        while not self.ready and not parked.done() and (left := until - loop.time()) > 0:
            news = self._news = loop.create_future()
            await asyncio.wait([parked, news], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self.heard = now()
        ready, self.ready = self.ready, []
        return ready


class Replica:
    """A backend of one role in a process of its own. `epoch` tells this life of it from those before and after."""

    role = ""

    def __init__(self, config: Data, role: str, number: int, epoch: int, share: float | None) -> None:
        self.data, self.role, self.number, self.epoch, self.share = config, role, number, epoch, share
        self.mail: dict[str, Mailbox] = {}
        self.backend: Any = None
        self._trial = asyncio.Lock()  # of whoever may have killed another replica
        self._begun: dict[asyncio.Task[Any], Mailbox] = {}  # what runs now, for whom
        self._reserved: Mailbox | None = None  # whose suspect runs, if no other manager's items may begin
        self._free = asyncio.Event()
        self._rests = False  # what the backend was told last
        self.metrics: Metrics | None = None  # of a process that Ray knows

    async def ready(self) -> dict[str, Any]:
        """Load the model; what a manager needs to know of this replica. Raises what `build` raises."""
        config = configs.build([self.data])
        self.backend = self.build(config, with_share(getattr(config, self.role), self.share))
        self.metrics = Metrics(self.role, str(self.number))
        told = {name: getattr(self.backend, name, None) for name in ("enough", "keeps")}
        return {"credits": self.backend.max_jobs, **told, "pid": os.getpid(), "host": os.uname().nodename}

    async def stand(self) -> None:
        """Never returns: its caller learns from the error that this process is gone."""
        await asyncio.Event().wait()

    async def exchange(self, frame: bytes) -> bytes:
        """Take new items and aborts; give the replies that are ready, and what the backend has counted."""
        client, items, aborts, heard, gap, beat, rests = unseal(frame)
        self._forget_the_dead()
        box = self.mail.setdefault(client, Mailbox())
        box.heard, box.beat, box.rests = now(), beat, rests
        self._take(box, heard)
        for number, row, alone in items:
            job_id, work = self.work(row)
            serve = self._serve(box, number, work) if alone is None else self._tried(box, number, work, alone)
            box.running[number] = job_id, asyncio.create_task(serve)
        self._abort([box.running[number][0] for number in aborts if number in box.running])
        self._rest()
        replies = await box.collect(gap, beat)
        usage = dict(usage_of(self.backend))
        self._measure(usage)
        return seal([self.epoch, replies, usage])

    def _measure(self, usage: Mapping[str, int]) -> None:
        """Tell Prometheus."""
        if self.metrics is None or not self.metrics.due():
            return
        running = sum(len(box.running) for box in self.mail.values())
        self.metrics.record({
            "jobs_running": running,
            "occupancy": running / self.backend.max_jobs,
            "prefix_queries": usage.get("prompt_tokens"),
            "prefix_hits": usage.get("cached_tokens"),
        })  # fmt: skip

    def build(self, config: Config, spec: Any) -> Any:
        """The backend of this role."""
        raise NotImplementedError

    def work(self, row: Sequence[Any]) -> tuple[str, Coroutine[Any, Any, Any]]:
        """(job id, the work on an item, which gives the payload of its reply)."""
        raise NotImplementedError

    def _take(self, box: Mailbox, heard: Sequence[tuple[int, bool]]) -> None:
        """A manager knows that a suspect has begun, or (true) wants to hear no more of an item."""
        for number, over in heard:
            if over and number in box.running:
                job_id, task = box.running.pop(number)
                self._abort([job_id])
                task.cancel()
            elif number in box.unheard and over != (number in box.running):
                box.unheard.pop(number).set_result(None)

    async def _tried(self, box: Mailbox, number: int, work: Coroutine[Any, Any, Any], alone: bool) -> None:
        """A suspect's turn: its manager has heard that it begins before it does, and the end of it before the next begins.

        It is told, too, whether no other manager's items run meanwhile. With `alone` they do not.
        """
        try:
            async with self._trial:
                try:
                    others = [task for task, whose in self._begun.items() if whose is not box]
                    if alone or not others:
                        self._reserved = box
                        self._free.clear()
                    if alone and others:
                        await asyncio.wait(others)
                    await self._heard(box, number, (number, None, self._reserved is box))
                    await self._heard(box, number, await self._serve(box, number, work))
                finally:
                    self._reserved = None
                    self._free.set()
        finally:
            work.close()  # where it was cancelled while it waited

    async def _heard(self, box: Mailbox, number: int, said: Reply) -> None:
        """Say it, each beat anew, until its manager has heard it or is gone: a message that was lost must not make a
        manager believe that its suspect is tried still, while another's is."""
        heard = box.unheard[number] = asyncio.get_running_loop().create_future()
        while not heard.done() and not box.silent():
            if not any(reply is said for reply in box.ready):
                box.put(said)
            await asyncio.wait([heard], timeout=box.beat)
        box.unheard.pop(number, None)

    async def _serve(self, box: Mailbox, number: int, work: Coroutine[Any, Any, Any]) -> Reply:
        """Put the reply to an item, when its work is done, and return it."""
        task: Any = asyncio.current_task()
        try:
            while self._reserved not in (None, box):
                await self._free.wait()
            self._begun[task] = box
            reply: Reply = number, True, await work
        except Exception as error:
            if getattr(self.backend, "dead", False):
                await self._die(error)
            reply = number, False, error_row(error)
        finally:
            self._begun.pop(task, None)
            work.close()  # where it was cancelled while it waited
        box.running.pop(number, None)
        box.put(reply)
        return reply

    async def _die(self, error: Exception) -> None:
        """End this process, once the managers know why: what ran here may be to blame. An engine that died is not
        repaired in place; the cluster starts another."""
        for box in self.mail.values():
            box.put((None, None, str(error)[:500]))
        await asyncio.sleep(FAREWELL)
        os._exit(1)

    def _abort(self, job_ids: Sequence[str]) -> None:
        abort: Callable[[Sequence[str]], None] | None = getattr(self.backend, "abort", None)
        if job_ids and abort is not None:
            abort(job_ids)

    def _rest(self) -> None:
        """The backend rests while every manager that waits for something wants it to."""
        waiting = [box.rests for box in self.mail.values() if box.running]
        rests = bool(waiting) and all(waiting)
        rest: Callable[[bool], None] | None = getattr(self.backend, "rest", None)
        if rest is not None and rests != self._rests:  # told once: a rest that the backend has ended stays ended
            self._rests = rests
            rest(rests)

    def _forget_the_dead(self) -> None:
        """A manager that has not been heard of for long has been replaced: nobody wants its replies."""
        for client in [c for c, box in self.mail.items() if box.silent()]:
            running = self.mail.pop(client).running.values()
            self._abort([job_id for job_id, _ in running])
            for _, task in running:
                task.cancel()


def now() -> float:
    """The loop's time, in seconds."""
    return asyncio.get_running_loop().time()


async def single(reply: Awaitable[Sequence[Any]]) -> Any:
    """The one reply of a backend to one item; raises it if it is an exception."""
    (found,) = await reply
    if isinstance(found, Exception):
        raise found
    return found


def with_share(spec: Any, share: float | None) -> Any:
    """The spec with its part of a card's memory, shared out among the engines in it, unless the user has set it."""
    engines = sum(map(_unset, specs_in(spec)))
    if share is None or not engines:
        return spec
    part = round(UTILIZATION * min(share, 1.0) / engines, 4)
    return with_specs(spec, lambda s: replace(s, gpu_memory_utilization=part) if _unset(s) else s)


def _unset(spec: Any) -> bool:
    return getattr(spec, "gpu_memory_utilization", 0) is None
