"""Runs seeds and counts: here, or in processes of their own."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.checker import check
from tests.simulation.world import Plan, World

CHUNK = 25  # seeds that a process is given at a time
WORLDS = 5  # whose remains are swept together


@dataclass
class Tally:
    """`violations` by seed; `seconds` of processor time."""

    seeds: int = 0
    searches: int = 0
    lives: int = 0
    seconds: float = 0.0
    violations: dict[int, list[str]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.seeds, self.searches = self.seeds + other.seeds, self.searches + other.searches
        self.lives, self.seconds = self.lives + other.lives, self.seconds + other.seconds
        self.violations |= other.violations

    def __str__(self) -> str:
        rate = self.searches / self.seconds if self.seconds else 0.0
        return (
            f"{self.seeds:,} seeds, {self.searches:,} searches in {self.lives:,} lives of their run, "
            f"{self.seconds:.0f} s of processor time: {rate:.0f} searches a second and core, "
            f"{len(self.violations)} seeds with violations"
        )


def run(seeds: Iterable[int]) -> Tally:
    """Run seeds one after another."""
    tally, began = Tally(), time.process_time()
    gc.collect()
    gc.freeze()  # what is there already need not be looked at after each of them
    gc.disable()
    try:
        for count, seed in enumerate(seeds, 1):
            world = World(Plan.of(seed)).run()
            tally.seeds, tally.lives = tally.seeds + 1, tally.lives + world.life
            tally.searches += world.plan.problems
            if found := check(world):
                tally.violations[seed] = found
            del world
            if count % WORLDS == 0:
                gc.collect()
    finally:
        gc.collect()
        gc.enable()
        gc.unfreeze()
    tally.seconds = time.process_time() - began
    return tally


def run_many(first: int, count: int, processes: int | None = None, most: int = 20) -> Tally:
    """Run `count` seeds on all cores; stops after `most` seeds with violations."""
    tally = Tally()
    chunks = [range(k, min(k + CHUNK, first + count)) for k in range(first, first + count, CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        for part in pool.map(run, chunks):
            tally.add(part)
            if len(tally.violations) >= most:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return tally
