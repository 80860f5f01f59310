"""`python -m tests.simulation SEED` replays one seed and tells its history; `--seeds N [--first K]` runs many."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.checker import check
from tests.simulation.runner import run_many
from tests.simulation.world import Plan, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--seeds", type=int, default=0, help="run so many")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--processes", type=int, default=None, help="default: one for each core")
    parser.add_argument("--width", type=int, default=200, help="longest line of a history")
    given = parser.parse_args()
    if given.seed is not None:
        return replay(given.seed, given.width)
    began = time.monotonic()
    tally = run_many(given.first, given.seeds, given.processes)
    for seed, found in sorted(tally.violations.items()):
        print(f"seed {seed}: {len(found)} violations, the first: {found[0]}")
    print(f"seeds {given.first} to {given.first + given.seeds - 1}: {tally} ({time.monotonic() - began:.0f} s)")
    return 1 if tally.violations else 0


def replay(seed: int, width: int) -> int:
    plan = Plan.of(seed)
    world = World(plan).run()
    print(plan)
    for line in world.told():
        print(line[:width])
    found = check(world)
    print(f"{len(world.history)} events, {world.life} lives, {world.loop.now:.1f} s of virtual time")
    print("\n".join(found) or "no violation")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
