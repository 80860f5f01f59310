"""Interpreters of their own for work that may hang, flood or die: limited, killed from outside, started anew.

No signal stops C code that multiplies out `9^{9^{9^9}}`, so a process is killed with all that it started. It is started as
a program, not by multiprocessing, which would run the user's own script again in each of them. What travels is JSON; what
is to be done travels by name: a module has OPERATIONS, functions of (what was loaded by name, a request). Knows no task.

A process has no secrets in its environment and no open file but its own line. That and the limits keep accidents small;
they are no sandbox: it is the same user on the same machine, who may read /proc, write files and use the network.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from treesearch.errors import RunError, TreesearchError

START_SECONDS = 120.0  # to start an interpreter and import what is heavy on a busy machine
LONGEST_ERROR = 500  # characters
LONGEST_REPLY = 1 << 26  # bytes of JSON
_HEADER = 4  # bytes before each message: its length, little endian
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from treesearch.workers import serve; serve(int(sys.argv[2]), sys.argv[3], *json.loads(sys.argv[4]))"
)

Operation = Callable[[dict[str, Any], dict[str, Any]], Any]

_SECRET = re.compile(
    r"(?i)key|token(?!iz)|secret|passw|passphrase|credential|auth|cookie|private"
)  # in a variable's name
_LOGIN = re.compile(r"://[^/\s]*:[^/\s]*@")  # a URL with a password
_private: set[str] = set()


def keep_private(variable: str) -> None:
    """Leave this environment variable out of all processes from now on, whatever it is called."""
    _private.add(variable)


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are no secret, by their names and values."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _private and not _SECRET.search(name) and not _LOGIN.search(value)
    }


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
        self._line, theirs = socket.socketpair()
        self._ending = threading.Lock()
        limits = json.dumps([bounds.seconds, bounds.memory, bounds.files])
        # What is printed there (a parser complains about a text) nobody can act on; errors come by the line.
        self._program = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno()), serving, limits],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=harmless(os.environ),
            start_new_session=True,  # an interrupt at the terminal is for the run, which then ends its processes
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._program.pid

    def alive(self) -> bool:
        """Whether it runs. One that has ended stays a zombie until `kill`, so that its number is nobody else's."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

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
        """Send and wait. Raises WorkerLost if no reply comes in time, it is too long or none, or the process dies."""
        until = time.monotonic() + seconds
        try:
            self._line.settimeout(seconds)
            self._line.sendall(_message(request))
            size = int.from_bytes(self._received(_HEADER, until), "little")
            if size > LONGEST_REPLY:
                raise WorkerLost(f"a reply of {size} bytes: the most is {LONGEST_REPLY}")
            reply = json.loads(self._received(size, until))
        except TimeoutError:
            raise WorkerLost(f"no reply within {seconds} s") from None
        except (EOFError, OSError, ValueError, RecursionError) as error:
            raise WorkerLost(f"the process ended: {error!r}") from error
        if not isinstance(reply, dict) or not reply.keys() & {"value", "error"}:
            raise WorkerLost("what came is no reply")
        return reply

    def _received(self, count: int, until: float) -> bytes:
        """So many bytes, by then. Raises TimeoutError, EOFError, OSError."""
        found = bytearray()
        while len(found) < count:
            self._line.settimeout(max(until - time.monotonic(), 1e-6))
            part = self._line.recv(count - len(found))
            if not part:
                raise EOFError
            found += part
        return bytes(found)

    def kill(self) -> None:
        """End it with all that it started, also what it left behind when it ended by itself."""
        with self._ending:
            if self._program.returncode is None:
                with suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
                    os.killpg(self.pid, signal.SIGKILL)
                self._program.wait()
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # whoever waits for a reply stops; not closed while somebody may

    def __del__(self) -> None:
        self._line.close()


def _message(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return len(body).to_bytes(_HEADER, "little") + body


def serve(line: int, serving: str, seconds: float, memory: int, files: int | None) -> None:
    """The program of a process: operations come as JSON on the line, until its other end closes."""
    _limit("RLIMIT_AS", memory)
    _limit("RLIMIT_FSIZE", files)
    _limit("RLIMIT_CORE", 0)
    asked = socket.socket(fileno=line)
    requests = asked.makefile("rb")
    operations: dict[str, Operation] = importlib.import_module(serving).OPERATIONS
    loaded: dict[str, Any] = {}
    while header := requests.read(_HEADER):
        request = json.loads(requests.read(int.from_bytes(header, "little")))
        _limit_time(START_SECONDS if request["op"] == "load" else seconds)
        try:
            reply = _message({"value": operations[request["op"]](loaded, request)})
        except Exception as error:  # whatever is raised about a model's text is a value for the caller
            reply = _message({"error": f"{type(error).__name__}: {error}"[:LONGEST_ERROR]})
        signal.alarm(0)
        asked.sendall(reply)


def _limit(kind: str, most: int | None) -> None:
    if most is not None and sys.platform == "linux":  # elsewhere the limit is missing or not obeyed; time still is
        import resource

        resource.setrlimit(getattr(resource, kind), (most, most))


def _limit_time(seconds: float) -> None:
    """Should the parent be gone, the kernel ends this process: some time later, and after some more processor time."""
    import resource

    signal.alarm(math.ceil(seconds) + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds) + 1, resource.RLIM_INFINITY))
