"""Ways to drive the same searches over the same SIMULATED engines: ours, by level with barriers, and one trace at once.

The level loop is `benchmarks.barrier`: what public implementations do.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from benchmarks.barrier import levels
from benchmarks.virtual.engine import Request, Usage
from benchmarks.virtual.models import Machine, Scattered, VirtualProposer, VirtualScorer, prompt_of
from tests.simulation.loop import VirtualLoop
from treesearch.algorithms.base import Search
from treesearch.checker import Checker
from treesearch.engine import Engine, Settings
from treesearch.manager import LETTERS, Delivery, Manager, tokens_of
from treesearch.tasks.plain import Plain
from treesearch.types import Answer, Expansion, Problem

TASK = Plain()
Traces = list[list[Request]]  # an engine each: proposers, then scorers


def virtually(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run it to its end on a virtual clock that starts at 0."""
    gc.set_threshold(100_000, 50, 100)  # all that lives, lives to the end: half of the time went into looking at it
    loop = VirtualLoop(disk=lambda: 0.0, latest=1e9)
    try:
        return loop.settled(loop.create_task(main()))
    finally:
        loop.bury()


def problems(count: int) -> list[Problem]:
    """Questions that are as long as their prompts, for what estimates tokens by letters."""
    asked = [Problem(f"p{k}", f"question {k} ", "1") for k in range(count)]
    return [replace(p, question=p.question.ljust(LETTERS * prompt_of(p)[1], ".")) for p in asked]


@dataclass
class Middle:
    """A stretch of a run: its seconds, tokens delivered, and what the engines did."""

    seconds: float = 0.0
    delivered: int = 0
    usages: list[Usage] = field(default_factory=list)

    def until(self, now: float, delivered: int, usages: Sequence[Usage]) -> Middle:
        """From there, where the counts were these, to here."""
        between = [after.since(before) for after, before in zip(usages, self.usages, strict=True)]
        return Middle(now - self.seconds, delivered - self.delivered, between)


@dataclass
class Run:
    """What came of a run. `full` is its middle, where all that may be in flight are: from when the first problem has ended
    to when none is left to begin."""

    seconds: float = 0.0
    usages: list[Usage] = field(default_factory=list)  # as Machine.engines
    full: Middle = field(default_factory=lambda: Middle())
    generated: int = 0
    wasted: int = 0
    scored: int = 0  # tokens that the PRM computed
    expansions: int = 0
    traces: Traces = field(default_factory=list)
    waited: float = 0.0  # seconds that replies waited for older ones
    lived: float = 0.0  # seconds from wish to delivery, over all replies
    delivered: int = 0  # tokens

    def count(self, answer: Answer) -> None:
        assert answer.error is None, answer.error
        self.generated += answer.tokens_generated or 0
        self.wasted += answer.tokens_wasted or 0
        self.scored += answer.tokens_scored or 0
        self.expansions += answer.expansions


class Punctual:
    """Notes how long replies that were there waited for their turn, of the time since their wish."""

    def __init__(self, manager: Manager, run: Run, clock: Callable[[], float]) -> None:
        self.run, self.clock = run, clock
        self._asked: dict[str, float] = {}
        self._here: dict[str, float] = {}
        self._open, self._deliver = manager.open, manager.deliver
        manager.open, manager.deliver = self.open, self.deliver  # type: ignore[method-assign]

    def open(self, problem: Problem, now: float, *more: Any) -> Any:
        return self._note(problem.id, self._open(problem, now, *more))

    def deliver(self, job_id: str, expansion: Expansion, now: float) -> Any:
        self._here[job_id] = now
        return self._note(job_id.rpartition("/")[0], self._deliver(job_id, expansion, now))

    def _note(self, problem_id: str, outcome: Any) -> Any:
        now = self.clock()
        for reply in outcome.delivered:
            job_id = f"{problem_id}/{reply.seq}"
            self.run.waited += now - self._here.pop(job_id)
            self.run.lived += now - self._asked.pop(job_id)
            self.run.delivered += tokens_of(reply.expansion) or 0
        self._asked |= {job.id: now for job in outcome.jobs}
        return outcome


def ours(
    machine: Machine,
    search: Search,
    asked: Sequence[Problem],
    trees: int,
    delivery: Delivery = "issue",
    affinity: bool = True,
    turns: bool = True,
) -> Run:
    """The real engine with `trees` problems in flight; without `affinity` a tree's jobs go to any replica, without `turns`
    all trees go on whether a PRM's cache holds them together or not."""
    run = Run()

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        proposers: list[Any] = [VirtualProposer(e) for e in machine.proposers]
        scorers: list[Any] = [VirtualScorer(e) for e in machine.scorers]
        for scorer in scorers:
            if machine.profile.apart:
                scorer.enough = None  # as on a cluster: it has its card for itself
            if not turns:
                scorer.keeps = None
        if not affinity:
            proposers, scorers = [Scattered(proposers)], [Scattered(scorers)]
        engine = Engine(
            search, TASK, proposers, scorers, checker=Checker(), clock=clock,
            settings=Settings(trees=trees, delivery=delivery),
        )  # fmt: skip
        Punctual(engine.manager, run, clock)

        def source() -> Iterator[Problem]:
            yield from asked
            if run.expansions:
                run.full = run.full.until(clock(), run.delivered, [e.usage for e in machine.engines])

        async for answer in engine.answers(source()):
            if not run.expansions:
                run.full = Middle(clock(), run.delivered, [e.usage.copy() for e in machine.engines])
            run.count(answer)
        run.seconds = clock()

    virtually(main)
    return _ended(run, machine)


def by_level(machine: Machine, search: Search, asked: Sequence[Problem], together: int) -> Run:
    """The barrier loop, so many problems at a time, each bound to one replica."""
    run = Run()

    async def main() -> None:
        proposers = [VirtualProposer(e) for e in machine.proposers]
        scorers = [VirtualScorer(e) for e in machine.scorers]
        for first in range(0, len(asked), together):
            for answer in await levels(Manager(search), asked[first : first + together], proposers, scorers):
                run.count(answer)
        run.seconds = asyncio.get_running_loop().time()

    virtually(main)
    return _ended(run, machine)


def at_once(machine: Machine, traces: Traces) -> float:
    """Seconds that the engines take for all of these requests when nobody waits for anybody."""

    async def main() -> float:
        pairs = zip(machine.engines, traces, strict=False)
        for done in list(chain.from_iterable([e.submit(r) for r in trace] for e, trace in pairs)):
            await done
        return asyncio.get_running_loop().time()

    return float(virtually(main))


def _ended(run: Run, machine: Machine) -> Run:
    run.usages = [e.usage for e in machine.engines]
    run.traces = [e.trace for e in machine.engines]
    return run
