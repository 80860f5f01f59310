"""What a run shows while it runs: a live line on a terminal, a plain line every 10 s elsewhere. Knows no search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from treesearch.terminal import shown

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 10.0  # seconds between two plain lines


class Counters(Protocol):
    """The live counters of an engine; None: unknown."""

    expansions: int
    generated: int | None


class Progress:
    """Counts and says nothing: the base of the two that speak, and what a library call uses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.total: int | None = 0
        self.done = self.correct = self.before = 0
        self.labels: list[str] = []
        self.started = clock()
        self.stats: Counters | None = None

    def start(self, total: int | None, done: int, correct: int, labels: list[str]) -> None:
        """A run begins with `done` of `total` problems known from before; None: nobody knows yet how many there are."""
        self.total, self.done, self.correct, self.before, self.labels = total, done, correct, done, labels
        self.started = self.clock()

    def answered(self, row: Mapping[str, Any]) -> None:
        """One more line of results.jsonl."""
        self.done += 1
        self.correct += row["correct"] is True

    def tick(self, stats: Counters) -> None:
        """Called twice a second."""
        self.stats = stats

    def note(self, text: str) -> None:
        """Something the user should know about."""

    def close(self) -> None:
        """The run ended, by whatever reason."""

    def line(self) -> str:
        """The state in one line."""
        spent = max(self.clock() - self.started, 1e-9)
        parts = [f"{self.done} problems" if self.total is None else f"{self.done}/{self.total} problems"]
        parts.append(f"accuracy {100 * self.correct / self.done:.1f} %" if self.done else "accuracy -")
        if self.stats is not None:
            parts.append(f"{self.stats.expansions / spent:,.0f} expansions/s")
            tokens = self.stats.generated
            parts.append("? tokens/s" if tokens is None else f"{tokens / spent:,.0f} tokens/s")
        fresh = self.done - self.before
        left = "time left unknown"
        if fresh and self.total is not None:
            left = f"{_span(spent / fresh * (self.total - self.done))} left"
        return " | ".join([*self.labels, *parts, left])


class PlainProgress(Progress):
    """A line every 10 s, for logs."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.say = say
        self._said = self.started

    def tick(self, stats: Counters) -> None:
        super().tick(stats)
        if self.clock() - self._said >= EVERY:
            self._said = self.clock()
            self.say(self.line())

    def note(self, text: str) -> None:
        self.say(shown(text))


class LiveProgress(Progress):
    """One line that is redrawn in place. By `tick`, not by a thread: counters are read where they are written."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def start(self, total: int | None, done: int, correct: int, labels: list[str]) -> None:
        super().start(total, done, correct, labels)
        self._live.start()

    def tick(self, stats: Counters) -> None:
        from rich.text import Text

        super().tick(stats)
        self._live.update(Text(self.line()), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(shown(text), markup=False, highlight=False)

    def close(self) -> None:
        self._live.stop()


def for_console(console: Console) -> Progress:
    """Live on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        return LiveProgress(console)
    return PlainProgress(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
