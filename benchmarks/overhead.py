"""What does the machinery itself cost? Microseconds per expansion with a model that costs nothing, and bytes per node.

    python -m benchmarks.overhead [--problems 64] [--nodes 1000000] [--json FILE]

Manager, dispatch, pool and engine are the real ones; proposer and scorer answer at once with steps made beforehand
(SIMULATED). The time is the processor's and includes the models and choosing the answers, not the journal. Beside it: a loop
that asks the same models and does nothing else, one search that grows ever larger, and the tree code of others (`peers`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import peers
from treesearch.algorithms import SEARCHES
from treesearch.backends.base import Scored
from treesearch.checker import Checker
from treesearch.engine import Engine
from treesearch.tasks import load_task
from treesearch.tree import ROOT, Tree
from treesearch.types import Chain, Expansion, Job, Problem, Sampling, Step, digest

DEPTH = 6  # steps of a chain, where nothing else is said
SIZES = (100, 1_000, 10_000, 100_000)  # nodes of one tree
MCTS = {"type": "mcts", "simulations": 64, "branch": 4, "widening": None}
CASES: dict[str, dict[str, Any]] = {
    "beam 4x4": {"type": "beam", "beams": 4, "branch": 4},
    "mcts 64": MCTS,
    "mcts 64, rollouts": MCTS | {"rollouts": 1},
}


class NullProposer:
    """SIMULATED: hands out steps made beforehand; costs one list lookup a step."""

    max_jobs = 256

    def __init__(self, delay: float = 0.0, depth: int = DEPTH) -> None:
        self.delay, self.depth = delay, depth
        ids = tuple(range(10))
        self.steps = [Step(f"step {k}\n", ids, 10, -1.0) for k in range(997)]
        self.ends = [Step(f"end {k}\n", ids, 10, -1.0, finish="answer") for k in range(97)]

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        if self.delay:
            await asyncio.sleep(self.delay)
        return [tuple([self._chain(job, i) for i in range(job.first, job.first + (job.n or 1))]) for job in jobs]

    async def close(self) -> None: ...

    def _chain(self, job: Job, i: int) -> Chain:
        key = job.seed + i
        if job.until == "step" and len(job.path) + 1 < self.depth:
            return (self.steps[key % 997],)
        through = (
            ()
            if job.until == "step"
            else tuple(self.steps[(key + k) % 997] for k in range(self.depth - 1 - len(job.path)))
        )
        return (*through, self.ends[key % 97])


@cache
def _score(text: str) -> float:
    return (len(text) * 97 + ord(text[-2]) * 31) % 1000 / 1000


class NullScorer:
    """SIMULATED: a score by key; costs one lookup a step."""

    max_jobs = 256

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [Scored(tuple([tuple([_score(s.text) for s in c]) for c in chains]), 1) for _, chains in items]

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Null:
    """Spec of the null proposer, for a config: `proposer: benchmarks.overhead:Null`. `delay`: seconds a job takes."""

    delay: float = 0.0
    max_jobs: int = NullProposer.max_jobs
    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any, limits: Any) -> NullProposer:
        proposer = NullProposer(self.delay)
        proposer.max_jobs = self.max_jobs
        return proposer


@dataclass(frozen=True)
class NullScores:
    """Spec of the null scorer."""

    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any) -> NullScorer:
        return NullScorer()


async def expansions(case: dict[str, Any], problems: int, depth: int = DEPTH) -> tuple[int, float]:
    """(expansions, processor seconds) of a whole run with chains of `depth` steps."""
    parameters = {k: v for k, v in case.items() if k != "type"}
    checker = Checker()
    engine = Engine(
        SEARCHES[case["type"]](**parameters),
        load_task("plain"),
        [NullProposer(depth=depth)],
        [NullScorer()],
        checker=checker,
    )  # type: ignore[list-item]
    start = time.process_time()
    async for _ in engine.answers(Problem(f"p{k}", "question", "1") for k in range(problems)):
        pass
    seconds = time.process_time() - start
    checker.close()
    return engine.stats.expansions, seconds


def bytes_per_node(nodes: int) -> float:
    """Growth of the process for a tree of `nodes` nodes with ten token ids each, every step its own object."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tree, leaf = Tree(), ROOT
    while len(tree) < nodes:
        steps = [Step(f"step {len(tree) + k}\n", tuple(range(300 + k, 310 + k)), 10, -1.0, 0.5) for k in range(4)]
        leaf = tree.grow(Expansion(leaf, tuple((s,) for s in steps)))[digest(len(tree)) % 4]
        tree.backup(leaf, 0.5) if tree.depth[leaf] < 40 else None
        leaf = leaf if tree.depth[leaf] < 40 else ROOT
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(tree)


async def nothing_else(expansions: int) -> float:
    """Processor seconds of a plain loop: a task an expansion, which asks both models and does nothing with what they say."""
    proposer, scorer, question = NullProposer(), NullScorer(), Problem("p", "question", "1")

    async def ask(k: int) -> None:
        job = Job(f"p/{k}", question, (), 0, 4, "step", Sampling(), k)
        for chains in await proposer.propose([job]):
            await scorer.score([(job, chains)])

    start = time.process_time()
    for first in range(0, expansions, 256):
        await asyncio.gather(*[ask(k) for k in range(first, min(first + 256, expansions))])
    return time.process_time() - start


def growth(nodes: int) -> dict[str, float]:
    """Microseconds per expansion of one search that grows a tree of about so many nodes."""
    cases = {
        "mcts": MCTS | {"simulations": max(1, nodes // 4)},
        "beam": {"type": "beam", "beams": max(1, nodes // (4 * DEPTH)), "branch": 4},
    }
    found = {}
    for name, case in cases.items():
        depth = 24 if name == "mcts" else DEPTH
        runs = [asyncio.run(expansions(case, max(1, 400 // nodes), depth)) for _ in range(3)]
        count, seconds = min(runs, key=lambda run: run[1] / run[0])
        found[name] = seconds / count * 1e6
    return found


def measure(problems: int, nodes: int) -> Iterator[tuple[str, float, str]]:
    """(what, figure, unit), as they are found."""
    runs = [asyncio.run(expansions(CASES["mcts 64"], problems)) for _ in range(2)]  # all is warm
    plain = min(asyncio.run(nothing_else(runs[0][0])) for _ in range(3)) / runs[0][0] * 1e6
    yield "a loop that does nothing else", plain, "us per expansion"
    for name, case in CASES.items():
        runs = [asyncio.run(expansions(case, problems)) for _ in range(3)]
        count, seconds = min(runs, key=lambda run: run[1] / run[0])
        yield name, seconds / count * 1e6, "us per expansion"
        yield f"{name} / nothing else", seconds / count * 1e6 / plain, "times"
    for size in SIZES:
        for name, figure in growth(size).items():
            yield f"{name}, {size:,} nodes", figure, "us per expansion"
    for row, size, theirs, ours, mine in peers.side_by_side([1_000, 10_000]):
        yield f"{row}, {size:,} nodes", theirs, "us per node"
        yield f"ours ({ours}), {size:,} nodes", mine, "us per node"
        yield f"{row} / ours, {size:,} nodes", theirs / mine, "times"
    yield f"{nodes:,} nodes", bytes_per_node(nodes), "bytes per node"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures there too, with machine and versions")
    args = parser.parse_args()
    versions = {name: peers.installed(name) for name in ("treesearch", "treequest", "its_hub")}
    print(f"SIMULATED models; {platform.machine()}, Python {platform.python_version()}; best of 3")
    if missing := [name for name, found in versions.items() if found is None]:
        print(f"not installed, so not compared: {', '.join(missing)} ({peers.INSTALL})")
    found = []
    for what, figure, unit in measure(args.problems, args.nodes):
        print(f"{what:40} {figure:10,.1f} {unit}", flush=True)
        found.append({"what": what, "figure": figure, "unit": unit})
    if args.json is not None:
        machine = {"machine": platform.machine(), "system": platform.platform(), "cores": os.cpu_count()}
        report = {"machine": machine, "python": platform.python_version(), "versions": versions, "figures": found}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
