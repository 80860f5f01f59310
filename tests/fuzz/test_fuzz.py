"""Readers of what others wrote, under inputs nobody meant: by seed, and by hypothesis, which makes what it finds small."""

from __future__ import annotations

import random
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.runner import Failed, fuzz, shared_memory
from tests.fuzz.targets import TARGETS, Target

QUICK, FULL, HYPOTHESIS = 100, 10_000, 1000


@pytest.mark.parametrize("name", TARGETS)
def test_some_inputs_of_each_kind_are_borne(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = fuzz(name, max(4, int(QUICK * TARGETS[name].share)), seed=1)
    assert out.outcomes["fine"], "some inputs must be good ones: else only the refusal is tested"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs_of_each_kind_are_borne(name: str) -> None:
    print(f"seed 0, {fuzz(name, int(FULL * TARGETS[name].share), seed=0).line(name)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"math"}))
def test_hypothesis_finds_nothing(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=HYPOTHESIS, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def borne(rng: random.Random) -> None:
        with tempfile.TemporaryDirectory(dir=shared_memory()) as folder, suppress(*target.allowed):
            target.run(target.make(rng), Path(folder))

    borne()


def test_a_failure_is_found_and_can_be_seen_again() -> None:
    def run(made: int, folder: Path) -> None:
        if made % 10 == 3:
            raise KeyError(made)
        if made % 10 == 4:
            raise ValueError(made)

    target = Target(lambda rng: rng.randrange(1000), run, (ValueError,))
    with pytest.raises(Failed, match=r"again: python -m tests.fuzz --target toy --seed 5 --first") as failure:
        fuzz("toy", 1000, seed=5, target=target)
    first = int(str(failure.value).partition("--first ")[2].split()[0])
    with pytest.raises(Failed, match=f"input {first} of seed 5"):
        fuzz("toy", 1, seed=5, first=first, target=target)
    assert fuzz("toy", first, seed=5, target=target).inputs == first


def test_an_input_that_hangs_or_hoards_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from tests.fuzz import runner

    monkeypatch.setattr(runner, "HANG", 0.2)
    with pytest.raises(Failed, match="no end after"):
        fuzz("toy", 1, target=Target(lambda rng: 0, lambda made, folder: time.sleep(10)))
    monkeypatch.setattr(runner, "SLOWEST", -1.0)
    with pytest.raises(Failed, match="took"):
        fuzz("toy", 1, target=Target(lambda rng: 0, lambda made, folder: None))
    monkeypatch.setattr(runner, "SLOWEST", 2.0)
    monkeypatch.setattr(runner, "GROWTH", -1)
    with pytest.raises(Failed, match="memory grew"):
        fuzz("toy", runner.WARM, target=Target(lambda rng: 0, lambda made, folder: None))
