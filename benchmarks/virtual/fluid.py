"""A SIMULATED cluster as a closed queueing network, in fluid steps on a virtual clock: many clusters side by side.

Expansions go round: manager, line, replica, card; their rows go to the driver and its store, and nothing new begins while
too many rows wait. Managers, replicas and the driver are servers of one thread. Calls and polls need their time too and
wait in the same line; so where time is short they come later, carry more, and what they carry arrives later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from actors.manager import LINE_GAP, MOST_GAP, POLL_GAP, TOLD
from benchmarks.virtual.costs import Costs, Kept
from benchmarks.virtual.sample import SEARCH

STEP = 0.01  # s of the virtual clock
SECONDS = 300.0  # of which the last third is counted: by then nothing changes any more
BEHIND = (
    2_000.0  # rows of a manager that wait before less is begun; in truth 1,024 searches', to which it only takes longer
)
NETWORK = 25e9 / 8  # bytes/s of the machine of driver and managers; stated
TRIP = 0.5e-3  # s of a call and its answer; Ray's published round trip
PARALLEL = int(SEARCH["parallel"] or 1)  # expansions that a problem has under way
PARTS = ("engine", "problems", "manager", "line", "replica", "driver", "store", "network")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """`speed`: how many times as fast each part is. `reach`: replicas of each role that a manager has lines to; None: all.
    `stores`: writers in processes of their own; 0: the driver is the one. `gap`: the longest between calls, in seconds.
    """

    gpus: int
    managers: int
    problems: int
    reach: int | None = None
    stores: int = 0
    gap: float = MOST_GAP
    speed: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.reach is not None and self.reach * self.managers < self.gpus:
            raise ValueError(f"{self.managers} managers that reach {self.reach} replicas do not reach all {self.gpus}")

    def faster(self, part: str, times: float = 2.0) -> Cluster:
        """The same with one part so many times as fast, or with so many times as many problems."""
        if part == "problems":
            return replace(self, problems=round(self.problems * times))
        return replace(self, speed=(*self.speed, (part, times)))

    def times(self, part: str) -> float:
        return reduce(lambda product, named: product * named[1] if named[0] == part else product, self.speed, 1.0)


class Server:
    """So many threads that do what waits in order of arrival: expansions of `cost` seconds, and other work in seconds."""

    def __init__(self, threads: Floats, cost: Floats) -> None:
        self.threads, self.cost = threads, cost
        self.waiting, self.other = np.zeros_like(threads), np.zeros_like(threads)
        self.busy = self.others = np.zeros_like(threads)  # share of the last step; of it, with other work

    @property
    def delay(self) -> Floats:
        """Seconds until what comes now is done."""
        return (self.waiting * self.cost + self.other) / self.threads

    def take(self, expansions: Floats, other: Floats) -> None:
        self.waiting = self.waiting + expansions
        self.other = self.other + other

    def serve(self) -> Floats:
        """Work for a step; expansions done."""
        share = np.minimum(1.0, STEP / np.maximum(self.delay, 1e-12))
        done = self.waiting * share
        self.others = self.other * share / self.threads / STEP
        self.busy = self.others + done * self.cost / self.threads / STEP
        self.waiting = self.waiting - done
        self.other = self.other * (1 - share)
        return done


class Fluid:
    """Each cluster is an element of every array; expansions are those of a whole cluster."""

    def __init__(self, clusters: Sequence[Cluster], kept: Kept, costs: Costs) -> None:
        c, self.clusters = costs, clusters
        self.gpus, self.managers = self._each(lambda k: k.gpus), self._each(lambda k: k.managers)
        self.under_way = np.minimum(self._each(lambda k: k.problems) * PARALLEL, self.gpus * kept.credits)
        reach = self._each(lambda k: k.gpus if k.reach is None else min(k.gpus, k.reach))
        self.lines = 2 * reach * self.managers  # a proposer's and a scorer's
        self.gap = np.minimum(self._each(lambda k: k.gap), LINE_GAP * self.lines) / self._times("line")
        counters = np.minimum(2 * reach, TOLD)  # of lines, in a poll
        own = self._each(lambda k: k.stores > 0)
        ending = 1 / c.expansions  # problems that end with an expansion
        coming = c.opening + c.checking  # of a row
        one = np.ones_like(self.gpus)

        speed = self._times("manager")
        self.manager = Server(self.managers, (c.manager + c.manager_problem * ending) / speed)
        self.manager_call = (c.manager_call + c.ray["caller"]) / speed
        self.manager_poll = (c.manager_poll + c.ray["callee"] + c.manager_usage * counters) / speed
        speed = self._times("replica")
        self.replica = Server(2 * self.gpus, c.replica / speed)
        self.replica_call = (c.replica_call + c.ray["callee"]) / speed
        speed = self._times("driver")
        self.driver = Server(one, ((1 - own) * coming + c.driver_problem * ending) / speed)
        self.driver_poll = (c.driver_poll + c.ray["caller"] + c.driver_usage * counters) / speed
        writers = self._each(lambda k: max(1, k.stores))
        self.store = Server(writers, (c.store + own * c.opening) / self._times("store"))
        self.bytes = c.wire + c.row + c.line * ending
        self.network = NETWORK * self._times("network")
        self.memory = self.under_way / PARALLEL * c.node * c.nodes * c.expansions / 2  # bytes of trees, half grown
        self.engine, (self.trees, self.rates) = self._times("engine"), np.array(kept.card).T

    def _each(self, of: Callable[[Cluster], float]) -> Floats:
        return np.array([of(cluster) for cluster in self.clusters], dtype=float)

    def _times(self, part: str) -> Floats:
        return self._each(lambda cluster: cluster.times(part))

    def cards(self, expansions: Floats) -> Floats:
        """Expansions/s of all cards together while they have so many expansions under way."""
        trees = expansions / PARALLEL / self.gpus
        few = np.minimum(1.0, trees / self.trees[0])  # of less than one tree a card, some cards have none
        return self.gpus * self.engine * few * np.interp(trees, self.trees, self.rates)

    def alone(self) -> Floats:
        """Expansions/s of the engines if nothing else took any time, with as many problems."""
        return self.cards(self.under_way)

    def run(self, seconds: float = SECONDS) -> dict[str, Floats]:
        """Once nothing changes any more: expansions/s, calls/s, seconds that what comes to a manager (`delay`) and to the
        driver and its store (`behind`) waits, and shares of the time that the parts are busy. `seconds`: of the virtual clock.
        """
        at_cards, held, on_lines, rate = self.under_way, *(np.zeros_like(self.gpus) for _ in range(3))
        nothing, sums = np.zeros_like(self.gpus), dict[str, Floats]()
        steps = round(seconds / STEP)
        for step in range(steps):
            late = self.driver.waiting + self.store.waiting - self.managers * BEHIND  # for each of these one is held
            begun = np.minimum(held, np.maximum(0.0, held - late))
            calls, trip = self._lines(rate)
            polls = self.managers / (POLL_GAP + self.driver.delay)
            self.manager.take(begun, (calls * self.manager_call + polls * self.manager_poll) * STEP)
            on_lines = on_lines + self.manager.serve()
            carried = np.minimum(on_lines * np.minimum(1.0, STEP / trip), self.network / self.bytes * STEP)
            self.replica.take(carried, calls * self.replica_call * STEP)
            at_cards = at_cards + self.replica.serve()
            done = np.minimum(at_cards, self.cards(at_cards) * STEP)
            self.driver.take(done, polls * self.driver_poll * STEP)
            self.store.take(self.driver.serve(), nothing)
            self.store.serve()
            held, on_lines, at_cards = held - begun + done, on_lines - carried, at_cards - done
            rate = done / STEP
            if step >= steps * 2 // 3:
                for key, value in self._seen(rate, calls).items():
                    sums[key] = sums.get(key, 0.0) + value / (steps - steps * 2 // 3)
        return sums

    def _lines(self, rate: Floats) -> tuple[Floats, Floats]:
        """(calls/s of all lines, seconds that an expansion spends between processes).

        A line calls when there is something to say (four times an expansion), its gap is over and its processes have
        time; what is said within that gap waits for half of it. Managers and replicas are visited twice.
        """
        gap = self.gap + self.manager.delay + self.replica.delay
        calls = 1 / (gap + self.lines / np.maximum(4 * rate, 1e-9))
        return calls * self.lines, 2 * gap**2 * calls + self.manager.delay + self.replica.delay + 2 * TRIP

    def _seen(self, rate: Floats, calls: Floats) -> dict[str, Floats]:
        return {
            "expansions": rate, "calls": calls, "manager": self.manager.busy, "calling": self.manager.others,
            "delay": self.manager.delay, "behind": self.driver.delay + self.store.delay,
            "replica": self.replica.busy, "driver": self.driver.busy, "store": self.store.busy,
            "network": rate * self.bytes / self.network,
        }  # fmt: skip
