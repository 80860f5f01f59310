"""What do the actors cost? Expansions a second through Ray with models that cost nothing, and Ray calls per expansion.

    python -m benchmarks.cluster [--replicas 1,2,4,8] [--problems 400] [--paced 1000]

Managers, lines, replicas and the driver's journal are the real ones on a local Ray; the models are SIMULATED and answer
at once (`linger` as users have it). `--paced R` also runs at about R expansions a second, held there by a delay in the
proposer, where messages cannot be batched by pressure alone. Counted from when all replicas are ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from treesearch.config import Config, load
from treesearch.run import run

SEARCH = "search={type: mcts, simulations: 64, parallel: 8, branch: 4, rollouts: 0, widening: null}"


def config(problems: Path, replicas: int, delay: float = 0.0, *more: str) -> Config:
    """`replicas` proposers and as many scorers; `delay` of a proposal in seconds."""
    return load(None, [
        f"problems={problems}", "task=plain", SEARCH, "scorer=benchmarks.overhead:NullScores",
        f"proposer={{type: 'benchmarks.overhead:Null', delay: {delay}}}",
        f"cluster={{proposers: {replicas}, scorers: {replicas}}}", *more,
    ])  # fmt: skip


async def measured(config: Config, out: Path) -> dict[str, Any]:
    """Rates in the middle of one run: without the start of its processes, and without its end, when few trees are left."""
    from actors.cluster import Cluster

    found: dict[str, Cluster] = {}

    def drive(config: Config, task: Any, store: Any) -> Cluster:
        found["driver"] = Cluster(config, task, store, lambda text: print(f"    {text}", flush=True))
        return found["driver"]

    work = asyncio.create_task(run(config, out, drive=drive))
    samples: list[tuple[float, int, int]] = []
    while not work.done():
        await asyncio.sleep(0.1)
        if "driver" in found and len(found["driver"].lives) == config.cluster.proposers + config.cluster.scorers:
            samples.append((time.monotonic(), found["driver"].stats.expansions, found["driver"].calls))
    await work
    (t0, e0, c0), (t1, e1, c1) = samples[len(samples) // 10], samples[-1 - len(samples) // 10]
    return {"expansions": e1 - e0, "seconds": t1 - t0, "rate": (e1 - e0) / (t1 - t0), "calls": (c1 - c0) / (e1 - e0)}


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,2,4,8")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--paced", type=float, default=1000)
    parser.add_argument("--managers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="also write the rows as JSON")
    args = parser.parse_args()
    counts = [int(text) for text in args.replicas.split(",")]
    ray.init(address="local", include_dashboard=False, logging_level="WARNING")
    rows = []
    print(f"SIMULATED models; {os.cpu_count()} cores, {platform.machine()}, Ray {ray.__version__}")
    print(f"{'replicas':>8} {'pace':>8} {'expansions/s':>12} {'us each':>8} {'Ray calls per expansion':>24}")
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "set.jsonl"
        lines = (
            json.dumps({"id": f"p{k}", "question": f"q{k}", "answer": "1"})
            for k in range(args.problems + 250 * max(counts))
        )
        problems.write_text("\n".join(lines))
        for pace in (None, args.paced) if args.paced else (None,):
            for count in counts:
                delay, more = 0.0, [f"limit={args.problems + 250 * count}", f"cluster.managers={args.managers}"]
                if pace:  # by Little's law: 8 jobs in flight a tree, half of their time under way between processes
                    delay, more = 0.25, [f"engine.trees={round(pace / 8 / 2)}", "limit=500", *more[1:]]
                given = config(problems, count, delay, *more)
                row = asyncio.run(measured(given, Path(folder) / f"run-{pace}-{count}"))
                rows.append({"replicas": count, "pace": pace, **row})
                shown = "-" if pace is None else f"{pace:,.0f}"
                print(
                    f"{count:>8} {shown:>8} {row['rate']:>12,.0f} {1e6 / row['rate']:>8.0f} {row['calls']:>24.3f}",
                    flush=True,
                )
    ray.shutdown()
    if args.out is not None:
        args.out.write_text(
            json.dumps({"machine": platform.platform(), "ray": ray.__version__, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
