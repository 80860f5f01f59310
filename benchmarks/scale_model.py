"""Where does a cluster break, and what first? SIMULATED: 8 to 512 GPUs, 1 to 64 managers, 1,000 to 100,000 live problems.

    python -m benchmarks.scale_model [--gpus 8,32,128,512] [--managers 1,4,16,64] [--problems 1000,10000,100000]
    python -m benchmarks.scale_model --changes       # the largest again, with one thing more changed in each line
    python -m benchmarks.scale_model --check         # against the real actors, all in this process, without Ray
    python -m benchmarks.scale_model --against FILE  # against what `benchmarks.cluster --out FILE` found on Ray
    python -m benchmarks.scale_model --measure       # the costs anew, on this machine; about two minutes

All but --measure take --json FILE. Each GPU has a 1B proposer and an 8B PRM of the SIMULATED engines (`benchmarks.virtual`);
the cluster around them is a queueing network in fluid steps (`benchmarks/virtual/fluid.py`), with costs measured on the real
parts (`benchmarks/virtual/costs.json`, or --costs FILE). `benchmarks/scale_model.md` says what came of it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from actors.manager import LINE_GAP, MOST_GAP, POLL_GAP
from benchmarks import cluster
from benchmarks.overhead import NullProposer
from benchmarks.virtual import costs
from benchmarks.virtual.actors import Seen, driven, on_cards, without_ray
from benchmarks.virtual.constants import SMALL, on
from benchmarks.virtual.costs import KEPT, Costs, Kept
from benchmarks.virtual.fluid import PARALLEL, PARTS, SECONDS, Cluster, Fluid
from benchmarks.virtual.models import Machine
from benchmarks.virtual.sample import Typical
from treesearch.config import Cluster as Settings

GAIN = 0.05  # a part that, twice as fast, brings less is no bottleneck
SILENCE = Settings().silence  # s, after which a manager or a replica is taken for dead
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "four stores": {"stores": 4},
    "and lines to 64 replicas": {"stores": 4, "reach": 64},
    "and gaps of 0.2 s": {"stores": 4, "reach": 64, "gap": 0.2},
}
SMALLEST = ((1, 1, 2), (1, 1, 8), (2, 1, 8), (2, 2, 4))  # GPUs, managers and live trees of each, to be checked
Row = dict[str, Any]


def different(gpus: Sequence[int], managers: Sequence[int], problems: Sequence[int], credits: int) -> list[Cluster]:
    """All of them, but of those with more problems than there are slots only the first."""
    found: list[Cluster] = []
    for k, m in product(gpus, managers):
        slots = k * credits // PARALLEL
        most = min((n for n in problems if n >= slots), default=max(problems))
        found += [Cluster(k, m, n) for n in problems if n <= most]
    return found


def rows(clusters: Sequence[Cluster], kept: Kept, seconds: float = SECONDS) -> list[Row]:
    """What each cluster does, and which part it has too little of: the one that brings most if it is twice as fast."""
    c, each = kept.typical, len(clusters)
    fluid = Fluid([*clusters, *(k.faster(part) for part in PARTS for k in clusters)], kept, c)
    alone, found = fluid.alone(), fluid.run(seconds)
    rates, table = found["expansions"].reshape(-1, each), []
    for k, one in enumerate(clusters):
        rate = float(rates[0, k])
        gains = {part: float(rates[1 + p, k]) / rate - 1 for p, part in enumerate(PARTS)}
        most = max(gains, key=gains.__getitem__)
        if most == "engine" and gains["problems"] >= GAIN:  # engines that are not full need no faster ones
            most = "problems"
        table.append({
            "GPUs": one.gpus, "managers": one.managers, "problems": one.problems,
            "expansions/s": rate, "tokens/s": rate * c.tokens, "of engines": rate / float(alone[k]),
            "of full": rate / one.gpus / kept.card[-1][1],
            **{key: float(found[key][k]) for key in ("manager", "calling", "replica", "driver", "store")},
            "delay s": float(found["delay"][k]), "MB/s": rate * fluid.bytes / 1e6, "row MB/s": rate * c.row / 1e6,
            "trees GB": float(fluid.memory[k]) / 1e9,
            "bottleneck": most if gains[most] >= GAIN else full(found, k), "gain": gains[most],
            "breaks": bool(found["delay"][k] > SILENCE),
        })  # fmt: skip
    return table


def full(found: Mapping[str, Any], k: int) -> str:
    """The parts that have no time left, where no single one is to blame."""
    return " and ".join(part for part in PARTS if part in found and found[part][k] > 0.97) or "none"


def changed(kept: Kept, gpus: int, managers: Sequence[int], problems: int, seconds: float = SECONDS) -> list[Row]:
    """The same cluster with one thing more changed in each row."""
    asked = [(name, Cluster(gpus, m, problems, **how)) for m in managers for name, how in CHANGES.items()
             if how.get("reach", gpus) * m >= gpus]  # fmt: skip
    return [
        {**row, "change": name}
        for (name, _), row in zip(asked, rows([k for _, k in asked], kept, seconds), strict=True)
    ]


# Against what is measured


def on_virtual_clock(kept: Kept) -> list[Row]:
    """The real actors over one or two SIMULATED cards, where nothing but messages and engines takes time."""
    found = []
    for gpus, managers, trees in SMALLEST:
        with tempfile.TemporaryDirectory() as folder:
            seen = on_cards(Machine(on(SMALL, gpus)), managers, trees, max(16, 4 * trees * managers), Path(folder))
        fluid = Fluid([Cluster(gpus, managers, trees * managers)], kept, free(kept.typical)).run()
        rate, calls = float(fluid["expansions"][0]), float(fluid["calls"][0]) + managers / POLL_GAP
        what = f"{gpus} GPUs, {managers} managers, {trees} trees each"
        now = compared(rate, calls, seen.expansions / seen.now, seen.calls / seen.now)
        found.append({"what": what, "clock": "virtual", **now})
    return found


def free(c: Costs) -> Costs:
    """The same where nothing costs anything."""
    nothing = {key: 0.0 for key, value in asdict(c).items() if isinstance(value, float)}
    keep = {"nodes": c.nodes, "tokens": c.tokens, "expansions": c.expansions}
    return replace(c, **nothing | keep, ray=dict.fromkeys(c.ray, 0.0))  # type: ignore[arg-type]


def on_one_core(count: int = 96, turns: int = 2) -> list[Row]:
    """The real actors over models that answer at once, by the processor time of the one process that they are in, against
    costs measured just before: in turns, for the machine may be faster at one time than at another. Python's collector is
    off: in one process it goes through the objects of all parts.
    """
    found = []
    for turn, (name, spec, proposer) in product(range(1, turns + 1), (
        ("typical", "benchmarks.virtual.sample:TypicalSpec", Typical()), ("null", "benchmarks.overhead:Null", NullProposer()),
    )):  # fmt: skip
        gc.disable()
        c, seen = costs.measure(proposer, count), together_in_one(spec, count)
        gc.enable()
        rate, calls, polls = together(c, 1, 1, 1.0, NullProposer.max_jobs, ray=False)
        real = seen.expansions / seen.processor
        now = compared(rate, calls + polls, real, seen.calls / seen.expansions * real)
        found.append({"what": f"{name} steps, one core, no Ray, turn {turn}", "clock": "processor", **now})
    return found


def together_in_one(spec: str, count: int) -> Seen:
    """A whole run of `benchmarks.cluster` in this process."""
    with tempfile.TemporaryDirectory() as folder, without_ray():
        config = cluster.config(Path(folder) / "none", 1, 0.0, f"proposer={{type: '{spec}'}}")
        seen = asyncio.run(driven(config, Path(folder), count))
        return seen[-1].since(seen[0])


def against(kept: Kept, measured: Sequence[Row], cores: int) -> list[Row]:
    """Rows of `benchmarks.cluster` under load, against the prediction for a machine of so many cores: rates, and `us`, the
    processor time of an expansion in all processes, which other programs on the machine change less.
    """
    found = []
    for row in (row for row in measured if not row["pace"]):
        rate, calls, polls = together(kept.null, row["replicas"], row["managers"], float(cores), NullProposer.max_jobs)
        took = busy(kept.null, rate, calls, polls)[0] / rate
        found.append({"what": f"{row['managers']} managers, {row['replicas']} replicas, {cores} cores, Ray", "clock": "wall",
                      **compared(rate, calls + polls, row["rate"], row["calls"] * row["rate"]),
                      "us predicted": 1e6 * took, "us measured": sum(row["us"].values())})  # fmt: skip
    return found


def together(
    c: Costs, replicas: int, managers: int, cores: float, credits: int, ray: bool = True
) -> tuple[float, float, float]:
    """(expansions/s, calls/s, polls/s) of all processes on one machine's cores, its models costing nothing.

    What is in flight waits for the processor: the more there is, the later a line calls again.
    """
    lines = 2 * replicas * managers
    low, high = 0.0, cores / busy(c, 1.0, 0.0, 0.0)[0]
    for _ in range(60):  # bisection: the processor time of a rate grows with the rate
        rate = (low + high) / 2
        late = credits * replicas / rate  # by Little's law
        calls, polls = (
            lines / (min(MOST_GAP, LINE_GAP * lines) + late + lines / (4 * rate)),
            managers / (POLL_GAP + late),
        )
        everybody, own = busy(c, rate, calls, polls, ray)
        low, high = (rate, high) if everybody < cores and own < managers else (low, rate)
    return rate, calls, polls


def busy(c: Costs, rate: float, calls: float, polls: float, ray: bool = True) -> tuple[float, float]:
    """Cores that are busy with so many expansions, calls and polls a second: of all processes, of the managers."""
    managing = c.manager + c.manager_problem / c.expansions
    each = managing + c.replica + c.opening + c.store + c.driver_problem / c.expansions
    between = ray * (c.ray["caller"] + c.ray["callee"])
    everybody = rate * each + calls * (c.manager_call + c.replica_call + between)
    everybody += polls * (c.manager_poll + c.driver_poll + between)
    return everybody, rate * managing + calls * (c.manager_call + ray * c.ray["caller"])


def compared(rate: float, calls: float, real: float, real_calls: float) -> Row:
    """Expansions/s and calls per expansion, predicted and measured; `error` of the rate."""
    return {"predicted": rate, "measured": real, "error": rate / real - 1,
            "calls predicted": calls / rate, "calls measured": real_calls / real}  # fmt: skip


# Tables


def show(table: Sequence[Row]) -> None:
    keys = list(table[0])
    widths = {key: max(len(key), *(len(shown(row[key])) for row in table)) for key in keys}
    for row in (dict(zip(keys, keys, strict=True)), *table):
        print("  ".join(f"{shown(row[key]):>{widths[key]}}" for key in keys))


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "BREAKS" if value else ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=numbers, default=[8, 32, 128, 512])
    parser.add_argument("--managers", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--problems", type=numbers, default=[1_000, 10_000, 100_000], help="live, of the whole cluster")
    parser.add_argument("--costs", type=Path, default=KEPT)
    parser.add_argument("--measure", action="store_true", help="write what is measured to --costs, and do nothing else")
    parser.add_argument("--changes", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--against", type=Path, help="found on a machine of as many cores as this one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(asdict(costs.keep(args.costs)), indent=1))
        return
    kept = Kept.read(args.costs)
    print("SIMULATED; costs measured {date} on {cores} cores of {processor}, load {load}".format(**kept.where))
    if args.check:
        table = [*on_virtual_clock(kept), *on_one_core()]
    elif args.against:
        table = against(kept, json.loads(args.against.read_text())["rows"], os.cpu_count() or 1)
    elif args.changes:
        table = changed(kept, args.gpus[-1], args.managers, args.problems[-1])
    else:
        table = rows(different(args.gpus, args.managers, args.problems, kept.credits), kept)
    show(table)
    if args.json:
        report = {"label": "SIMULATED", **costs.where(), "costs": asdict(kept), "rows": table}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
