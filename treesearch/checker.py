"""Where answers are read and checked: inline, or in processes that can be killed. Knows no search and no model.

A model can write `9^{9^{9^9}}`. No signal stops the C code that multiplies it out, so a task that declares
`hostile = True` runs in fresh interpreters with a limit on memory, killed from outside when time is up. They are
started as programs, not by multiprocessing, which would run the user's own script again in each of them. What travels
is JSON; a task travels by name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from treesearch.errors import RunError, TreesearchError
from treesearch.tasks import load_task, name_of
from treesearch.tasks.base import Task
from treesearch.types import Problem, digest

_log = logging.getLogger(__name__)
_START_SECONDS = 120.0  # to start an interpreter and import math-verify on a busy machine
_CACHED = 65536  # results kept
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from treesearch.checker import serve; serve(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))"
)


class CheckerTimeout(TreesearchError):
    """A process was killed: it ran past its time, or died."""


class Checker:
    """Reads and checks answers of any task. One a run; call `close` at the end.

    `seconds` bounds one operation on one answer, `memory` (bytes) one process. An answer that exceeds them cannot be
    read, and is not equal to the reference: `timeouts` counts those killed, `failures` those on which the task raised
    (out of memory is one).
    """

    def __init__(self, processes: int = 1, seconds: float = 2.0, memory: int = 1 << 30) -> None:
        self.timeouts = 0
        self.failures = 0
        self._limits = seconds, memory
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="checker")
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._cache: OrderedDict[int, Any] = OrderedDict()  # by digest: questions are long, and there may be many

    async def read(self, task: Task, question: str, steps: Sequence[str]) -> tuple[str | None, str | None]:
        """The answer in a finished chain and its canonical form; (None, None) if there is none, or none in time."""
        if not getattr(task, "hostile", False):
            answer = task.read(question, steps)
            return answer, None if answer is None else task.canonical(answer)
        name = name_of(task)
        answer = await self._ask({"op": "read", "task": name, "question": question, "steps": list(steps)}, None)
        if answer is None:
            return None, None
        canonical = await self._ask({"op": "canonical", "task": name, "answer": answer}, ("canonical", name, answer))
        return (None, None) if canonical is None else (answer, canonical)

    async def check(self, task: Task, problem: Problem, answer: str) -> bool | None:
        """Whether the answer is right; None without a reference, False if it cannot be told in time."""
        if not getattr(task, "hostile", False):
            return task.check(problem, answer)
        if problem.reference is None:
            return None
        name = name_of(task)
        key = ("check", name, problem.question, problem.reference, answer)
        verdict = await self._ask({"op": "check", "task": name, "problem": asdict(problem), "answer": answer}, key)
        return bool(verdict)

    async def equal(self, task: Task, one: str, other: str) -> bool:
        """Whether two canonical forms are one answer, by the task's `equal`; False if it cannot be told in time."""
        first, second = sorted((one, other))  # a pair has one verdict, whichever came first
        if not getattr(task, "hostile", False):
            equal: bool = task.equal(first, second)  # type: ignore[attr-defined]
            return equal
        name = name_of(task)
        for form in (first, second):  # one that takes for ever does so once, not once with each other form
            if not await self._ask({"op": "probe", "task": name, "form": form}, ("probe", name, form)):
                return False
        request = {"op": "equal", "task": name, "one": first, "other": second}
        return bool(await self._ask(request, ("equal", name, first, second)))

    def close(self) -> None:
        """End all processes; what is running is killed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            running = list(self._all)
        for process in running:
            process.kill()
        self._threads.shutdown(wait=True)

    async def _ask(self, request: dict[str, Any], parts: tuple[str, ...] | None) -> Any:
        """`parts`: what the value is a function of; None keeps it nowhere."""
        key = None if parts is None else digest(*parts)
        with self._lock:
            if key is not None and key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        value = await asyncio.wrap_future(self._threads.submit(self._exchange, request))
        if key is not None:
            with self._lock:
                self._cache[key] = value
                if len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
        return value

    def _exchange(self, request: dict[str, Any]) -> Any:
        """One operation in one process, in a thread of the pool; None if it could not be done."""
        process = self._take()
        try:
            if request["task"] not in process.loaded:
                process.load(request["task"])
            reply = process.ask(request, self._limits[0])
        except CheckerTimeout:
            self._drop(process)
            with self._lock:
                self.timeouts += 1
            return None
        except BaseException:
            self._drop(process)
            raise
        if "error" in reply:
            with self._lock:
                self.failures += 1
                first = self.failures == 1
            log = _log.warning if first else _log.debug
            log("task %s failed in %s: %s", request["task"], request["op"], reply["error"])
        with self._lock:
            self._idle.append(process)
        return reply.get("value")

    def _take(self) -> _Process:
        """A process that waits and lives, else a fresh one."""
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                break
            if process.alive():
                return process
            self._drop(process)
        with self._lock:  # held while it starts (milliseconds), so that `close` misses none
            if self._closed:
                raise RunError("the checker is closed: nothing can be read or checked any more")
            process = _Process(*self._limits)
            self._all.add(process)
        return process

    def _drop(self, process: _Process) -> None:
        process.kill()
        with self._lock:
            self._all.discard(process)


class _Process:
    """One interpreter that does one operation at a time."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.loaded: set[str] = set()
        self._pipe, theirs = Pipe()
        arguments = [json.dumps(sys.path), str(theirs.fileno()), str(memory), str(seconds)]
        # The parser prints its complaints about a text: nobody can act on them, and errors of a task come by the pipe.
        self._program = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt at the terminal is for the run, which then closes the checker
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._program.pid

    def alive(self) -> bool:
        return self._program.poll() is None

    def load(self, name: str) -> None:
        """Import a task there. Raises RunError if that fails: no answer is to blame for it."""
        try:
            reply = self.ask({"op": "load", "task": name}, _START_SECONDS)
        except CheckerTimeout as error:
            raise RunError(f"a checker process for task {name!r} could not start: {error}") from error
        if "error" in reply:
            raise RunError(f"a checker process cannot load task {name!r}: {reply['error']}")
        self.loaded.add(name)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send and wait. Raises CheckerTimeout if no reply comes in time or the process dies."""
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if not self._pipe.poll(seconds):
                raise CheckerTimeout(f"no reply within {seconds} s")
            reply: dict[str, Any] = json.loads(self._pipe.recv_bytes())
            return reply
        except (EOFError, OSError) as error:
            raise CheckerTimeout(f"the process ended: {error!r}") from error

    def kill(self) -> None:
        self._program.kill()
        self._program.wait()


def serve(pipe: int, memory: int, seconds: float) -> None:
    """The program of a checker process: operations come as JSON on the pipe, until its other end closes."""
    _limit_memory(memory)
    connection = Connection(pipe)
    tasks: dict[str, Task] = {}
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        loading = request["op"] == "load"
        _limit_time(_START_SECONDS if loading else seconds)
        try:
            reply = json.dumps({"value": _OPERATIONS[request["op"]](tasks, request)})
        except Exception as error:  # whatever a task raises on a model's text is a value for the caller
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"[:500]})
        connection.send_bytes(reply.encode())


def _load(tasks: dict[str, Task], request: dict[str, Any]) -> None:
    task = tasks[request["task"]] = load_task(request["task"])
    getattr(task, "warm_up", lambda: None)()


def _probe(tasks: dict[str, Task], request: dict[str, Any]) -> bool:
    """True, if comparing this form with the simplest one comes to an end."""
    with suppress(Exception):
        tasks[request["task"]].equal(request["form"], "1")  # type: ignore[attr-defined]
    return True


_OPERATIONS: dict[str, Callable[[dict[str, Task], dict[str, Any]], Any]] = {
    "load": _load,
    "read": lambda tasks, r: tasks[r["task"]].read(r["question"], r["steps"]),
    "canonical": lambda tasks, r: tasks[r["task"]].canonical(r["answer"]),
    "probe": _probe,
    "equal": lambda tasks, r: tasks[r["task"]].equal(r["one"], r["other"]),  # type: ignore[attr-defined]
    "check": lambda tasks, r: tasks[r["task"]].check(Problem(**r["problem"]), r["answer"]),
}


def _limit_memory(memory: int) -> None:
    if sys.platform == "linux":  # elsewhere the limit is missing or not obeyed; time still is
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _limit_time(seconds: float) -> None:
    """Should the parent be gone, the kernel ends this process: its processor time so far, and some more."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds) + 1, resource.RLIM_INFINITY))
