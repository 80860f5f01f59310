"""The fit finds constants that are known, and what is asked of a real engine is what is asked of the virtual one."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.calibration import Spelled, again, drawn, ids_of
from benchmarks.gpu import one_gpu
from benchmarks.gpu.one_gpu import calibrated
from benchmarks.virtual.card import Card
from benchmarks.virtual.constants import Hardware, Law, Model, Serving, Step
from benchmarks.virtual.engine import Request, VirtualEngine
from benchmarks.virtual.fit import Measured, calibrate, predicted
from benchmarks.virtual.loops import virtually
from benchmarks.virtual.twin import LADDER, Batch, Twin, at_once, model_of

CARD = Hardware("made up", 1e12, 1e14, 1e11)
MODEL = Model("made up", 1e9, 2e9, 1e5)
LAW = Law(0.7, 0.4, 2e-3, 5e-6, 1e-4, 3e-9, 0.25, apart=True)
SERVING = Serving(256, blocks=100_000)


def steps(count: int, seed: int = 0) -> list[Step]:
    """Decoding, prompts and shared prompts of many sizes."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        sequences, context = rng.choice([1, 8, 64, 256]), rng.choice([30, 300, 900])
        live, shared = sequences * context, rng.choice([0, sequences * context * 9 // 10])
        if rng.random() < 0.5:
            found.append(Step(sequences, sequences, live, 0, 0, live - shared))
        else:
            found.append(Step(sequences, live, live, sequences, live * context // 2, live - shared))
    return found


def measured(law: Law, count: int = 60, noise: float = 0.0) -> list[Measured]:
    rng = random.Random(1)
    return [
        Measured([step], sum(law.seconds(step, MODEL, CARD)) * rng.uniform(1 - noise, 1 + noise))
        for step in steps(count)
    ]


def near(law: Law, other: Law, share: float) -> None:
    for name in ("read", "reached", "base", "each", "start", "pair", "again"):
        assert getattr(law, name) == pytest.approx(getattr(other, name), rel=share), name


def test_the_constants_are_found_again() -> None:
    near(calibrate(measured(LAW), MODEL, CARD), LAW, 1e-3)


def test_what_a_law_says_is_found_within_the_noise() -> None:
    found = calibrate(measured(LAW, 90, noise=0.1), MODEL, CARD)
    errors = [predicted(m, found, MODEL, CARD) / predicted(m, LAW, MODEL, CARD) - 1 for m in measured(LAW)]
    assert max(map(abs, errors)) < 0.05


def test_a_term_that_costs_nothing_is_0_and_none_is_negative() -> None:
    law = calibrate(measured(replace(LAW, start=0.0, pair=0.0), noise=0.02), MODEL, CARD)
    assert min(law.base, law.each, law.start, law.pair, law.again) >= 0
    assert law.pair < LAW.pair / 10


def test_fewer_measurements_than_constants_are_refused() -> None:
    with pytest.raises(ValueError, match="6 measurements: the law has 7 constants"):
        calibrate(measured(LAW, 6), MODEL, CARD)


def test_a_ladder_of_a_virtual_engine_gives_its_law() -> None:
    twin = Twin(MODEL, SERVING, CARD, LAW)
    seconds = [twin.seconds(at_once(batch.requests(k))) for k, batch in enumerate(LADDER)]
    near(Twin(MODEL, SERVING, CARD).law_of(seconds), LAW, 0.06)  # a first step begins before all have asked


def test_one_gpu_compares_what_was_not_cut_by_the_law_of_its_ladder() -> None:
    known, fresh = Twin(MODEL, SERVING, CARD, LAW), Twin(MODEL, SERVING, CARD)
    climbed = [known.seconds(at_once(batch.requests(k))) for k, batch in enumerate(LADDER)]
    parts = {"replay": drawn(4), "plain": drawn(40)}
    took = known.seconds(at_once(parts["plain"]))
    rows = [{"part": "search", "seconds": 1.0, "cut": False}, {"part": "replay", "seconds": 1.0, "cut": True},
            {"part": "plain", "seconds": took, "cut": False}]  # fmt: skip
    found = calibrated(rows, fresh, climbed, parts)
    assert list(found["predictions"]) == ["plain"]
    assert abs(found["predictions"]["plain"]["error"]) < 0.02
    assert calibrated(rows, fresh, climbed[:-1], parts) == {}


def test_the_ladder_of_one_gpu_is_climbed_twice_and_the_second_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = VirtualEngine(MODEL, SERVING, CARD, LAW, Card()), []

    async def reset_prefix_cache() -> None:
        engine.cache.clear()

    def ask(request: Request) -> asyncio.Future[int]:
        asked.append(request)
        return engine.submit(request)

    monkeypatch.setattr(one_gpu, "real", lambda _: ask)
    proposer = SimpleNamespace(engine=SimpleNamespace(llm=SimpleNamespace(reset_prefix_cache=reset_prefix_cache)))
    climbed = virtually(lambda: one_gpu.ladder(proposer))
    assert len(asked) == 2 * sum(batch.sequences for batch in LADDER)
    assert climbed == pytest.approx([Twin(MODEL, SERVING, CARD, LAW).seconds(at_once(b.requests(0))) for b in LADDER])
    monkeypatch.setattr(one_gpu, "LADDER_MOST", 1.5 * sum(climbed))
    assert len(virtually(lambda: one_gpu.ladder(proposer))) < len(LADDER)


def test_the_steps_of_a_batch() -> None:
    one, two, last = Twin(MODEL, SERVING, CARD).steps(Batch(2, 10, 3).requests("b"))
    assert one == Step(2, 20, 20, 2, 2 * 50, 20)
    assert two == Step(2, 2, 22, 0, 0, 22)
    assert last == Step(2, 2, 24, 0, 0, 24)


def test_what_siblings_share_is_distinct_once() -> None:
    first, second = Twin(MODEL, SERVING, CARD).steps(Batch(4, 33, 2, shared=True).requests("b"))
    assert (first.tokens, first.pairs) == (33 + 3 * 1, 33 * 33 // 2 + 3 * ((2 * 32 + 1) // 2))
    assert second.context == 4 * 34
    assert second.distinct == (2 + 4) * 16  # two whole blocks in common, one each


def test_a_law_without_new_terms_is_the_one_it_was() -> None:
    step = Step(4, 4, 400, 4, 1000, 100)
    assert Law(1.0, 1.0, 0.5, 0.25).seconds(step, Model("m", 1.0, 1e12, 1e10), CARD) == (5.0, 1.5)
    assert Law(1.0, 1.0, 0.5, 0.25, apart=True, again=0.0).seconds(step, Model("m", 5e13, 1e12, 1e10), CARD) == (
        5.0,
        1.5,
    )


def test_what_takes_too_long_to_predict_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        Twin(MODEL, SERVING, CARD, replace(LAW, base=1.0)).seconds(at_once(Batch(1, 8, 9).requests("b")), most=-1.0)


def test_a_replay_asks_for_the_ids_that_were_seen_and_shares_their_prefixes() -> None:
    ids = tuple(range(30))
    trace = [(ids[:10], 5), (ids[:20], 5), ((*ids[:15], 7, 7, 7, 7, 7), 5)]
    requests = again(trace, prompt=10, step=5)
    assert [tuple(i for part in r.given for i in ids_of(part)) for r in requests] == [seen for seen, _ in trace]
    first, second, third = (request.given for request in requests)
    assert second[:1] == first
    assert second[:2] == third[:2]
    assert second[2] != third[2]
    assert [sum(n for _, n in r.sampled) for r in requests] == [5, 5, 5]
    assert first == ((Spelled(ids[:10]), 10),)


def test_ids_are_drawn_by_the_name_of_a_part() -> None:
    (one,), (other,) = (request.given for request in drawn(2))
    assert ids_of(one) == ids_of(one)
    assert len(ids_of(one)) == one[1]
    assert ids_of(one)[:8] != ids_of(other)[:8]
    assert len(drawn(2)[0].sampled) == 2


def test_a_model_of_random_weights_has_the_parameters_that_torch_counts() -> None:
    model = model_of("small", 4)
    assert model.parameters == 4 * (4 * 256 * 256 + 3 * 256 * 512)
    assert model.weights == 4 * (model.parameters + 256 * 1000)
    assert model.kv == 4 * 2 * 4 * 256
    assert model_of("0.5B", 2).kv == 2 * 2 * 24 * 128
    assert np.isclose(
        model_of("0.5B", 2).parameters, 0.358e9, rtol=0.01
    )  # its model card: 0.36 billion without embeddings
