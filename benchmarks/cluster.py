"""What do the actors cost? Expansions a second through Ray with models that cost nothing, and Ray calls per expansion.

    python -m benchmarks.cluster [--replicas 1,2,4,8] [--managers 1] [--problems 400] [--paced 1000] [--load 1]
                                [--weak 0] [--strong 0]

Managers, lines, replicas and the driver's journal are the real ones on a local Ray; the models are SIMULATED (`linger` as
users have it). Four questions, each of every number of replicas and managers:

- load: models answer at once, so all processes share the machine's cores. What do they do together?
- paced: about R expansions a second of all, held there by a delay in the proposer, where pressure alone batches no messages.
- weak: a delay by which each proposer, its 64 slots full, does R a second and no more, as an engine does. Do so many do so
  many times as much? `of one` is that share. Ask where the cores carry the sum: it is of the machinery and not of the cores.
- strong: such proposers again, and 128 problems for however many there are. Do so many end them so many times as soon?

Counted from when all replicas are ready, in the middle of a run; the rate of `strong` is of the whole. `us`: processor
time of an expansion, by process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.processes import family, role, usage
from treesearch.config import Config, load
from treesearch.run import run

SEARCH = "search={type: mcts, simulations: 64, parallel: 8, branch: 4, rollouts: 0, widening: null}"
PARALLEL, EXPANSIONS = 8, 64  # of a search: at a time, and of all
SLOTS = 64  # of a replica in `weak`
SECONDS = 40  # of a run in `weak`
FIXED = 128  # problems of a run in `strong`
LOOK = 0.5  # seconds between two looks at the run
PARTS = ("driver", "manager", "proposer", "scorer")
Seen = tuple[float, int, int, dict[int, tuple[str, float]]]  # time, expansions, calls, process -> its part, seconds


def config(problems: Path, replicas: int, delay: float = 0.0, *more: str) -> Config:
    """`replicas` proposers and as many scorers; `delay` of a proposal in seconds."""
    return load(None, [
        f"problems={problems}", "task=plain", SEARCH, "scorer=benchmarks.overhead:NullScores",
        f"proposer={{type: 'benchmarks.overhead:Null', delay: {delay}}}",
        f"cluster={{proposers: {replicas}, scorers: {replicas}}}", *more,
    ])  # fmt: skip


def asked(mode: str, pace: float, replicas: int, problems: int) -> tuple[float, list[str]]:
    """(delay of a proposal in seconds, settings) of one run."""
    if mode in ("weak", "strong"):
        limit = FIXED if mode == "strong" else round(replicas * pace * SECONDS / EXPANSIONS)
        trees = replicas * SLOTS * 3 // 2 // PARALLEL  # they ask for half as much again
        return SLOTS / pace, [f"proposer.max_jobs={SLOTS}", f"engine.trees={trees}", f"limit={limit}"]
    if mode == "paced":  # by Little's law: 8 jobs in flight a tree, half of their time under way between processes
        return 0.25, [f"engine.trees={round(pace / PARALLEL / 2)}", "limit=500"]
    return 0.0, [f"limit={problems + 250 * replicas}"]


async def measured(config: Config, out: Path, whole: bool) -> dict[str, Any]:
    """Costs in the middle of one run, without the start of its processes, and without its end, when few trees are left; the
    rate there, or of the `whole`."""
    from actors.cluster import Cluster

    found: dict[str, Cluster] = {}

    def drive(config: Config, task: Any, store: Any) -> Cluster:
        found["driver"] = Cluster(config, task, store, lambda text: print(f"    {text}", flush=True))
        return found["driver"]

    work = asyncio.create_task(run(config, out, drive=drive))
    samples: list[Seen] = []
    while not work.done():
        await asyncio.sleep(LOOK)
        if "driver" in found and len(found["driver"].lives) == config.cluster.proposers + config.cluster.scorers:
            driver = found["driver"]
            samples.append((time.monotonic(), driver.stats.expansions, driver.calls, spent()))
    await work
    cut = len(samples) // 10
    (t0, e0, c0, s0), (t1, e1, c1, s1) = samples[cut], samples[-1 - cut]
    parts = dict.fromkeys((*PARTS, "ray"), 0.0)
    for pid, (part, seconds) in s1.items():
        parts[part] += seconds - s0.get(pid, (part, seconds))[1]
    costs = {"calls": (c1 - c0) / (e1 - e0), "us": {part: 1e6 * s / (e1 - e0) for part, s in parts.items()}}
    if whole:
        (t0, e0, *_), (t1, e1, *_) = samples[0], samples[-1]
    return {"expansions": e1 - e0, "seconds": t1 - t0, "rate": (e1 - e0) / (t1 - t0), **costs}


def spent() -> dict[int, tuple[str, float]]:
    """Process -> (part of the run, processor seconds so far) of this one and all below it; `ray`: what is no part of ours."""
    found = {pid: (role(pid) or "ray", held.processor) for pid in family(os.getpid()) if (held := usage(pid))}
    return found | {os.getpid(): ("driver", time.process_time())}


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--managers", type=numbers, default=[1])
    parser.add_argument("--problems", type=int, default=400, help="of a run under load, and 250 more a replica")
    parser.add_argument("--load", type=int, default=1, help="0: leave it out")
    parser.add_argument("--paced", type=float, default=1000, help="expansions/s of all; 0: leave it out")
    parser.add_argument("--weak", type=float, default=0, help="expansions/s of each replica; 0: leave it out")
    parser.add_argument("--strong", type=float, default=0, help="expansions/s of each replica; 0: leave it out")
    parser.add_argument("--out", type=Path, default=None, help="also write the rows as JSON")
    args = parser.parse_args()
    ray.init(address="local", include_dashboard=False, logging_level="WARNING")
    rows: list[dict[str, Any]] = []
    print(f"SIMULATED models; {os.cpu_count()} cores, {platform.machine()}, Ray {ray.__version__}")
    print(f"{'':>6} {'managers':>8} {'replicas':>8} {'expansions/s':>12} {'of one':>6} {'Ray calls each':>14}  us: "
          + " ".join(f"{part:>8}" for part in (*PARTS, "ray")))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "set.jsonl"
        most = FIXED + args.problems + 250 * max(args.replicas) + round(max(args.replicas) * args.weak)
        lines = (json.dumps({"id": f"p{k}", "question": f"q{k}", "answer": "1"}) for k in range(most))
        problems.write_text("\n".join(lines))
        paces = {"load": float(args.load), "paced": args.paced, "weak": args.weak, "strong": args.strong}
        modes = [(mode, pace) for mode, pace in paces.items() if pace]
        for (mode, pace), managers, count in product(modes, args.managers, args.replicas):
            delay, more = asked(mode, pace, count, args.problems)
            given = config(problems, count, delay, f"cluster.managers={managers}", *more)
            row = asyncio.run(measured(given, Path(folder) / f"run-{mode}-{managers}-{count}", mode == "strong"))
            row = {
                "mode": mode,
                "managers": managers,
                "replicas": count,
                "pace": None if mode == "load" else pace,
                **row,
            }
            one = next((other for other in rows if (other["mode"], other["managers"]) == (mode, managers)), row)
            row["of one"] = row["rate"] / one["rate"] * one["replicas"] / count
            rows.append(row)
            print(
                f"{mode:>6} {managers:>8} {count:>8} {row['rate']:>12,.0f} {row['of one']:>6.2f} {row['calls']:>14.3f}      "
                + " ".join(f"{value:>8.0f}" for value in row["us"].values()),
                flush=True,
            )
    ray.shutdown()
    if args.out is not None:
        report = {"label": "SIMULATED", "machine": platform.platform(), "cores": os.cpu_count(), "ray": ray.__version__}
        args.out.write_text(json.dumps({**report, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
