"""SIMULATED proposer and scorer on virtual engines: what they say is a function of the job alone, when is the engine's.

As `backends.vllm` does it: a chain is a request of its own, a job's reply comes when all its chains are there; the PRM
gets a request a chain, the path and the chain with a mark after each step, and computes what its cache does not hold.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from benchmarks.virtual import lengths
from benchmarks.virtual.cache import Part
from benchmarks.virtual.card import Card
from benchmarks.virtual.constants import Profile
from benchmarks.virtual.engine import Request, VirtualEngine
from treesearch.backends.base import Scored, Tell
from treesearch.backends.simulated import SimulatedScores, good
from treesearch.types import Chain, Job, Problem, Step, chain_seed, digest

STAYS = 0.9  # probability that a step keeps a chain right: near a half of chains of 8 steps
NOISE = 0.3  # of a score, see `SimulatedScores`


class VirtualProposer:
    """`max_jobs` and `tell` as of `VLLMProposer`."""

    def __init__(self, engine: VirtualEngine) -> None:
        self.engine = engine
        self.max_jobs = max(1, engine.serving.max_num_seqs // 2)
        self.tell: Tell | None = None

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        return await asyncio.gather(*(self._job(job) for job in jobs))

    async def _job(self, job: Job) -> tuple[Chain, ...]:
        assert job.n is not None
        chains = tuple(chain_of(job, i) for i in range(job.first, job.first + job.n))
        given = (prompt_of(job.problem), *map(part_of, job.path))
        requests = [self.engine.submit(Request(given, tuple(map(part_of, c)), job.priority)) for c in chains]
        for k, done in enumerate(requests):
            if self.tell is not None:
                done.add_done_callback(partial(self._drawn, job, k, chains[k]))
        for done in requests:
            await done
        return chains

    def _drawn(self, job: Job, k: int, chain: Chain, done: asyncio.Future[int]) -> None:
        if self.tell is not None and not done.cancelled():
            self.tell(job, k, chain)

    async def close(self) -> None: ...


class VirtualScorer:
    """`max_jobs` and `enough` as of `VLLMScorer`."""

    def __init__(self, engine: VirtualEngine) -> None:
        self.engine = engine
        self.max_jobs = engine.serving.max_num_seqs
        self.enough = engine.serving.max_num_batched_tokens
        self._scores = SimulatedScores(NOISE)

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return await asyncio.gather(*(self._item(job, chains) for job, chains in items))

    async def _item(self, job: Job, chains: tuple[Chain, ...]) -> Scored | Exception:
        tokens = 0
        requests = [Request(marked(job, chain), (), job.priority) for chain in chains]
        for request, done in [(request, self.engine.submit(request)) for request in requests]:
            tokens += sum(count for _, count in request.given) - await done
        (reply,) = await self._scores.score([(job, chains)])
        return Scored(reply.scores, tokens) if isinstance(reply, Scored) else reply

    async def close(self) -> None: ...


class Scattered:
    """Replicas without affinity: each job goes to the one with the least to do, whatever its cache holds."""

    def __init__(self, replicas: Sequence[Any]) -> None:
        self.replicas = replicas
        self.max_jobs = sum(replica.max_jobs for replica in replicas)

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        return await self._idlest().propose(jobs)  # type: ignore[no-any-return]

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return await self._idlest().score(items)  # type: ignore[no-any-return]

    def _idlest(self) -> Any:
        return min(self.replicas, key=lambda replica: replica.engine.load)

    async def close(self) -> None: ...


def chain_of(job: Job, i: int) -> Chain:
    """Chain `i` of the job: steps of drawn lengths, whose texts say whether the chain is right so far."""
    seed = chain_seed(job.seed, i)
    rng = random.Random(seed)
    right = all(good(step.text) for step in job.path)
    chain: list[Step] = []
    while not chain or (job.until != "step" and chain[-1].finish == "step"):
        right = right and rng.random() < STAYS
        done = lengths.is_last(rng, len(job.path) + len(chain) + 1)
        said = f"Answer: {'1' if right else f'wrong-{seed % 6}'}" if done else f"{'good' if right else 'bad'}"
        text = f"{said} {seed}.{len(chain)}\n"
        chain.append(Step(text, (), lengths.step_tokens(rng), finish="answer" if done else "step"))
    return tuple(chain)


@lru_cache(maxsize=1 << 14)
def prompt_of(problem: Problem) -> Part:
    return problem.id, lengths.prompt_tokens(random.Random(digest(problem.id, "prompt")))


def part_of(step: Step) -> Part:
    assert step.tokens is not None
    return step.text, step.tokens


def marked(job: Job, chain: Chain) -> tuple[Part, ...]:
    """What the PRM reads: every step is followed by a mark of one token."""
    return (prompt_of(job.problem), *((step.text, (step.tokens or 0) + 1) for step in (*job.path, *chain)))


class Machine:
    """Cards with the engines of a profile on them; `replicas` of each kind, in order."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.cards = [Card() for _ in range(profile.cards)]
        half = len(self.cards) // 2
        mine, prm = (self.cards[:half], self.cards[half:]) if profile.apart else (self.cards, self.cards)
        self.proposers = [self._engine(profile.proposer, card) for card in mine]
        self.scorers = [self._engine(profile.prm, card) for card in prm]
        context = lengths.TEMPLATE + lengths.mean_chain(1000)
        for engine in self.proposers:
            engine.half = engine.saturating(context) / 2

    def _engine(self, which: tuple, card: Card) -> VirtualEngine:
        return VirtualEngine(*which, self.profile.hardware, self.profile.law, card)

    @property
    def engines(self) -> list[VirtualEngine]:
        return [*self.proposers, *self.scorers]
