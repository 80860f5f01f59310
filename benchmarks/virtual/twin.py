"""SIMULATED engines set up as real ones: the same requests, asked of either, and how long both take.

A workload is a coroutine that asks; whom it asks, a vLLM engine or a virtual one, it does not know.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.random_models import SHAPES
from benchmarks.virtual.card import Card
from benchmarks.virtual.constants import Hardware, Law, Model, Serving, Step
from benchmarks.virtual.engine import Request, VirtualEngine
from benchmarks.virtual.fit import Measured, calibrate
from benchmarks.virtual.loops import virtually

Ask = Callable[[Request], Awaitable[Any]]
Workload = Callable[[Ask], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Batch:
    """Equal requests, asked at once: how many, tokens of each prompt, tokens to sample; `shared`: all of one prompt."""

    sequences: int
    prompt: int
    sampled: int
    shared: bool = False

    def requests(self, name: object) -> list[Request]:
        """Prompts that none of another name begins with."""
        return [
            Request((((name, 0 if self.shared else k), self.prompt),), ((("said", name, k), self.sampled),))
            for k in range(self.sequences)
        ]


# sizes of batches, lengths of prompts and of contexts part what a step costs by sequence, by token and by KV
LADDER = [
    Batch(1, 32, 60), Batch(4, 32, 60), Batch(16, 32, 60), Batch(64, 32, 100), Batch(256, 32, 12), Batch(32, 256, 40),
    Batch(16, 900, 40), Batch(1, 512, 1), Batch(256, 8, 1), Batch(64, 64, 1), Batch(16, 512, 1), Batch(8, 1000, 1),
    Batch(64, 512, 40, shared=True),
]  # fmt: skip


def at_once(requests: Sequence[Request]) -> Workload:
    async def work(ask: Ask) -> None:
        await asyncio.gather(*map(ask, requests))

    return work


async def timed(work: Workload, ask: Ask) -> float:
    """Seconds by the loop's clock, which may be a virtual one."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    await work(ask)
    return clock() - begun


def model_of(shape: str, width: int) -> Model:
    """What a model of SHAPES computes and keeps, with `width` bytes a number.

    The head is read every step, but its arithmetic is for sampled tokens alone: the law has it in `each`.
    """
    given = SHAPES[shape]
    hidden, layers = given["hidden_size"], given["num_hidden_layers"]
    keys = given["num_key_value_heads"] * hidden // given["num_attention_heads"]
    body = layers * (2 * hidden * (hidden + keys) + 3 * hidden * given["intermediate_size"])
    head = hidden * len(given["letters"]) ** given["length"]
    return Model(shape, body, width * (body + head), width * 2 * layers * keys)


@dataclass(frozen=True)
class Even:
    """Lengths of what random weights write under limits, in place of `lengths`."""

    prompt: int
    step: int
    depth: int

    def step_tokens(self, rng: random.Random) -> int:
        return self.step

    def prompt_tokens(self, rng: random.Random) -> int:
        return self.prompt

    def is_last(self, rng: random.Random, steps: int) -> bool:
        return steps >= self.depth


@dataclass(frozen=True)
class Twin:
    """A virtual engine as a real one is set up."""

    model: Model
    serving: Serving
    hardware: Hardware
    law: Law = Law()

    def engine(self) -> VirtualEngine:
        """Alone on its card."""
        return VirtualEngine(self.model, self.serving, self.hardware, self.law, Card())

    def seconds(self, work: Workload, most: float = float("inf")) -> float:
        """What a workload takes. Raises TimeoutError if to find out takes more than `most` seconds of the clock."""
        end = time.monotonic() + most

        async def main() -> float:
            task = asyncio.create_task(timed(work, self.engine().submit))
            while not task.done():
                await asyncio.wait((task,), timeout=1.0)  # of the virtual clock
                if time.monotonic() > end:
                    raise TimeoutError
            return task.result()

        return float(virtually(main))

    def steps(self, requests: Sequence[Request]) -> list[Step]:
        """Those that it takes for requests at once."""
        engine, found = self.engine(), list[Step]()
        law = engine.step_seconds

        def noting(step: Step) -> tuple[float, float]:
            found.append(step)
            return law(step)

        engine.step_seconds = noting  # type: ignore[method-assign]
        virtually(lambda: timed(at_once(requests), engine.submit))
        return found

    def measured(self, seconds: Sequence[float]) -> list[Measured]:
        """The steps of LADDER's batches with the seconds that the real engine took."""
        return [
            Measured(self.steps(batch.requests(k)), took)
            for k, (batch, took) in enumerate(zip(LADDER, seconds, strict=True))
        ]

    def law_of(self, seconds: Sequence[float]) -> Law:
        """The law of an engine that took so long for LADDER's batches."""
        return calibrate(self.measured(seconds), self.model, self.hardware)
