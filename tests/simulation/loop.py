"""An event loop on a virtual clock: nothing sleeps, nothing is threaded, and processes that die run nothing more.

When nothing is ready the clock jumps to the next timer. Every callback carries the context it was made in, and the context
says whose process it is: a killed process's callbacks are dropped where they would have run (no `finally`, as with
SIGKILL), a frozen one's are kept until it goes on (SIGSTOP).
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any

HERE: ContextVar[Process | None] = ContextVar("HERE", default=None)  # the process that runs


class Stuck(Exception):
    """Everybody waits for nobody, or the virtual time that a run may take is used up."""


class Process:
    """What is killed and frozen as one. `ended` is called at once when it is killed."""

    def __init__(self, name: str, host: str, ended: Callable[[], None] | None = None) -> None:
        self.name, self.host, self.ended = name, host, ended
        self.alive, self.frozen = True, False
        self.epoch: int | None = None  # of a replica
        self.life = 0  # of the driver it belongs to
        self.kept: list[asyncio.Handle] = []  # what would have run while it was frozen
        self.context = copy_context()
        self.context.run(HERE.set, self)

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            self.kept.clear()
            if self.ended is not None:
                self.ended()

    def freeze(self) -> None:
        self.frozen = self.alive

    def thaw(self, loop: VirtualLoop) -> None:
        self.frozen = False
        kept, self.kept = self.kept, []
        loop.ready.extend(kept)

    def __repr__(self) -> str:
        return self.name


class Killed(BaseException):
    """The process was killed inside a call that it makes; nothing of it may see this."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`disk` draws the seconds that work in an executor takes, before and after; `latest` bounds the virtual time."""

    def __init__(self, disk: Callable[[], float], latest: float = 1000.0) -> None:
        super().__init__()
        self.now, self.steps, self.latest, self.disk = 0.0, 0, latest, disk
        self.tasks: list[asyncio.Task[Any]] = []  # kept: none may be collected, and so closed, while the run lasts
        self.many = 1000
        self.ready: deque[asyncio.Handle] = deque()
        self.timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # a heap
        self.timed = 0
        self._busy: dict[int, float] = {}  # executor -> when its thread is free again
        self.set_task_factory(self._task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self.timed += 1
        heapq.heappush(self.timers, (when, self.timed, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time has come."""

    def _process_events(self, events: Any) -> None:
        """There are none."""

    @staticmethod
    def _task(loop: VirtualLoop, coro: Any, **given: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **given)
        loop.tasks.append(task)
        if len(loop.tasks) > loop.many:
            loop.tasks = [task for task in loop.tasks if not task.done()]
            loop.many = 2 * len(loop.tasks) + 1000
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """The call is made at one virtual moment, calls of one executor one after another; cancelling stops none."""
        done = self.create_future()
        start = max(self.now, self._busy.get(id(executor), 0.0)) + self.disk()
        end = self._busy[id(executor)] = start + self.disk()
        context = copy_context()

        def work() -> None:
            try:
                result, error = func(*args), None
            except Killed:
                return
            except Exception as raised:
                result, error = None, raised
            self.call_at(end, _settle, done, result, error, context=context)

        self.call_at(start, work, context=context)
        return done

    def settled(self, main: asyncio.Future[Any]) -> Any:
        """Run until `main` is done; its result. Raises Stuck."""
        with self._running():
            while not main.done():
                self._turn()
            return main.result()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Here coroutines find this loop; async generators that nobody ends are not closed, as if killed."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, lambda generator: None)
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _turn(self) -> None:
        ready, timers = self.ready, self.timers
        if not ready:
            while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
                heapq.heappop(timers)
            if not timers:
                raise Stuck("everybody waits for nobody")
            self.now = max(self.now, timers[0][0])
            if self.now > self.latest:
                raise Stuck(f"not done after {self.now:.0f} s and {self.steps} callbacks")
        while timers and timers[0][0] <= self.now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle: Any = ready.popleft()
            process = handle._context.get(HERE)
            if handle._cancelled or (process is not None and not process.alive):
                continue
            if process is not None and process.frozen:
                process.kept.append(handle)
                continue
            self.steps += 1
            handle._run()

    def bury(self) -> None:
        """Close all that never ended; what `finally` does then reaches nobody."""
        self.ready.clear()
        self.timers.clear()
        self.call_soon = self.call_at = self.call_later = lambda *a, **k: _NOTHING  # type: ignore[assignment, method-assign]
        with self._running():  # what a `finally` begins is closed too
            while self.tasks:
                task = self.tasks.pop()
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    with suppress(Exception, asyncio.CancelledError):  # it waited for something in a `finally`
                        task.get_coro().close()  # type: ignore[union-attr]
        self.close()


class _Nothing:
    def cancel(self) -> None: ...


_NOTHING: Any = _Nothing()


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
