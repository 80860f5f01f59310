"""The actors of a run in one process, called as Ray would call them but at once: what is left of a cluster without Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import actors.cluster
import actors.manager
import actors.replica
from benchmarks.cluster import SEARCH
from benchmarks.virtual.loops import problems, virtually
from benchmarks.virtual.models import Machine, VirtualProposer, VirtualScorer
from treesearch.config import Config, load
from treesearch.run import Todo
from treesearch.store import Store
from treesearch.tasks import load_task


class Handle:
    """An actor as its callers see it: `handle.method.remote(...)` is a task in this process."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        return SimpleNamespace(remote=lambda *given: asyncio.ensure_future(method(*given)))


class Here:
    """The part of the module `ray` that the driver uses."""

    @staticmethod
    def remote(kind: type) -> Any:
        make = SimpleNamespace(remote=lambda *given: Handle(kind(*given)))
        return SimpleNamespace(options=lambda **_: make)

    @staticmethod
    def kill(handle: Handle) -> None:
        """Nothing of it runs on once the loop ends."""


class NoMetrics:
    """Prometheus is Ray's to serve."""

    def __init__(self, *_: Any) -> None: ...

    def due(self) -> bool:
        return False


@contextmanager
def without_ray() -> Iterator[None]:
    """For this time `actors.cluster.Cluster` starts its actors in this process."""
    seams: list[tuple[Any, str, Any]] = [
        (actors.cluster, "ray", Here),
        (actors.cluster, "_beside_driver", lambda: "here"),
        (actors.manager, "Metrics", NoMetrics),
        (actors.replica, "Metrics", NoMetrics),
    ]
    with ExitStack() as stack:
        for where, name, what in seams:
            stack.enter_context(mock.patch.object(where, name, what))
        yield


@dataclass(frozen=True)
class Proposes:
    """Spec of a proposer on the next card of the machine that is set."""

    label: ClassVar[str | None] = "SIMULATED"
    engines: ClassVar[Iterator[Any]]

    def build(self, task: Any, prompt: Any, limits: Any) -> VirtualProposer:
        return VirtualProposer(next(self.engines))


@dataclass(frozen=True)
class Scores:
    """Spec of a PRM there."""

    label: ClassVar[str | None] = "SIMULATED"
    engines: ClassVar[Iterator[Any]]

    def build(self, task: Any, prompt: Any) -> VirtualScorer:
        return VirtualScorer(next(self.engines))


@dataclass
class Seen:
    """Counts of the driver at one moment. `now`: of the loop's clock; `processor` seconds of this process."""

    now: float
    processor: float
    expansions: int
    calls: int

    def since(self, before: Seen) -> Seen:
        return Seen(self.now - before.now, self.processor - before.processor, self.expansions - before.expansions,
                    self.calls - before.calls)  # fmt: skip


async def driven(config: Config, folder: Path, count: int) -> list[Seen]:
    """All of a run of `count` problems in this process, each tenth of a second and at its end."""
    store = Store.open(folder / "run.db", "a")
    asked, seen = problems(count), list[Seen]()
    driver = actors.cluster.Cluster(config, load_task("plain"), store, print)

    def look() -> None:
        now = asyncio.get_running_loop().time()
        seen.append(Seen(now, time.process_time(), driver.stats.expansions, driver.calls))

    async def watch() -> None:
        while True:
            look()
            await asyncio.sleep(0.1)

    watching = asyncio.ensure_future(watch())
    async with aclosing(driver.rows(Todo(asked[0], iter(asked[1:]), count))) as rows:
        async for _ in rows:
            pass
        look()
    watching.cancel()
    store.close()
    return seen


def middle(seen: list[Seen]) -> Seen:
    """What was done where nothing begins or ends."""
    some = [now for now in seen if 0.25 <= now.expansions / seen[-1].expansions <= 0.75]
    return some[-1].since(some[0])


def on_cards(machine: Machine, managers: int, trees: int, count: int, folder: Path) -> Seen:
    """The middle of a run on the virtual clock over the machine's engines: whatever computes takes no time, what waits does."""
    Proposes.engines, Scores.engines = iter(machine.proposers), iter(machine.scorers)
    config = load(None, [
        "problems=-", "task=plain", SEARCH, f"engine.trees={trees}",
        f"proposer={__name__}:Proposes", f"scorer={__name__}:Scores",
        f"cluster={{managers: {managers}, proposers: {len(machine.proposers)}, scorers: {len(machine.scorers)}, "
        "gpus_per_proposer: 0, gpus_per_scorer: 0}",
    ])  # fmt: skip
    with without_ray():
        return middle(virtually(lambda: driven(config, folder, count)))
