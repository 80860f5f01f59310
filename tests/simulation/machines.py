"""A cluster without machines: what the real `actors.cluster.Cluster` sees of Ray, and the network between its processes.

A message takes a drawn time, longer across a partition; a call to a dead process fails after a while, one to a frozen
process never ends. With a small probability a request arrives twice.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from tests.simulation.loop import HERE, Process, VirtualLoop

ONCE_MORE = (
    "exchange",
)  # calls that may be made twice: Ray makes no call twice by itself, but nothing here relies on it

NO_MEMORY = "no memory is left"  # why Ray ended a process


@dataclass(slots=True, eq=False)
class _Call:
    caller: Process | None
    target: Process
    reply: asyncio.Future[Any]


class Network:
    """Delays between processes. `latency` is the mean of a message, in seconds."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, latency: float, tail: float, twice: float) -> None:
        self.loop, self.rng, self.latency, self.tail, self.twice = loop, rng, latency, tail, twice
        self.cut: dict[tuple[str, str], float] = {}  # (from host, to host) -> until
        self._open: dict[Process, dict[_Call, None]] = {}
        self._why: dict[Process, str] = {}

    def delay(self, source: Process | None, target: Process | None) -> float:
        """Seconds until a message sent now arrives: a few of them take far longer than most."""
        seconds = self.rng.expovariate(1 / self.latency) * (100 if self.rng.random() < self.tail else 1)
        if source is not None and target is not None:
            healed = self.cut.get((source.host, target.host), 0.0)
            seconds += max(0.0, healed - self.loop.now)
        return seconds

    def call(self, target: Process, name: str, work: Callable[..., Coroutine[Any, Any, Any]], args: Any) -> Any:
        """A future of what `work(*args)` gives there."""
        call = _Call(HERE.get(), target, self.loop.create_future())
        if not target.alive:
            self._told(call, None, _gone(self._why[target]), self.delay(None, None))
            return call.reply
        self._open.setdefault(target, {})[call] = None
        twice = name in ONCE_MORE and self.rng.random() < self.twice
        for _ in range(1 + twice):
            self.loop.call_later(
                self.delay(call.caller, target), self._arrived, call, work, args, context=target.context
            )
        return call.reply

    def died(self, target: Process, why: str) -> None:
        """Who has called it learns of its death after a second or two, as with Ray."""
        self._why[target] = why
        for call in self._open.pop(target, {}):
            self._told(call, None, _gone(why), self.delay(target, call.caller) + self.rng.uniform(0.5, 2.0))

    def _arrived(self, call: _Call, work: Callable[..., Coroutine[Any, Any, Any]], args: Any) -> None:
        task = self.loop.create_task(work(*args))
        task.add_done_callback(partial(self._answered, call))

    def _answered(self, call: _Call, task: asyncio.Task[Any]) -> None:
        self._open.get(call.target, {}).pop(call, None)
        result, error = None, None
        if task.cancelled():
            return
        raised = task.exception()
        if raised is not None:
            told = f"{type(raised).__name__}: {raised}"
            error = RayTaskError(call.target.name, told, raised, proctitle="simulated", pid=0, ip="0.0.0.0")
        else:
            result = task.result()
        self._told(call, result, error, self.delay(call.target, call.caller))

    def _told(self, call: _Call, result: Any, error: Exception | None, seconds: float) -> None:
        def arrive() -> None:
            if call.reply.done():
                return
            if error is not None:
                call.reply.set_exception(error)
            else:
                call.reply.set_result(result)

        if call.caller is not None:
            self.loop.call_later(seconds, arrive, context=call.caller.context)
        else:
            self.loop.call_later(seconds, arrive)


def _gone(why: str) -> Exception:
    if why == NO_MEMORY:
        return OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.\nMemory on the node")
    return RayActorError(error_msg=f"The actor is dead because {why}.")


class Handle:
    """An actor as its callers see it: `handle.method.remote(...)`."""

    def __init__(self, network: Network, process: Process, actor: Any) -> None:
        self.network, self.process, self.actor = network, process, actor

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)


class _Method:
    def __init__(self, handle: Handle, name: str) -> None:
        self.handle, self.name = handle, name

    def remote(self, *args: Any) -> Any:
        handle = self.handle
        return handle.network.call(handle.process, self.name, getattr(handle.actor, self.name), args)


class FakeRay:
    """The part of the module `ray` that the cluster uses. `hosts` machines; the driver's is host 0."""

    def __init__(self, network: Network, hosts: int, note: Callable[..., None]) -> None:
        self.network, self.hosts, self.note = network, hosts, note
        self.life = 0
        self.processes: list[Process] = []
        self.handles: list[Handle] = []
        self._numbers = itertools.count(1)
        self._places = itertools.count()

    def remote(self, kind: type) -> Any:
        return _Kind(self, kind)

    def kill(self, handle: Handle) -> None:
        """From the driver, over the network; a machine that is cut off hears of it later."""
        process = handle.process
        self.note("given up", process)
        seconds = self.network.delay(HERE.get(), process)
        self.network.loop.call_later(seconds, self.end, process, "it was killed by ray.kill", context=_nobody())

    def end(self, process: Process, why: str) -> None:
        if process.alive:
            process.kill()
            self.network.died(process, why)
            self.note("died", process, why)

    def start(self, kind: type, args: Any) -> Handle:
        host = f"host{next(self._places) % self.hosts}"
        name = args[1] if isinstance(args[1], str) and args[1].startswith("manager") else f"{args[1]}-{args[2]}"
        process = Process(f"{name}#{next(self._numbers)}", host)
        process.life = self.life
        process.epoch = None if name.startswith("manager") else args[3]
        handle = Handle(self.network, process, process.context.run(kind, *args))
        self.processes.append(process)
        self.handles.append(handle)
        return handle

    def get_runtime_context(self) -> FakeRay:
        return self

    def get_node_id(self) -> str:
        return "0" * 56


class _Kind:
    def __init__(self, ray: FakeRay, kind: type) -> None:
        self.ray, self.kind = ray, kind

    def options(self, **_: Any) -> _Kind:
        return self

    def remote(self, *args: Any) -> Handle:
        return self.ray.start(self.kind, args)


def _nobody() -> Any:
    """A context that belongs to no process: the machine's own doing."""
    from contextvars import copy_context

    context = copy_context()
    context.run(HERE.set, None)
    return context
