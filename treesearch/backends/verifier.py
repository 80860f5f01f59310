"""A function of the user's as scorer: `function(question, steps) -> float`, in processes that can be killed. Knows no model.

The function sees the question and the texts of the steps, never the reference: a verifier that could look the answer up
would be an oracle.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from treesearch.backends.base import Scored, Scorer, states
from treesearch.backends.once import Once
from treesearch.errors import ConfigError, RequestError, RunError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job, digest
from treesearch.workers import Bounds, Operation, WorkerLost, Workers

LONGEST_VALUE = 80  # characters of a wrong value that are told


@dataclass(frozen=True)
class Verifier:
    """Scorer `verifier`: `module:function`, called as function(question: str, steps: list[str]) -> float after each new step.

    It runs in `processes` interpreters of its own: `seconds` for one call, `memory` in bytes, `output`: bytes of any file
    it writes (what it prints is dropped). A call that raises, hangs, dies or gives no finite number is an error of its
    job. A state is asked once; the value, any finite number, stays.
    """

    function: str
    processes: int = 1
    seconds: float = 2.0
    memory: int = 1 << 30
    output: int = 1 << 20
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        module, colon, name = self.function.partition(":")
        if not (module and colon and name):
            raise ConfigError(f"function = {self.function!r}: must be module:function, such as my_checks:is_legal")
        for key in ("processes", "memory", "output"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)!r}: must be at least 1")
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"seconds = {self.seconds!r}: must be above 0")

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """Start a process and import the function there. Raises ConfigError if that fails."""
        return VerifierScorer(self)


@dataclass(frozen=True)
class VerifierOutcome(Verifier):
    """Outcome `verifier`: the function is called once, for the whole chain."""

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """As for a scorer."""
        return VerifierScorer(self, whole=True)


class VerifierScorer:
    """Values by question and steps. `whole`: of whole chains alone, one a chain."""

    def __init__(self, spec: Verifier, whole: bool = False) -> None:
        self.spec, self.whole = spec, whole
        self.max_jobs = 4 * spec.processes  # enough for some to wait
        self._workers = Workers(__name__, Bounds(spec.seconds, spec.memory, spec.output))
        self._threads = ThreadPoolExecutor(spec.processes, thread_name_prefix="verifier")
        self._once: Once[float] = Once()
        try:
            self._workers.start(spec.function)
        except RunError as error:
            self._workers.kill()
            raise ConfigError(f"function = {spec.function!r}: {error} (in {spec.memory} bytes of memory)") from error

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        """One reply an item, as described in backends.base. No tokens are computed."""
        return await asyncio.gather(*(self._item(job, chains) for job, chains in items))

    async def forget(self) -> None:
        self._once.clear()

    async def close(self) -> None:
        """End all processes; what is running is killed."""
        self._workers.kill()  # what waits for a thread still gets its error, at once
        await asyncio.to_thread(self._threads.shutdown)

    async def _item(self, job: Job, chains: tuple[Chain, ...]) -> Scored | Exception:
        rows = [states(job, chain)[-1 if self.whole else 0 :] for chain in chains]
        question = job.problem.question
        try:
            values = iter(await asyncio.gather(*(self._value(question, state) for row in rows for state in row)))
        except Exception as error:
            return error
        return Scored(tuple(tuple(next(values) for _ in row) for row in rows), 0)

    async def _value(self, question: str, steps: tuple[str, ...]) -> float:
        value, _ = await self._once.get(digest(question, *steps), lambda: self._ask(question, steps))
        return value

    async def _ask(self, question: str, steps: tuple[str, ...]) -> float:
        request = {"op": "call", "name": self.spec.function, "question": question, "steps": steps}
        loop = asyncio.get_running_loop()
        try:
            reply = await loop.run_in_executor(self._threads, self._workers.exchange, request, self.spec.function)
        except WorkerLost as error:
            raise RequestError(f"{self.spec.function} was ended after {steps[-1]!r}: {error}") from error
        if "error" in reply:
            raise RequestError(f"{self.spec.function} failed after {steps[-1]!r}: {reply['error']}")
        return float(reply["value"])


# In the process


def _load(functions: dict[str, Any], request: dict[str, Any]) -> None:
    module, _, name = request["name"].partition(":")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{request['name']} is a {type(found).__name__}, no function")
    functions[request["name"]] = found


def _call(functions: dict[str, Callable[[str, list[str]], Any]], request: dict[str, Any]) -> float:
    value = functions[request["name"]](request["question"], request["steps"])
    if not isinstance(value, Real):
        raise TypeError(f"it gave {_told(value)}, must be a number")
    if not math.isfinite(value):
        raise ValueError(f"it gave {value}, must be a finite number")
    return float(value)


def _told(value: Any) -> str:
    shown = repr(value)
    return f"{shown[:LONGEST_VALUE]}{'...' if len(shown) > LONGEST_VALUE else ''} of type {type(value).__name__}"


OPERATIONS: dict[str, Operation] = {"load": _load, "call": _call}
