"""How full does a search keep its engines? SIMULATED: the real engine drives virtual ones, in virtual seconds.

    python -m benchmarks.saturation [--part full|alone|many] [--profiles 0,1] [--n 16] [--problems 128] [--json FILE]

`full`: 64 problems in flight (--flight). eta = tokens/s of the search over tokens/s of the same generate and pooling
requests asked all at once of the same engines. It is given for the middle of the run, from the end of the first problem
to the begin of the last, and for the `whole` run, whose end has few problems left. `proposer` is over the proposer's
requests without any PRM. Occupancy is of the batch with 90 % of the most tokens/s; a bubble is time with less than half of
it. `head of line` is the share of a reply's life that it waits for an older one; `arrival` (with --arrival) is by what
factor tokens/s change if it does not.
`alone`: one problem at a time, against a loop with a barrier after each level's drawing and after its scoring, whose PRM
reads the prefix cache (`level`), or does not, which is vLLM's default (`no reuse`).
`many`: 64 problems, against the level loop with all of them side by side, and with one at a time (every eighth
problem is run, and stands for eight).
MCTS in a level loop runs one simulation at a time, as public implementations do; its ratios are at equal simulations.
Constants and their sources: `python -m benchmarks.virtual.constants`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cluster import numbers
from benchmarks.virtual.constants import PROFILES, Profile
from benchmarks.virtual.loops import at_once, by_level, ours, problems
from benchmarks.virtual.models import Machine
from treesearch.algorithms import SEARCHES
from treesearch.algorithms.base import Search

FLIGHT = 64  # problems in flight
SOME = 8  # of them, which stand for all where they run one after another
NAMES = ("sample", "beam", "dvts", "rebase", "particles", "mcts")
GOALS = {"sample": 0.95, "mcts": 0.85} | dict.fromkeys(("beam", "dvts", "rebase", "particles"), 0.90)
SIZES = (8, 16, 32, 64, 128, 256, 512)
Row = dict[str, Any]


def sized(name: str, n: int, parallel: int = 8) -> Search:
    """The search with `n` chains at a time; MCTS with 2 n simulations, which draw about as many tokens."""
    given: dict[str, dict[str, Any]] = {
        "sample": {"n": n},
        "beam": {"beams": n // 4, "branch": 4},
        "dvts": {"subtrees": n // 4, "branch": 4},
        "rebase": {"width": n},
        "particles": {"n": n},
        "mcts": {"simulations": 2 * n, "parallel": parallel, "branch": 4, "rollouts": 1},
    }
    return SEARCHES[name](**given[name])  # type: ignore[no-any-return]


def full(profile: Profile, name: str, n: int, count: int, flight: int = FLIGHT, arrival: bool = False) -> Row:
    """One search with many problems in flight, against its own requests all at once."""
    machine, search = Machine(profile), sized(name, n)
    run = ours(machine, search, problems(count), flight)
    k = len(machine.proposers)
    once, drawn = at_once(Machine(profile), run.traces), at_once(Machine(profile), run.traces[:k])
    seconds, usages = run.full.seconds, run.full.usages
    rate = run.full.delivered / seconds
    busy = sum(usage.busy for usage in usages[:k])
    gain = {}
    if arrival:
        freely = ours(Machine(profile), search, problems(count), flight, "arrival")
        gain["arrival"] = freely.generated / freely.seconds / (run.generated / run.seconds)
    return {
        "eta": rate * once / run.generated,
        "whole": once / run.seconds,
        "proposer": rate * drawn / run.generated,
        "tokens/s": rate,
        "occupancy": sum(usage.running for usage in usages[:k]) / k / seconds / (2 * machine.proposers[0].half),
        "bubbles": max(0.0, 1 - (busy - sum(usage.thin for usage in usages[:k])) / k / seconds),
        "wasted": run.wasted / (run.generated + run.wasted),
        "PRM duty": sum(usage.busy for usage in usages[k:]) / len(usages[k:]) / seconds,
        "head of line": run.waited / run.lived,
        **gain,
        "generated": run.generated,
        "preempted": sum(usage.preempted for usage in run.usages),
    }


def alone(profile: Profile, name: str, n: int, count: int) -> Row:
    """One problem at a time: how many times as fast as the level loop."""
    mine = ours(Machine(profile), sized(name, n), problems(count), 1)
    level, bare = (
        by_level(Machine(p), barrier_search(name, n), problems(count), 1) for p in (profile, bare_of(profile))
    )
    return {
        "seconds": mine.seconds / count,
        "level": level.seconds / mine.seconds,
        "no reuse": bare.seconds / mine.seconds,
    }


def many(profile: Profile, name: str, n: int) -> Row:
    """64 problems: how many times as fast as level loops with all side by side and one at a time."""
    asked, search = problems(FLIGHT), barrier_search(name, n)
    mine = ours(Machine(profile), sized(name, n), asked, FLIGHT).seconds
    row: Row = {"seconds": mine}
    for key, p in (("", profile), (", no reuse", bare_of(profile))):
        row["level" + key] = by_level(Machine(p), search, asked, FLIGHT).seconds / mine
        some = asked[:: FLIGHT // SOME]
        row["one" + key] = by_level(Machine(p), search, some, 1).seconds / len(some) * FLIGHT / mine
    return row


def barrier_search(name: str, n: int) -> Search:
    return sized(name, n, parallel=1)


def bare_of(profile: Profile) -> Profile:
    """The same, its PRM computing every prompt anew."""
    model, serving = profile.prm
    return replace(profile, prm=(model, replace(serving, reuse=False)))


def rows(args: argparse.Namespace) -> Iterator[Row]:
    for profile in [PROFILES[k] for k in args.profiles]:
        if args.part == "alone":
            yield from ({"search": name, "n": n, **alone(profile, name, n, 2), "profile": profile.name}
                        for name in args.searches for n in args.sizes)  # fmt: skip
            continue
        for name in args.searches:
            if args.part == "many":
                row = many(profile, name, args.n)
            else:
                row = full(profile, name, args.n, args.problems, args.flight, args.arrival)
            yield {"search": name, "n": args.n, **row, "profile": profile.name}


def table(found: Iterator[Row]) -> list[Row]:
    """Print rows as they come."""
    kept: list[Row] = []
    for row in found:
        cells = {key: value for key, value in row.items() if key != "profile"}
        if not kept or kept[-1]["profile"] != row["profile"]:
            print(f"\nSIMULATED  {row['profile']}")
            print("".join(f"{key:>{max(10, len(key) + 2)}}" for key in cells))
        print("".join(f"{shown(value):>{max(10, len(key) + 2)}}" for key, value in cells.items()), flush=True)
        kept.append(row)
    return kept


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def verdicts(found: Sequence[Row], part: str) -> None:
    """Say which goals are met."""
    if part == "full":
        for row in found:
            goal = GOALS[row["search"]]
            print(f"{row['search']:10} eta {row['eta']:.3f}, goal {goal:.2f}: {'met' if row['eta'] >= goal else 'MISSED'}"
                  f"  ({row['profile']})")  # fmt: skip
        return
    key, goal = ("no reuse", 3.0) if part == "alone" else ("one", 10.0)
    for which in (key, key.replace("no reuse", "level")) if part == "alone" else (key,):
        value = mean(row[which] for row in found)
        print(
            f"mean over the level loop ({which}): {value:.2f}, goal {goal:.0f}: {'met' if value >= goal else 'MISSED'}"
        )


def words_of(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("full", "alone", "many"), default="full")
    parser.add_argument("--profiles", type=numbers, default=list(range(len(PROFILES))), help="by number, from 0")
    parser.add_argument("--searches", type=words_of, default=NAMES)
    parser.add_argument("--n", type=int, default=16, help="chains or simulations of a problem")
    parser.add_argument("--sizes", type=numbers, default=SIZES, help="n of each row, for one problem alone")
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--flight", type=int, default=FLIGHT, help="problems in flight")
    parser.add_argument("--arrival", action="store_true", help="also run with replies delivered as they arrive")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.part == "full" and args.problems <= args.flight:
        parser.error(f"--problems {args.problems}: must be above {args.flight}, as many are in flight")
    found = table(rows(args))
    verdicts(found, args.part)
    if args.json:
        where = {"machine": platform.platform(), "python": platform.python_version(), "label": "SIMULATED"}
        constants = [asdict(PROFILES[k]) for k in args.profiles]
        args.json.write_text(json.dumps({**where, "constants": constants, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
