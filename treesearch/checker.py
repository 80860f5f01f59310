"""Where answers are read and checked: inline, or in processes that can be killed. Knows no search and no model.

A model can write `9^{9^{9^9}}`, so a task that declares `hostile = True` runs in `workers`; it travels by name.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from treesearch.tasks import load_task, name_of
from treesearch.tasks.base import Task
from treesearch.terminal import shown
from treesearch.types import Problem, digest
from treesearch.workers import Bounds, Operation, WorkerLost, Workers

_log = logging.getLogger(__name__)
_CACHED = 65536  # results kept
FILES = 1 << 24  # bytes of a file that a process may write: compiled modules, when it loads them


class Checker:
    """Reads and checks answers of any task. One a run; call `close` at the end.

    `seconds` bounds one operation on one answer, `memory` (bytes) one process. An answer that exceeds them cannot be
    read, and is not equal to the reference: `timeouts` counts those killed, `failures` those on which the task raised
    (out of memory is one).
    """

    def __init__(self, processes: int = 1, seconds: float = 2.0, memory: int = 1 << 30) -> None:
        self.timeouts = 0
        self.failures = 0
        self._workers = Workers(__name__, Bounds(seconds, memory, FILES))
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="checker")
        self._lock = threading.Lock()
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
        self._workers.kill()
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
        try:
            reply = self._workers.exchange(request, request["task"])
        except WorkerLost:
            with self._lock:
                self.timeouts += 1
            return None
        if "error" in reply:
            with self._lock:
                self.failures += 1
                first = self.failures == 1
            log = _log.warning if first else _log.debug
            log("task %s failed in %s: %s", request["task"], request["op"], shown(reply["error"]))
        return reply.get("value")


def _load(tasks: dict[str, Task], request: dict[str, Any]) -> None:
    task = tasks[request["name"]] = load_task(request["name"])
    getattr(task, "warm_up", lambda: None)()


def _probe(tasks: dict[str, Task], request: dict[str, Any]) -> bool:
    """True, if comparing this form with the simplest one comes to an end."""
    with suppress(Exception):
        tasks[request["task"]].equal(request["form"], "1")  # type: ignore[attr-defined]
    return True


OPERATIONS: dict[str, Operation] = {
    "load": _load,
    "read": lambda tasks, r: tasks[r["task"]].read(r["question"], r["steps"]),
    "canonical": lambda tasks, r: tasks[r["task"]].canonical(r["answer"]),
    "probe": _probe,
    "equal": lambda tasks, r: tasks[r["task"]].equal(r["one"], r["other"]),  # type: ignore[attr-defined]
    "check": lambda tasks, r: tasks[r["task"]].check(Problem(**r["problem"]), r["answer"]),
}
