"""A proposer that says what it is told to, for scorers that ask a model: what was asked is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from treesearch.types import Chain, Job, Step, chain_seed

Say = Callable[[str, int], str]  # prompt, seed of the vote -> its text


@dataclass(frozen=True)
class Says:
    """`say` a list: its texts in order as the votes on every prompt."""

    say: Any
    label: ClassVar[str | None] = "SAYING"

    def build(self, task: Any, prompt: Any, limits: Any) -> Saying:
        return Saying(self.say, task, limits)


@dataclass
class Saying:
    say: Any
    task: Any
    limits: Any
    asked: list[Job] = field(default_factory=list)
    max_jobs: int = 7
    closed: bool = False

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        self.asked += jobs
        await asyncio.sleep(0)
        return [self._reply(job) for job in jobs]

    def _reply(self, job: Job) -> tuple[Chain, ...] | Exception:
        assert job.until == "answer" and job.n is not None and job.problem.reference is None
        try:
            texts = [self._text(job, i) for i in range(job.first, job.first + job.n)]
        except Exception as error:
            return error
        pieces = [text.partition("\n\n") for text in texts]  # several steps, as from any model
        return tuple(
            (*([Step(head + cut, tokens=2)] if cut else []), Step(tail if cut else head, tokens=1, finish="answer"))
            for head, cut, tail in pieces
        )

    def _text(self, job: Job, i: int) -> str:
        text = self.say[i] if isinstance(self.say, list) else self.say(job.problem.question, chain_seed(job.seed, i))
        if isinstance(text, Exception):
            raise text
        return str(text)

    async def close(self) -> None:
        self.closed = True
