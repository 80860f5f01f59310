"""What goes over the wires of a cluster: jobs, chains, scores and answers of a real search over SIMULATED models.

The search is that of `benchmarks.cluster`; the models answer at once, with steps as long as those of `lengths` or shorter.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from actors.manager import GARBAGE
from benchmarks.overhead import NullProposer, NullScorer
from benchmarks.virtual import lengths
from treesearch.algorithms import SEARCHES
from treesearch.backends.base import Scored
from treesearch.checker import Checker
from treesearch.engine import Engine, Settings
from treesearch.manager import Reply
from treesearch.tasks import load_task
from treesearch.types import Answer, Chain, Expansion, Job, Problem, Step

SEARCH = {"simulations": 64, "parallel": 8, "branch": 4, "rollouts": 0, "widening": None}  # MCTS, as benchmarks.cluster
VOCABULARY = 128_256  # of Llama 3; larger ids take more bytes
LETTERS = 4  # of a token, about
SOME = 16  # one request in so many is kept


class Typical(NullProposer):
    """SIMULATED: answers at once with steps as long as those of `lengths`, chains of eight."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(delay, depth=8)
        rng = random.Random(0)
        self.steps = [_step(rng, f"step {k}") for k in range(997)]
        self.ends = [_step(rng, f"end {k}", "answer") for k in range(97)]


@dataclass(frozen=True)
class TypicalSpec:
    """Its spec, for a config."""

    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any, limits: Any) -> Typical:
        return Typical()


def _step(rng: random.Random, name: str, finish: Any = "step") -> Step:
    count = lengths.step_tokens(rng)
    text = name + "".join(rng.choices("abcdefghij klmno", k=LETTERS * count - len(name) - 1)) + "\n"
    return Step(
        text, tuple(rng.randrange(VOCABULARY) for _ in range(count)), count, -rng.random() * count, finish=finish
    )


@dataclass
class Sample:
    """What went over the wires in a run: jobs with their chains and scores, and the answers."""

    jobs: list[tuple[Job, tuple[Chain, ...], Scored]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0  # of the manager's part, an expansion
    expansions: int = 0
    seen: int = 0  # requests

    def rows(self) -> list[tuple[str, int, Reply, int]]:
        """As they are journalled."""
        found = []
        for k, (job, chains, scored) in enumerate(self.jobs):
            judged = tuple(tuple(map(Step.scored, c, s)) for c, s in zip(chains, scored.scores, strict=True))
            found.append(
                (job.problem.id, k, Reply(k, job.seed, 1.5, Expansion(job.leaf, judged, scored=scored.tokens)), 1)
            )
        return found


def sampled(proposer: NullProposer, problems: int) -> Sample:
    """A run of the real engine in this process, all its problems live: Python's collector goes through all of them again
    and again, as seldom as in a manager. What the models themselves cost is not counted.
    """
    best, usual = Sample(seconds=float("inf")), gc.get_threshold()
    gc.set_threshold(GARBAGE, *usual[1:])
    for _ in range(2):
        found, scorer = Sample(), NullScorer()
        watched = _Watched(found, proposer, scorer)
        engine = Engine(SEARCHES["mcts"](**SEARCH), load_task("plain"), [watched], [watched], checker=Checker(),
                        settings=Settings(trees=problems))  # type: ignore[list-item]  # fmt: skip
        rng = random.Random(1)
        sizes = [lengths.prompt_tokens(rng) - lengths.TEMPLATE for _ in range(problems)]
        texts = ["".join(rng.choices("abcde fghij", k=LETTERS * size)) for size in sizes]
        asked = [Problem(f"p{k}", text, "1") for k, text in enumerate(texts)]

        async def main(engine: Engine = engine, asked: Sequence[Problem] = asked) -> list[Answer]:
            return [answer async for answer in engine.answers(asked)]

        began = time.process_time()
        found.answers = asyncio.run(main())
        spent = time.process_time() - began - watched.spent
        found.expansions = engine.stats.expansions
        found.seconds = spent / found.expansions
        best = min(best, found, key=lambda sample: sample.seconds)
    gc.set_threshold(*usual)
    gc.collect()  # what is left is no part of the costs that are measured next
    return best


class _Watched:
    """A proposer some of whose jobs and replies are kept, with what it and the scorer cost in `spent`.

    Both let others run before they answer, as those do that are elsewhere: so jobs wait for credits here too.
    """

    def __init__(self, sample: Sample, proposer: NullProposer, scorer: NullScorer) -> None:
        self.sample, self.proposer, self.scorer = sample, proposer, scorer
        self.max_jobs = proposer.max_jobs
        self.spent = 0.0

    async def propose(self, jobs: Sequence[Job]) -> list[Any]:
        began = time.process_time()
        replies = await self.proposer.propose(jobs)
        self.sample.seen += 1
        if self.sample.seen % SOME == 0:
            scores = await self.scorer.score(list(zip(jobs, replies, strict=True)))  # type: ignore[arg-type]
            self.sample.jobs += zip(jobs, replies, scores, strict=True)  # type: ignore[arg-type]
        self.spent += time.process_time() - began
        await asyncio.sleep(0)
        return replies

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Any]:
        began = time.process_time()
        scores = await self.scorer.score(items)
        self.spent += time.process_time() - began
        await asyncio.sleep(0)
        return list(scores)

    async def close(self) -> None: ...
