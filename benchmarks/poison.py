"""What does one poisonous problem in 100 cost the 99 others? Their answers, replica restarts, and throughput lost.

    python -m benchmarks.poison [--problems 100] [--simulations 64] [--rounds 3] [--silent] [--json FILE]

The driver, managers and replicas of a cluster are the real ones on a local Ray; the models are SIMULATED. A proposer
reads the poisonous question and its engine is dead, as vLLM's then is, with all that ran on it; or (`--silent`) its whole
process, which says nothing of it: that takes one replica more. As often as it is asked. Each round searches the harmless
problems without the poisonous one and then with it in their middle, and times them from when all replicas are ready to the
last harmless line. A restart here costs what a Ray actor needs to start, not the loading of a model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from treesearch.backends.simulated import Simulated, SimulatedProposer
from treesearch.config import Config, load
from treesearch.run import run
from treesearch.types import Chain, Job

POISON = "the question that kills"
CREDITS = 16  # jobs at once of a replica


class MortalProposer(SimulatedProposer):
    """SIMULATED: its engine, or its process, ends while it answers the poisonous question."""

    max_jobs = CREDITS
    after = 0.0
    dead = silent = False

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        if any(job.problem.question == POISON for job in jobs):
            await self.sleep(self.after * self.spec.base_ms / 1e3)
            if self.silent:
                os._exit(1)
            self.dead = True
        chains = [] if self.dead else await super().propose(jobs)
        if self.dead:
            raise RuntimeError("the engine is dead")
        return chains


@dataclass(frozen=True)
class Mortal:
    """Spec of the proposer that can be killed. `base_ms`: of a request; `after`: the part of it that precedes the kill."""

    base_ms: float = 500.0
    after: float = 0.5
    silent: bool = False
    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any, limits: Any) -> MortalProposer:
        spec = Simulated(accuracy=0.3, steps=5, base_ms=self.base_ms)
        proposer = MortalProposer(spec, task, limits, asyncio.sleep)
        proposer.after, proposer.silent = self.after, self.silent
        return proposer


@dataclass(frozen=True)
class Outcome:
    """Of one run: lines by problem id, without what may differ; seconds; processes that were replaced."""

    rows: dict[str, Any]
    seconds: float
    restarts: int


def config(folder: Path, problems: int, simulations: int, replicas: int, poison: bool, *more: str) -> Config:
    """`problems` of them, one of which is poisonous or left out."""
    path = folder / f"{'poison' if poison else 'calm'}.jsonl"
    rows = [{"id": f"p{k}", "question": f"question {k}", "answer": str(k)} for k in range(problems)]
    rows[problems // 2]["question"] = POISON
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if poison or row["question"] != POISON))
    return load(None, [
        f"problems={path}", "task=plain", "proposer=benchmarks.poison:Mortal", "scorer=simulated",
        f"search={{type: mcts, simulations: {simulations}, parallel: 4, rollouts: 0}}",
        f"cluster={{proposers: {replicas}, scorers: 1}}", *more,
    ])  # fmt: skip


async def searched(config: Config, out: Path) -> Outcome:
    """One run on the Ray that is there."""
    from actors.cluster import Cluster

    drivers: list[Cluster] = []
    said: list[str] = []

    def drive(config: Config, task: Any, store: Any) -> Cluster:
        drivers.append(Cluster(config, task, store, said.append))
        return drivers[0]

    results, began, ended, lines = out / "results.jsonl", 0.0, 0.0, 0
    work = asyncio.create_task(run(config, out, drive=drive))
    while not work.done():
        await asyncio.sleep(0.05)
        if not began and drivers and len(drivers[0].lives) == config.cluster.proposers + config.cluster.scorers:
            began = time.monotonic()
        if results.exists() and (now := sum(POISON not in line for line in results.read_text().splitlines())) > lines:
            lines, ended = now, time.monotonic()
    await work
    rows = {}
    for row in map(json.loads, results.read_text().splitlines()):
        del row["seconds"], row["tokens"]["wasted"]
        rows[row["id"]] = row
    print("".join(f"    {text}\n" for text in said), end="", flush=True)
    restarts = sum("starting another" in text for text in said)
    return Outcome(rows, ended - began, restarts)


async def compared(folder: Path, problems: int, simulations: int, replicas: int, *more: str) -> dict[str, Any]:
    """One round: harmless problems alone, then with the poisonous one among them."""
    calm, poisoned = [
        await searched(config(folder, problems, simulations, replicas, poison, *more), folder / f"out-{poison}")
        for poison in (False, True)
    ]
    bad = poisoned.rows.pop(f"p{problems // 2}")
    equal = sum(poisoned.rows[name] == row for name, row in calm.rows.items())
    return {
        "calm_s": calm.seconds,
        "poisoned_s": poisoned.seconds,
        "loss": 1 - calm.seconds / poisoned.seconds,
        "equal": equal,
        "of": len(calm.rows),
        "restarts": poisoned.restarts,
        "error": bad["error"],
    }


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--simulations", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--silent", action="store_true", help="the whole process dies")
    parser.add_argument("--set", action="append", default=[], dest="more", help="a further setting of the runs")
    parser.add_argument("--json", type=Path, default=None, help="also write the rounds as JSON")
    args = parser.parse_args()
    more = [*args.more, "proposer.silent=true"] if args.silent else args.more
    ray.init(address="local", include_dashboard=False, logging_level="WARNING", log_to_driver=False)
    print(
        f"SIMULATED models; {args.replicas} proposers, {os.cpu_count()} cores, {platform.machine()}, Ray {ray.__version__}"
    )
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(asyncio.run(compared(Path(folder), args.problems, args.simulations, args.replicas, *more)))
        row = rounds[-1]
        lines = f"{row['equal']} of {row['of']}"
        print(f"{'without, s':>10} {'with, s':>8} {'loss':>7} {'equal lines':>12} {'restarts':>9}  the poisonous one")
        print(
            f"{row['calm_s']:>10.1f} {row['poisoned_s']:>8.1f} {row['loss']:>7.1%} {lines:>12} {row['restarts']:>9}  "
            f"{row['error']}", flush=True,
        )  # fmt: skip
    ray.shutdown()
    print(f"median loss {statistics.median(row['loss'] for row in rounds):.1%}")
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": platform.platform(), "ray": ray.__version__, "rounds": rounds}))


if __name__ == "__main__":
    main()
