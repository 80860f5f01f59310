"""SIMULATED proposer and scorer: what they say is a function of question, path and seed. For tests and benchmarks only."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from treesearch.backends.base import LastScore, Limits, Scored, Scorer
from treesearch.errors import ConfigError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job, Step, chain_seed, digest, under_way

Sleep = Callable[[float], Awaitable[None]]
WRONG = 6  # different wrong answers


@dataclass(frozen=True)
class Simulated:
    """Proposer `simulated`: chains of `steps` steps; a whole chain is right with probability `accuracy`.

    Each step decides whether the chain stays right. Latency of a request: base_ms + per_sequence_us x sequences running.
    """

    accuracy: float = 0.5
    steps: int = 4
    step_tokens: int = 20
    failures: float = 0.0
    base_ms: float = 0.0
    per_sequence_us: float = 0.0
    label: ClassVar[str | None] = "SIMULATED"

    def __post_init__(self) -> None:
        for name in ("accuracy", "failures"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"proposer.{name} = {value!r}: must be a probability, 0 to 1")
        if self.steps < 1 or self.step_tokens < 1:
            raise ConfigError(f"proposer.steps = {self.steps}, step_tokens = {self.step_tokens}: must be at least 1")

    def build(self, task: Task, prompt: Prompt, limits: Limits, sleep: Sleep = asyncio.sleep) -> SimulatedProposer:
        return SimulatedProposer(self, task, limits, sleep)


class SimulatedProposer:
    """The text of a step says whether the chain is right so far, for the simulated scorer to read with noise."""

    max_jobs = 256

    def __init__(self, spec: Simulated, task: Task, limits: Limits, sleep: Sleep) -> None:
        self.spec, self.task, self.sleep = spec, task, sleep
        self.steps = min(spec.steps, limits.depth)
        self.running = 0

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        sequences = sum(job.n or 0 for job in jobs)
        self.running += sequences
        try:
            await self.sleep(self.spec.base_ms / 1e3 + self.spec.per_sequence_us * self.running / 1e6)
        finally:  # a cancelled request runs no longer: else it would slow all later ones
            self.running -= sequences
        return [self._chains(job) for job in jobs]

    def _chains(self, job: Job) -> tuple[Chain, ...] | Exception:
        if job.n is None:
            return ConfigError("a simulated model cannot list all continuations; set the search's branch to a number")
        if digest(job.id, "fails") % 10_000 < self.spec.failures * 10_000:
            return RuntimeError("simulated failure")
        return tuple(self._chain(job, i) for i in range(job.first, job.first + job.n))

    def _chain(self, job: Job, i: int) -> Chain:
        rng = random.Random(chain_seed(job.seed, i))
        path = under_way(job.path)
        right = all(good(step.text) for step in path)
        stays = self.spec.accuracy ** (1 / self.steps)
        chain: list[Step] = []
        while not chain or (job.until != "step" and chain[-1].finish == "step"):
            right = right and rng.random() < stays
            done = len(path) + len(chain) + 1 >= self.steps
            answer = job.problem.reference if right and job.problem.reference else f"wrong-{rng.randrange(WRONG)}"
            going_on = f"{'good' if right else 'bad'} {rng.randrange(1000)}{self.task.separator}"
            text = f"Answer: {answer}" if done else going_on
            ids = tuple(rng.randrange(32_000) for _ in range(self.spec.step_tokens))
            chain.append(Step(text, ids, len(ids), -rng.expovariate(1), finish="answer" if done else "step"))
        return tuple(chain)

    async def close(self) -> None: ...


def good(text: str) -> bool:
    """Whether a simulated step says that the chain is right so far."""
    return not text.startswith(("bad", "Answer: wrong"))


@dataclass(frozen=True)
class SimulatedScorer:
    """Scorer `simulated`: 0.75 for a step that is right so far, 0.25 for one that is not, +- `noise`."""

    noise: float = 0.3
    label: ClassVar[str | None] = "SIMULATED"

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ConfigError(f"scorer.noise = {self.noise!r}: must be 0 to 1")

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        return SimulatedScores(self.noise)


@dataclass(frozen=True)
class SimulatedOutcome(SimulatedScorer):
    """Outcome `simulated`: the simulated score of the last step."""

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        return LastScore(SimulatedScores(self.noise))


class SimulatedScores:
    """Scores by key: the same path always gets the same ones, in [0, 1]."""

    max_jobs = 256

    def __init__(self, noise: float) -> None:
        self.noise = noise

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [Scored(tuple(tuple(self._scores(job, chain)) for chain in chains), 0) for job, chains in items]

    def _scores(self, job: Job, chain: Chain) -> list[float]:
        texts = [step.text for step in (*job.path, *chain)]
        return [self._score(job.problem.question, texts[: k + 1]) for k in range(len(job.path), len(texts))]

    def _score(self, question: str, texts: list[str]) -> float:
        truth = 0.75 if all(map(good, texts)) else 0.25
        noise = (2 * random.Random(digest(question, *texts)).random() - 1) * self.noise
        return min(1.0, max(0.0, truth + noise))

    async def close(self) -> None: ...
