"""Runs a target over many inputs by one seed: nothing crashes, nothing hangs, memory stays flat. Input k is made anew from
(seed, target, k), so a failure is replayed by its number alone."""

from __future__ import annotations

import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS, Target

SLOWEST = 2.0  # seconds for one input
HANG = 30.0  # seconds after which it is interrupted
GROWTH = 100  # MB
WARM = 200  # inputs after which memory is looked at first


class Failed(AssertionError):
    """An input that was not borne; says how to see it again."""


@dataclass
class Outcome:
    """What came of a target's inputs."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    growth: float = 0.0  # MB of resident memory at its highest
    outcomes: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Outcome) -> Outcome:
        """Both together."""
        return Outcome(
            self.inputs + other.inputs, self.seconds + other.seconds, max(self.slowest, other.slowest),
            self.growth + other.growth, self.outcomes + other.outcomes,
        )  # fmt: skip

    def line(self, name: str) -> str:
        """For people."""
        said = ", ".join(f"{kind} {count}" for kind, count in self.outcomes.most_common())
        return (
            f"{name}: {self.inputs} inputs in {self.seconds:.0f} s, slowest {self.slowest:.3f} s, memory +{self.growth:.0f} MB "
            f"({said})"
        )


def fuzz(name: str, count: int, seed: int = 0, first: int = 0, target: Target | None = None) -> Outcome:
    """Raises Failed at the first input that is not borne."""
    target, out, base = target or TARGETS[name], Outcome(), 0.0
    target.warm()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        for k in range(first, first + count):
            made = target.make(random.Random(f"{seed}/{name}/{k}"))
            spent = time.process_time(), time.monotonic()
            try:
                with limited(HANG):
                    target.run(made, Path(folder))
                kind = "fine"
            except target.allowed as error:
                kind = type(error).__name__
            except BaseException as error:
                raise Failed(
                    f"{name}, input {k} of seed {seed}: {error!r}; again: python -m tests.fuzz --target {name} --seed {seed} "
                    f"--first {k} --count 1; it is {made!r:.2000}"
                ) from error
            out.outcomes[kind] += 1
            # of this process's own time: on a busy machine the clock says little
            used = time.process_time() - spent[0] if name != "math" else time.monotonic() - spent[1]
            out.slowest = max(out.slowest, used)
            if used > SLOWEST and name != "math":
                raise Failed(f"{name}, input {k} of seed {seed}: took {used:.1f} s; it is {made!r:.2000}")
            out.inputs += 1
            if out.inputs == WARM:
                base = memory()
    out.seconds = time.monotonic() - began
    out.growth = memory() - base if base else 0.0
    if out.growth > GROWTH:
        raise Failed(f"{name}: memory grew by {out.growth:.0f} MB over {count} inputs")
    return out


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def memory() -> float:
    """Highest resident memory so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def shared_memory() -> str | None:
    """Where small files cost no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
