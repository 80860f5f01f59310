"""A uniform random legal proposer for number puzzles: what search does without a learned proposer. Knows the rules."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from treesearch.backends.base import Limits
from treesearch.errors import ConfigError, RequestError, TreesearchError
from treesearch.tasks.arithmetic import Move, Numbers, moves
from treesearch.tasks.base import Prompt, Task
from treesearch.tasks.countdown import Countdown
from treesearch.types import Chain, Job, Step, chain_seed


@dataclass(frozen=True)
class Legal:
    """Proposer `legal`: each step one of the legal moves in whole numbers up to `largest`, all equally likely."""

    largest: int = 99
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> LegalProposer:
        """Raises ConfigError for a task without numbers."""
        if not isinstance(task, Countdown):
            raise ConfigError(
                f"proposer.type = 'legal': task {task.name!r} has no numbers to combine; use game24 or countdown"
            )
        return LegalProposer(task, self.largest)


class LegalProposer:
    """Steps as the bundled proposer writes them; tokens counted as its tokenizer would."""

    max_jobs = 256

    def __init__(self, task: Countdown, largest: int) -> None:
        self.task, self.largest = task, largest

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        return [self._chains(job) for job in jobs]

    def _chains(self, job: Job) -> tuple[Chain, ...] | Exception:
        try:
            return self._drawn(job)
        except TreesearchError as error:  # one bad question must not fail the jobs beside it
            return error

    def _drawn(self, job: Job) -> tuple[Chain, ...]:
        if job.until == "revision":
            raise RequestError(
                "random legal moves cannot revise an answer; use a search that does not ask for revisions"
            )
        numbers = tuple(sorted(self.task.puzzle(job.problem.question)[0]))
        for step in job.path:
            known = {render(move): move.left for move in moves(numbers, self.largest)}
            if step.text.strip() not in known:
                raise RequestError(f"step {step.text!r} is no legal move from {numbers}")
            numbers = known[step.text.strip()]
        if job.n is None:
            options = self._options(numbers)
            return tuple((_step(move, len(options)),) for move in options)
        return tuple(self._chain(numbers, job, i) for i in range(job.first, job.first + job.n))

    def _chain(self, numbers: Numbers, job: Job, i: int) -> Chain:
        rng, chain = random.Random(chain_seed(job.seed, i)), list[Step]()
        while not chain or (job.until == "answer" and chain[-1].finish == "step"):
            options = self._options(numbers)
            move = rng.choice(options)
            chain.append(_step(move, len(options)))
            numbers = move.left
        return tuple(chain)

    def _options(self, numbers: Numbers) -> list[Move]:
        options = moves(numbers, self.largest)
        if not options:
            raise RequestError(f"{numbers} has no legal move in whole numbers up to {self.largest}")
        return options

    async def close(self) -> None: ...


def render(move: Move) -> str:
    """`13 - 9 = 4 (left: 4 4 10)`"""
    return f"{move.a} {move.op} {move.b} = {move.result} (left: {' '.join(map(str, move.left))})"


def _step(move: Move, options: int) -> Step:
    ended = len(move.left) == 1
    text = render(move) + ("" if ended else "\n")
    return Step(text, tokens=8 + len(move.left), logprob=-math.log(options), finish="answer" if ended else "step")
