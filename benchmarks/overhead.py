"""What does the machinery itself cost? Microseconds per expansion with a model that costs nothing, and bytes per node.

    python -m benchmarks.overhead [--problems 64] [--nodes 1000000]

Manager, dispatch, pool and engine are the real ones; proposer and scorer answer at once with steps made beforehand
(SIMULATED). The time includes choosing the answers, not the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from treesearch.algorithms import SEARCHES
from treesearch.backends.base import Scored
from treesearch.checker import Checker
from treesearch.engine import Engine
from treesearch.tasks import load_task
from treesearch.tree import ROOT, Tree
from treesearch.types import Chain, Expansion, Job, Problem, Step, digest

DEPTH = 6
MCTS = {"type": "mcts", "simulations": 64, "branch": 4, "widening": None}
CASES: dict[str, dict[str, Any]] = {
    "beam 4x4": {"type": "beam", "beams": 4, "branch": 4},
    "mcts 64": MCTS,
    "mcts 64, rollouts": MCTS | {"rollouts": 1},
}


class NullProposer:
    """SIMULATED: hands out steps made beforehand; costs one list lookup a step."""

    max_jobs = 256

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        ids = tuple(range(10))
        self.steps = [Step(f"step {k}\n", ids, 10, -1.0) for k in range(997)]
        self.ends = [Step(f"end {k}\n", ids, 10, -1.0, finish="answer") for k in range(97)]

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        if self.delay:
            await asyncio.sleep(self.delay)
        return [tuple(self._chain(job, i) for i in range(job.first, job.first + (job.n or 1))) for job in jobs]

    async def close(self) -> None: ...

    def _chain(self, job: Job, i: int) -> Chain:
        key = job.seed + i
        if job.until == "step" and len(job.path) + 1 < DEPTH:
            return (self.steps[key % 997],)
        through = (
            () if job.until == "step" else tuple(self.steps[(key + k) % 997] for k in range(DEPTH - 1 - len(job.path)))
        )
        return (*through, self.ends[key % 97])


class NullScorer:
    """SIMULATED: a score by key."""

    max_jobs = 256

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [
            Scored(tuple(tuple((len(s.text) * 97 + ord(s.text[-2]) * 31) % 1000 / 1000 for s in c) for c in chains), 1)
            for _, chains in items
        ]

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Null:
    """Spec of the null proposer, for a config: `proposer: benchmarks.overhead:Null`. `delay`: seconds a job takes."""

    delay: float = 0.0
    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any, limits: Any) -> NullProposer:
        return NullProposer(self.delay)


@dataclass(frozen=True)
class NullScores:
    """Spec of the null scorer."""

    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any) -> NullScorer:
        return NullScorer()


async def expansions(case: dict, problems: int) -> tuple[int, float]:
    """(expansions, processor seconds) of a whole run."""
    parameters = {k: v for k, v in case.items() if k != "type"}
    checker = Checker()
    engine = Engine(
        SEARCHES[case["type"]](**parameters), load_task("plain"), [NullProposer()], [NullScorer()], checker=checker
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    args = parser.parse_args()
    print(f"SIMULATED models; {platform.machine()}, Python {platform.python_version()}; best of 3")
    for name, case in CASES.items():
        runs = [asyncio.run(expansions(case, args.problems)) for _ in range(3)]
        count, seconds = min(runs, key=lambda run: run[1] / run[0])
        print(f"{name:24} {count:8,} expansions  {seconds / count * 1e6:7.1f} us per expansion")
    print(f"{args.nodes:,} nodes          {bytes_per_node(args.nodes):7.0f} bytes per node")


if __name__ == "__main__":
    main()
