"""Seeds of the simulation: no invariant is broken, a seed replays exactly, and those that once failed do not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.checker import check
from tests.simulation.machines import NO_MEMORY
from tests.simulation.models import Keys
from tests.simulation.runner import Tally, run, run_many
from tests.simulation.seeds import KEPT
from tests.simulation.world import FAULTS, Plan, World

ROOT = Path(__file__).resolve().parents[2]
MANY = 2000


def told(tally: Tally) -> str:
    """What pytest shows of a failure: replay it with `python -m tests.simulation SEED`, and keep it in seeds.py."""
    return "\n".join(f"seed {seed}: {found[0]}" for seed, found in tally.violations.items())


def test_some_seeds_break_nothing() -> None:
    tally = run(range(24))
    print(tally)
    assert not tally.violations, told(tally)


@pytest.mark.parametrize("seed", KEPT)
def test_a_seed_that_once_failed_does_not(seed: int) -> None:
    assert run([seed]).violations == {}


@pytest.mark.slow
def test_two_thousand_seeds_break_nothing() -> None:
    tally = run_many(0, MANY)
    print(f"from seed 0: {tally}")
    assert not tally.violations, told(tally)
    assert tally.seeds == MANY


def test_a_seed_replays_exactly_in_another_process() -> None:
    """The same history, whatever the seed of Python's hashes."""
    seed = next(s for s in range(1000) if Plan.of(s).cluster and len(Plan.of(s).faults) > 5)
    here = hashlib.sha256("\n".join(World(Plan.of(seed)).run().told()).encode()).hexdigest()
    program = (
        "import hashlib; from tests.simulation.world import *; "
        f"print(hashlib.sha256('\\n'.join(World(Plan.of({seed})).run().told()).encode()).hexdigest())"
    )
    for hashes in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True,
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert there.stdout.strip() == here


def test_every_fault_and_search_comes_up() -> None:
    """Seeds differ: among the first two thousand each fault befalls many, and many have none at all."""
    plans = [Plan.of(seed) for seed in range(MANY)]
    faults = Counter(name for plan in plans for name in plan.faults)
    assert set(faults) == {name for name, _, _ in FAULTS} and min(faults.values()) > MANY / 10
    assert sum(not plan.faults for plan in plans) > MANY / 10
    assert min(Counter(plan.search for plan in plans).values()) > MANY / 20
    assert 0.3 < sum(plan.cluster for plan in plans) / MANY < 0.9


def test_the_checker_sees_what_is_missing() -> None:
    """A history without a commit, with one twice, or without a line is not accepted."""
    world = World(Plan(seed=1)).run()
    assert check(world) == []
    whole = list(world.history)
    first = next(k for k, event in enumerate(whole) if event[1] == "commit")
    world.history = whole[:first] + whole[first + 1 :]
    assert any("I3" in text for text in check(world))
    world.history = whole[: first + 1] + whole[first:]
    assert any("I3" in text for text in check(world))
    world.history = [event for event in whole if event[1:3] != ("publish", "p0")]
    assert any("I4" in text for text in check(world))


def test_replicas_that_died_of_poison_are_not_counted_against_their_place() -> None:
    """Else a run with a poisonous problem in a hundred ends when some of them have come close together."""
    poison = tuple((f"p{k}", -1) for k in range(6))
    world = World(Plan(seed=5, cluster=True, proposers=1, problems=8, trees=1, keys=Keys(poison=poison)))
    world.config = replace(world.config, cluster=replace(world.config.cluster, restarts=3))
    assert check(world.run()) == []
    said = [what[0] for _, kind, *what in world.history if kind == "say"]
    assert sum("starting another" in text for text in said) == 12 and not any("giving it up" in text for text in said)


def test_a_replica_that_its_machine_had_no_memory_for_gets_half_as_many_jobs_and_no_prompt_is_suspected() -> None:
    class Tight(World):
        def _cause(self) -> str:
            return NO_MEMORY

    world = Tight(Plan(seed=3, cluster=True, proposers=1, credits=4, problems=12, faults={"kill_replica": 12})).run()
    said = [what[0] for _, kind, *what in world.history if kind == "say"]
    assert check(world) == []
    assert "proposer 0 ran out of its machine's memory with up to 4 jobs at once: 2 from now on" in said
    assert any("2 jobs at once, again: lower its max_batch" in text for text in said)
    assert any("proposer 0 died (its machine ran out of memory); starting another" in text for text in said)
    lost = [what[3] for _, kind, *what in world.history if kind == "call" and what[3] in ("lost", "left")]
    assert lost and "lost" not in lost
