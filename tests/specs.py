"""Backend specs around the keyed fakes, put in place of the real registry: whole runs without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from tests.fakes import FakeProposer, FakeScorer
from treesearch import config as configs
from treesearch.algorithms.beam import Beam
from treesearch.algorithms.sample import Sample
from treesearch.types import Chain, Job


class Calls:
    """How often models were built and asked; and after how many asks a run is interrupted."""

    built = asked = 0
    interrupt_after: int | None = None


class CountingProposer(FakeProposer):
    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        Calls.asked += 1
        if Calls.interrupt_after is not None and Calls.asked > Calls.interrupt_after:
            raise KeyboardInterrupt
        return await super().propose(jobs)


@dataclass(frozen=True)
class KeyedProposer:
    failures: float = 0.0
    label: ClassVar[str | None] = "SIMULATED"

    def build(self, task: Any, prompt: Any, limits: Any) -> FakeProposer:
        Calls.built += 1
        return CountingProposer(failures=self.failures)


@dataclass(frozen=True)
class KeyedScorer:
    label: ClassVar[str | None] = None

    def build(self, task: Any, prompt: Any) -> FakeScorer:
        return FakeScorer()


@dataclass(frozen=True)
class NoModel:
    label: ClassVar[str | None] = None

    def build(self, task: Any, prompt: Any) -> None:
        return None


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the fakes for every section of a config."""
    registry: dict[str, dict[str, type]] = {
        "search": {"mcts": Sample, "sample": Sample, "beam": Beam},
        "proposer": {"bundled": KeyedProposer},
        "scorer": {"bundled": KeyedScorer, "none": NoModel},
        "outcome": {"none": NoModel},
    }
    monkeypatch.setattr(configs, "_registry", registry.__getitem__)
    monkeypatch.setattr(Calls, "built", 0)
    monkeypatch.setattr(Calls, "asked", 0)
    monkeypatch.setattr(Calls, "interrupt_after", None)
