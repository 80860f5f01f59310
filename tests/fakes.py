"""Models by key: what they say is a function of the job alone, so trees compare exactly. Latencies are drawn, not slept."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Sequence

from treesearch.backends.base import Scored
from treesearch.manager import Manager, Reply
from treesearch.types import Answer, Chain, Expansion, Job, Problem, Step, chain_seed, digest, under_way

DEPTH = 5


def keyed_chain(job: Job, i: int) -> Chain:
    """The i-th chain at the job's path; its first step does not depend on `until`."""
    rng = random.Random(chain_seed(job.seed, i))
    chain: list[Step] = []
    while not chain or (job.until != "step" and chain[-1].finish == "step"):
        done = rng.random() < 0.25 or len(under_way(job.path)) + len(chain) + 1 >= DEPTH
        text, tokens, score, logprob = f"{rng.randrange(6)}\n", rng.randint(1, 9), rng.random(), -rng.random()
        answer = str(rng.randrange(4)) if done else None
        chain.append(Step(text, tokens=tokens, score=score, logprob=logprob, finish="answer" if done else "step",
                          answer=answer, canonical=answer, outcome=rng.random() if done else None))  # fmt: skip
    return tuple(chain)


def keyed_reply(job: Job, failures: float = 0.0) -> Expansion:
    """The reply to a job; a fixed share of jobs fails, always the same ones."""
    if digest(job.id, "fails") % 1000 < failures * 1000:
        return Expansion(job.leaf, error="injected")
    assert job.n is not None
    chains = tuple(keyed_chain(job, i) for i in range(job.first, job.first + job.n))
    return Expansion(job.leaf, chains, scored=sum(len(c) for c in chains))


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{k}", f"question {k}", "1") for k in range(count)]


class World:
    """Workers with random latencies around a manager: replies come reordered and twice, on a virtual clock."""

    def __init__(
        self, manager: Manager, workers: int, seed: int, failures: float = 0.0, duplicates: float = 0.1
    ) -> None:
        self.manager, self.workers, self.failures, self.duplicates = manager, workers, failures, duplicates
        self.rng = random.Random(seed)
        self.journal: dict[str, list[Reply]] = {}
        self.trees: dict[str, tuple] = {}
        self.answers: dict[str, Answer] = {}
        self.cancelled: list[str] = []
        self.jobs: list[Job] = []
        self.now = 0.0

    def run(
        self, asked: Sequence[Problem], journals: dict[str, list[Reply]] | None = None, stop_after: int | None = None
    ) -> World:
        waiting: list[Job] = []
        running: list[tuple[float, int, Job]] = []
        delivered = 0
        for problem in asked:
            journal = (journals or {}).get(problem.id, [])
            self.journal[problem.id] = list(journal)
            self._take(problem.id, self.manager.open(problem, self.now, journal), waiting)
        count = 0
        while waiting or running:
            while waiting and len(running) < self.workers:
                for _ in range(1 + (self.rng.random() < self.duplicates)):
                    count += 1
                    heapq.heappush(running, (self.now + self.rng.expovariate(1), count, waiting[0]))
                waiting.pop(0)
            self.now, _, job = heapq.heappop(running)
            outcome = self.manager.deliver(job.id, keyed_reply(job, self.failures), self.now)
            self.journal[job.problem.id] += outcome.delivered
            delivered += len(outcome.delivered)
            self._take(job.problem.id, outcome, waiting)
            if stop_after is not None and delivered >= stop_after:
                return self
        return self

    def _take(self, problem_id: str, outcome, waiting: list[Job]) -> None:
        waiting += outcome.jobs
        self.jobs += outcome.jobs
        self.cancelled += outcome.cancelled
        live = self.manager.live.get(problem_id)
        if outcome.ended and live is not None:
            self.trees[problem_id] = shape(live.tree)
            self.answers[problem_id] = self.manager.answer(problem_id, self.now, seconds=0.0)


def shape(tree) -> tuple:
    """All that makes a tree, comparable."""
    return (
        tuple(tree.parent),
        tuple(tree.steps),
        tuple(tree.visits),
        tuple(tree.total),
        tuple(tree.held),
        bytes(tree.closed),
    )


class FakeProposer:
    """A replica that answers by key after a random number of loop turns."""

    def __init__(self, max_jobs: int = 8, seed: int = 0, failures: float = 0.0, crashes: float = 0.0) -> None:
        self.max_jobs, self.failures, self.crashes = max_jobs, failures, crashes
        self.rng = random.Random(seed)
        self.calls = self.running = self.most = self.sampled = 0

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        self.calls += 1
        self.running += len(jobs)
        self.most = max(self.most, self.running)
        for _ in range(self.rng.randrange(6)):
            await asyncio.sleep(0)
        self.running -= len(jobs)
        if self.rng.random() < self.crashes:
            raise ConnectionError("replica went away")
        return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> tuple[Chain, ...] | Exception:
        reply = keyed_reply(job, self.failures)
        if reply.error:
            return RuntimeError(reply.error)
        self.sampled += sum(step.tokens or 0 for chain in reply.chains for step in chain)
        return reply.chains

    async def close(self) -> None: ...


class FakeScorer:
    """Gives each step the score it came with."""

    max_jobs = 8

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        await asyncio.sleep(0)
        return [
            Scored(tuple(tuple(s.score or 0.0 for s in c) for c in chains), sum(map(len, chains)))
            for _, chains in items
        ]

    async def close(self) -> None: ...


class InlineChecker:
    """Reads an answer the fakes wrote: the last digit of the last step."""

    async def read(self, task: object, question: str, steps: Sequence[str]) -> tuple[str | None, str | None]:
        return steps[-1].strip(), steps[-1].strip()
