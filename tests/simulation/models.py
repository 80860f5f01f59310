"""Models by key behind faults: what they say is a function of the job alone, when they say it (and whether) of the seed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.fakes import keyed_chain
from tests.simulation.loop import HERE, Killed
from treesearch.backends.base import Scored
from treesearch.errors import RequestError
from treesearch.types import Chain, Expansion, Job, Problem, digest

if TYPE_CHECKING:
    from tests.simulation.world import World


class Digits:
    """A task whose answer is the last step's digit."""

    name, separator = "digits", "\n"

    def prompt(self, question: str) -> str:
        return question

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        return steps[-1].strip()

    def canonical(self, answer: str) -> str:
        return answer

    def check(self, problem: Problem, answer: str) -> bool | None:
        return answer == problem.reference

    def problems(self, name: str) -> list[Problem]:
        raise NotImplementedError


DIGITS = Digits()


@dataclass(frozen=True, slots=True)
class Keys:
    """Which jobs go wrong whoever runs them, as shares: refused, badly scored, badly answered; and poisonous prompts.

    `poison` holds problems and their first step (-1: none yet): jobs at such a path kill whoever reads them; `silent`ly,
    if they end the process and not its engine alone.
    """

    refused: float = 0.0
    scores: float = 0.0
    chains: float = 0.0
    poison: tuple[tuple[str, int], ...] = ()
    silent: bool = False

    def is_refused(self, job: Job) -> bool:
        return _befalls(job, "refused", self.refused)

    def bad_scores(self, job: Job) -> int:
        """0: none; else which of the ways."""
        return 1 + digest(job.id, "way") % 4 if _befalls(job, "scores", self.scores) else 0

    def bad_chains(self, job: Job) -> bool:
        return _befalls(job, "chains", self.chains)

    def is_poison(self, job: Job) -> bool:
        texts = [step.text for step in job.path]
        return any(
            job.problem.id == problem and texts == ([] if step < 0 else [f"{step}\n"]) for problem, step in self.poison
        )

    def spoiled(self, job: Job) -> bool:
        """Whether its reply is an error by design."""
        bad = self.is_refused(job) or self.bad_chains(job) or self.is_poison(job)
        return bad or (job.score is not None and self.bad_scores(job) > 0)


def chains_of(job: Job) -> tuple[Chain, ...]:
    assert job.n is not None
    return tuple(keyed_chain(job, i) for i in range(job.first, job.first + job.n))


def expected_reply(job: Job, keys: Keys) -> Expansion:
    """What the engine makes of the models' replies when nothing else goes wrong."""
    if keys.spoiled(job):
        return Expansion(job.leaf, error="by design")
    chains = tuple((*c[:-1], _read(c[-1])) for c in chains_of(job))
    return Expansion(job.leaf, chains, scored=sum(map(len, chains)) if job.score is not None else 0)


def _read(step: Any) -> Any:
    if step.finish == "step":
        return step
    return replace(step, answer=step.text.strip(), canonical=step.text.strip())


def _befalls(job: Job, what: str, share: float) -> bool:
    return share > 0 and digest(job.id, what) % 10_000 < share * 10_000


class Model:
    """A proposer or scorer of the plan's faults. `dead`: its engine is; its process ends, as the replica sees to."""

    def __init__(self, world: World) -> None:
        self.world, self.keys = world, world.plan.keys
        self.max_jobs = world.plan.credits
        self.enough, self.keeps = world.plan.enough, world.plan.keeps
        self.dead = False
        self.usage = {"prompt_tokens": 0, "cached_tokens": 0}
        self.aborted: set[str] = set()
        self._going = asyncio.Event()  # not while it rests
        self._going.set()

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        (job,) = jobs
        await self._work(job)
        await self._going.wait()
        if self.keys.is_poison(job):
            self._die(job.id)
        if self.keys.is_refused(job):
            return [RequestError("prompt too long")]
        chains = chains_of(job)
        self.usage["prompt_tokens"] += 1
        return [chains[:-1] if self.keys.bad_chains(job) else chains]

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        ((job, chains),) = items
        await self._work(job)
        rows = [[step.score or 0.0 for step in chain] for chain in chains]
        way = self.keys.bad_scores(job)
        if way:
            rows[-1] = [rows[-1][:-1], [*rows[-1], 0.5], [math.nan] * len(rows[-1]), [math.inf] * len(rows[-1])][
                way - 1
            ]
        return [Scored(tuple(map(tuple, rows)), sum(map(len, chains)))]

    def abort(self, job_ids: Sequence[str]) -> None:
        """Late aborts and early ones alike: replies come as they would."""

    def rest(self, rests: bool) -> None:
        """Nothing that was asked is answered until it is told to go on: unlike an engine, not for a time only."""
        self._going.clear() if rests else self._going.set()

    async def close(self) -> None: ...

    async def _work(self, job: Job) -> None:
        """The time it takes, and what may happen meanwhile."""
        plan, rng = self.world.plan, self.world.rng
        seconds = rng.expovariate(1 / plan.work)
        if rng.random() < plan.faults.get("straggle", 0.0):
            seconds *= rng.uniform(5, 60)
        if rng.random() < self.world.active("hang"):
            self.world.note("hang", HERE.get(), job.id)
            await asyncio.Event().wait()
        await asyncio.sleep(seconds)
        if rng.random() < self.world.active("fail"):
            self.world.note("fail", HERE.get(), job.id)
            raise ConnectionError("something went wrong")

    def _die(self, job_id: str) -> None:
        self.dead = True
        process = HERE.get()
        assert process is not None and process.epoch is not None
        self.world.note("poisoned", process, job_id)
        self.world.culprits[process.life, process.epoch] = job_id
        if self.keys.silent:
            self.world.ray.end(process, "it crashed")
            raise Killed
        raise RuntimeError("the engine is dead")


@dataclass(frozen=True)
class Spec:
    """What a config names: builds a model in the world."""

    world: World
    role: str
    label = "SIMULATED"

    def build(self, task: Any, prompt: Any, limits: Any = None) -> Model:
        return Model(self.world)
