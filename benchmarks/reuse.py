"""How much of what is known is computed again, by how many replicas? SIMULATED: the real engine drives virtual ones.

    python -m benchmarks.reuse [--replicas 1,4,8] [--searches beam,mcts] [--problems 64] [--json FILE]

A 1B proposer and an 8B PRM on each card; all problems are in flight. `hits` are the prompt tokens that the proposers'
caches held, over those that one cache for all replicas which forgets nothing would hold; `PRM` the tokens that the PRMs
computed over the unique ones, prompts and marks included; `allowed` is the least that blocks of 16 tokens allow it. With
affinity a tree stays with its replica, which is how the product runs; without, each job goes to the replica with the
least to do. KV 25 %: a quarter of the memory for KV. Without turns, all trees go on whether a PRM's cache holds them together
or not (`treesearch/residents.py`). `benchmarks.prefix` asks the same of real vLLM.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.optimum import hits
from benchmarks.saturation import sized
from benchmarks.virtual.cache import BLOCK, keys
from benchmarks.virtual.constants import SMALL, Profile, on
from benchmarks.virtual.engine import Request, VirtualEngine
from benchmarks.virtual.loops import ours, problems
from benchmarks.virtual.models import Machine

Events = list[tuple[Request, bool]]  # in the order of time; whether it is the reply
CAPS = (1.0, 0.25)
GOALS = {1: 0.98, 4: 0.97, 8: 0.97}


def watched(engines: Sequence[VirtualEngine]) -> Events:
    """A list that fills with what is asked of these engines and answered by them."""
    events: Events = []
    for engine in engines:
        engine.submit = _noting(engine.submit, events)  # type: ignore[method-assign]
    return events


def _noting(submit: Any, events: Events) -> Any:
    def noted(request: Request) -> Any:
        events.append((request, False))
        done = submit(request)
        done.add_done_callback(lambda _: events.append((request, True)))
        return done

    return noted


def allowed(events: Events) -> int:
    """Tokens that one cache for all, which forgets nothing, would hold of the prompts."""

    def event(request: Request, answered: bool) -> tuple[list[int], list[int]]:
        parts = request.given + (request.sampled if answered else ())
        names, end = keys(parts), sum(tokens for _, tokens in parts)
        inner = names[: (end - 1) // BLOCK]
        return ([], inner if request.sampled else names) if answered else (inner, names)

    return BLOCK * hits(event(*it) for it in events)


def unique(events: Events) -> int:
    """Tokens of the trie of all prompts."""
    nodes = {request.given[: k + 1] for request, answered in events if not answered for k in range(len(request.given))}
    return sum(path[-1][1] for path in nodes)


def capped(profile: Profile, share: float) -> Profile:
    """The profile with so much of its memory for KV."""
    if share == 1:
        return profile
    machine = Machine(profile)

    def less(which: Any, engine: VirtualEngine) -> Any:
        return which[0], replace(which[1], blocks=int(engine.cache.capacity * share))

    return replace(
        profile, proposer=less(profile.proposer, machine.proposers[0]), prm=less(profile.prm, machine.scorers[0])
    )


def measure(
    name: str, n: int, replicas: int, count: int, share: float, affinity: bool = True, turns: bool = True
) -> dict[str, Any]:
    machine = Machine(capped(on(SMALL, replicas), share))
    drawn, scored = watched(machine.proposers), watched(machine.scorers)
    run = ours(machine, sized(name, n), problems(count), count, affinity=affinity, turns=turns)
    drawing, scoring = run.usages[:replicas], run.usages[replicas:]
    asked, fresh = sum(usage.queried for usage in scoring), unique(scored)
    return {
        "search": name, "replicas": replicas, "KV": share, "affinity": affinity, "turns": turns,
        "hits": sum(usage.hit for usage in drawing) / allowed(drawn),
        "PRM": run.scored / fresh,
        "allowed": (asked - allowed(scored)) / fresh,
        "tokens/s": run.generated / run.seconds,
        "preempted": sum(usage.preempted for usage in run.usages),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,4,8")
    parser.add_argument("--searches", default="beam,mcts")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--n", type=int, default=16, help="chains or simulations of a problem")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    print(f"SIMULATED  1B + 8B PRM on each card, {args.problems} problems, n = {args.n}")
    print(f"{'search':10}{'replicas':>9}{'KV':>6}{'affinity':>9}{'turns':>7}{'hits':>8}{'PRM':>7}{'allowed':>8}{'tokens/s':>10}"
          f"{'preempted':>10}")  # fmt: skip
    for name in args.searches.split(","):
        for replicas in map(int, args.replicas.split(",")):
            for share in CAPS:
                ways = [(True, True)] + [(True, False)] * (share < 1) + [(False, True)] * (replicas > 1)
                for affinity, turns in ways:
                    row = measure(name, args.n, replicas, args.problems, share, affinity, turns)
                    rows.append(row)
                    goal = GOALS.get(replicas) if affinity and turns else None
                    with_affinity, in_turns = ("yes" if way else "no" for way in (affinity, turns))
                    print(f"{name:10}{replicas:9}{share:6.0%}{with_affinity:>9}{in_turns:>7}{row['hits']:8.1%}"
                          f"{row['PRM']:7.3f}{row['allowed']:8.3f}{row['tokens/s']:10,.0f}{row['preempted']:10,}"
                          f"{'' if goal is None else f'  goal {goal:.0%}: ' + ('met' if row['hits'] >= goal else 'MISSED')}",
                          flush=True)  # fmt: skip
    if args.json:
        where = {"machine": platform.platform(), "python": platform.python_version(), "label": "SIMULATED"}
        args.json.write_text(json.dumps({**where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
