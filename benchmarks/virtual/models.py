"""SIMULATED proposer and scorer on virtual engines: what they say is a function of the job alone, when is the engine's.

As `backends.vllm` does it: a chain is a request of its own, a job's reply comes when all its chains are there; the PRM
gets a request a chain, the path and the chain with a mark after each step, and computes what its cache does not hold.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from benchmarks.virtual import lengths
from benchmarks.virtual.cache import Part
from benchmarks.virtual.card import Card
from benchmarks.virtual.constants import Model, Profile, Serving
from benchmarks.virtual.engine import Request, VirtualEngine
from treesearch.backends.base import Scored
from treesearch.backends.simulated import SimulatedScores, good
from treesearch.types import Chain, Job, Problem, Step, chain_seed, digest

STAYS = 0.9  # probability that a step keeps a chain right: near a half of chains of 8 steps
NOISE = 0.3  # of a score, see `SimulatedScores`


class Lengths(Hashable, Protocol):
    """Tokens of steps and prompts, and where a chain ends: the module `lengths`, or what a benchmark sets."""

    def step_tokens(self, rng: random.Random) -> int: ...
    def prompt_tokens(self, rng: random.Random) -> int: ...
    def is_last(self, rng: random.Random, steps: int) -> bool: ...


class VirtualProposer:
    """`max_jobs` and `rest` as of `VLLMProposer`."""

    def __init__(self, engine: VirtualEngine, drawn: Lengths = lengths) -> None:
        self.engine, self.card, self.drawn = engine, engine.card, drawn
        self.rest = engine.rest
        self.max_jobs = max(1, engine.serving.max_num_seqs // 2)

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        return await asyncio.gather(*(self._job(job) for job in jobs))

    async def _job(self, job: Job) -> tuple[Chain, ...]:
        assert job.n is not None
        chains = tuple(chain_of(job, i, self.drawn) for i in range(job.first, job.first + job.n))
        given = (prompt_of(job.problem, self.drawn), *map(part_of, job.path))
        for done in [self.engine.submit(Request(given, tuple(map(part_of, c)), job.priority)) for c in chains]:
            await done
        return chains

    async def close(self) -> None: ...


class VirtualScorer:
    """`max_jobs`, `enough` and `keeps` as of `VLLMScorer`."""

    def __init__(self, engine: VirtualEngine, drawn: Lengths = lengths) -> None:
        self.engine, self.card, self.drawn = engine, engine.card, drawn
        self.max_jobs = engine.serving.max_num_seqs
        self.enough = engine.serving.max_num_batched_tokens
        self.keeps = engine.cache.capacity * engine.block if engine.serving.reuse else None
        self._scores = SimulatedScores(NOISE)

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return await asyncio.gather(*(self._item(job, chains) for job, chains in items))

    async def _item(self, job: Job, chains: tuple[Chain, ...]) -> Scored | Exception:
        tokens = 0
        requests = [Request(marked(job, chain, self.drawn), (), job.priority) for chain in chains]
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


def chain_of(job: Job, i: int, drawn: Lengths = lengths) -> Chain:
    """Chain `i` of the job: steps of drawn lengths, whose texts say whether the chain is right so far."""
    seed = chain_seed(job.seed, i)
    rng = random.Random(seed)
    right = all(good(step.text) for step in job.path)
    chain: list[Step] = []
    while not chain or (job.until != "step" and chain[-1].finish == "step"):
        right = right and rng.random() < STAYS
        done = drawn.is_last(rng, len(job.path) + len(chain) + 1)
        said = f"Answer: {'1' if right else f'wrong-{seed % 6}'}" if done else f"{'good' if right else 'bad'}"
        text = f"{said} {seed}.{len(chain)}\n"
        chain.append(Step(text, (), drawn.step_tokens(rng), finish="answer" if done else "step"))
    return tuple(chain)


@lru_cache(maxsize=1 << 14)
def prompt_of(problem: Problem, drawn: Lengths = lengths) -> Part:
    return problem.id, drawn.prompt_tokens(random.Random(digest(problem.id, "prompt")))


def part_of(step: Step) -> Part:
    assert step.tokens is not None
    return step.text, step.tokens


def marked(job: Job, chain: Chain, drawn: Lengths = lengths) -> tuple[Part, ...]:
    """What the PRM reads: every step is followed by a mark of one token."""
    return (prompt_of(job.problem, drawn), *((step.text, (step.tokens or 0) + 1) for step in (*job.path, *chain)))


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

    def _engine(self, which: tuple[Model, Serving], card: Card) -> VirtualEngine:
        model, serving = which
        return VirtualEngine(model, serving, self.profile.hardware, self.profile.law, card)

    @property
    def engines(self) -> list[VirtualEngine]:
        return [*self.proposers, *self.scorers]
