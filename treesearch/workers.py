"""Interpreters of their own for work that may hang, flood or die: limited, killed from outside, started anew.

No signal stops C code that multiplies out `9^{9^{9^9}}`, so a process is killed with all that it started. It is started as
a program, not by multiprocessing, which would run the user's own script again in each of them. What travels is JSON; what
is to be done travels by name: a module has OPERATIONS, functions of (what was loaded by name, a request). Knows no task.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from treesearch.errors import RunError, TreesearchError

START_SECONDS = 120.0  # to start an interpreter and import what is heavy on a busy machine
LONGEST_ERROR = 500  # characters
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from treesearch.workers import serve; serve(int(sys.argv[2]), sys.argv[3], *json.loads(sys.argv[4]))"
)

Operation = Callable[[dict[str, Any], dict[str, Any]], Any]


class WorkerLost(TreesearchError):
    """A process was killed: it ran past its time, or died."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one operation: `seconds` on the clock. Of one process: `memory` in bytes, `files`: bytes of a file it writes."""

    seconds: float = 2.0
    memory: int = 1 << 30
    files: int | None = None


class Workers:
    """Processes that do the OPERATIONS of the module `serving`, as many as are asked at once. Call `close` at the end."""

    def __init__(self, serving: str, bounds: Bounds) -> None:
        self.serving, self.bounds = serving, bounds
        self.all: set[Worker] = set()
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def exchange(self, request: dict[str, Any], name: str) -> dict[str, Any]:
        """One operation in one process that has loaded `name`: {"value": ...} or {"error": ...}. Blocks its thread.

        Raises WorkerLost if the process was killed, RunError if it cannot load `name` or these workers are closed.
        """
        worker = self._ready(name)
        try:
            reply = worker.ask(request, self.bounds.seconds)
        except BaseException:
            self._drop(worker)
            raise
        with self._lock:
            self._idle.append(worker)
        return reply

    def start(self, name: str) -> None:
        """One process that has loaded `name` waits from now on. Raises RunError if that fails."""
        worker = self._ready(name)
        with self._lock:
            self._idle.append(worker)

    def kill(self) -> None:
        """End all processes, whatever they do; none is started any more."""
        with self._lock:
            self._closed = True
            running = list(self.all)
        for worker in running:
            worker.kill()

    def _ready(self, name: str) -> Worker:
        """A process that has loaded `name`."""
        worker = self._take()
        try:
            worker.load(name)
        except BaseException:
            self._drop(worker)
            raise
        return worker

    def _take(self) -> Worker:
        """A process that waits and lives, else a fresh one."""
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                break
            if worker.alive():
                return worker
            self._drop(worker)
        with self._lock:  # held while it starts (milliseconds), so that `kill` misses none
            if self._closed:
                raise RunError(f"the processes of {self.serving} are closed: nothing can be asked any more")
            worker = Worker(self.serving, self.bounds)
            self.all.add(worker)
        return worker

    def _drop(self, worker: Worker) -> None:
        worker.kill()
        with self._lock:
            self.all.discard(worker)


class Worker:
    """One interpreter that does one operation at a time."""

    def __init__(self, serving: str, bounds: Bounds) -> None:
        self.loaded: set[str] = set()
        self._pipe, theirs = Pipe()
        limits = json.dumps([bounds.seconds, bounds.memory, bounds.files])
        # What is printed there (a parser complains about a text) nobody can act on; errors come by the pipe.
        self._program = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno()), serving, limits],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt at the terminal is for the run, which then ends its processes
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._program.pid

    def alive(self) -> bool:
        return self._program.poll() is None

    def load(self, name: str) -> None:
        """Import `name` there, once. Raises RunError if that fails: nothing that was asked is to blame for it."""
        if name in self.loaded:
            return
        try:
            reply = self.ask({"op": "load", "name": name}, START_SECONDS)
        except WorkerLost as error:
            raise RunError(f"a process for {name!r} could not start: {error}") from error
        if "error" in reply:
            raise RunError(f"a process cannot load {name!r}: {reply['error']}")
        self.loaded.add(name)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send and wait. Raises WorkerLost if no reply comes in time or the process dies."""
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if not self._pipe.poll(seconds):
                raise WorkerLost(f"no reply within {seconds} s")
            reply: dict[str, Any] = json.loads(self._pipe.recv_bytes())
            return reply
        except (EOFError, OSError, ValueError) as error:
            raise WorkerLost(f"the process ended: {error!r}") from error

    def kill(self) -> None:
        if self.alive():  # else its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):  # it ended in this moment
                os.killpg(self._program.pid, signal.SIGKILL)  # with what it started
        self._program.wait()


def serve(pipe: int, serving: str, seconds: float, memory: int, files: int | None) -> None:
    """The program of a process: operations come as JSON on the pipe, until its other end closes."""
    _limit("RLIMIT_AS", memory)
    _limit("RLIMIT_FSIZE", files)
    connection = Connection(pipe)
    operations: dict[str, Operation] = importlib.import_module(serving).OPERATIONS
    loaded: dict[str, Any] = {}
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        _limit_time(START_SECONDS if request["op"] == "load" else seconds)
        try:
            reply = json.dumps({"value": operations[request["op"]](loaded, request)})
        except Exception as error:  # whatever is raised about a model's text is a value for the caller
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"[:LONGEST_ERROR]})
        signal.alarm(0)
        connection.send_bytes(reply.encode())


def _limit(kind: str, most: int | None) -> None:
    if most is not None and sys.platform == "linux":  # elsewhere the limit is missing or not obeyed; time still is
        import resource

        resource.setrlimit(getattr(resource, kind), (most, most))


def _limit_time(seconds: float) -> None:
    """Should the parent be gone, the kernel ends this process: some time later, and after some more processor time."""
    import resource

    signal.alarm(math.ceil(seconds) + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds) + 1, resource.RLIM_INFINITY))
