"""Which replicas share a card, and what is asked of Ray for them."""

from __future__ import annotations

import pytest

from actors.placement import plan
from treesearch.config import load

MODELS = ("proposer={type: transformers, model: a/b}", "scorer={type: transformers, model: a/c}")


def bundles(*overrides: str) -> list[tuple[list[str], dict[str, float]]]:
    return [([slot.name for slot in b.slots], b.resources()) for b in plan(load(None, [*MODELS, *overrides]))]


def test_whole_cards_are_not_shared() -> None:
    assert bundles("cluster={proposers: 2, scorers: 1}") == [
        (["proposer 0"], {"GPU": 1.0}), (["scorer 0"], {"GPU": 1.0}), (["proposer 1"], {"GPU": 1.0}),
    ]  # fmt: skip


def test_fractions_that_fit_share_a_card_proposer_beside_scorer() -> None:
    split = "gpus_per_proposer: 0.7, gpus_per_scorer: 0.3"
    assert bundles(f"cluster={{proposers: 2, scorers: 2, {split}}}") == [
        (["proposer 0", "scorer 0"], {"GPU": 1.0}), (["proposer 1", "scorer 1"], {"GPU": 1.0}),
    ]  # fmt: skip
    assert len(bundles("cluster={proposers: 3, gpus_per_proposer: 0.6, gpus_per_scorer: 0.5}")) == 4


@pytest.mark.parametrize("override", ["proposer=bundled", "proposer=simulated", "cluster.gpus_per_proposer=0"])
def test_what_cannot_or_shall_not_use_a_gpu_takes_none(override: str) -> None:
    assert bundles(override)[0] == (["proposer 0"], {})


def test_custom_resources_add_up_in_a_shared_place() -> None:
    more = "proposer_resources: {CPU: 4, fast: 1}, scorer_resources: {CPU: 2}"
    found = bundles(f"cluster={{gpus_per_proposer: 0.5, gpus_per_scorer: 0.5, {more}}}")
    assert found == [(["proposer 0", "scorer 0"], {"GPU": 1.0, "CPU": 6.0, "fast": 1.0})]


def test_no_scorer_no_place() -> None:
    assert bundles("scorer=none", "answer.rule=majority") == [(["proposer 0"], {"GPU": 1.0})]


@pytest.mark.parametrize(
    "model, gpus",
    [
        ("{type: vllm, model: a/b}", 1.0),
        ("{type: vllm, model: a/b, tensor_parallel_size: 2}", 2.0),
        ("{type: transformers, model: a/b}", 1.0),
        ("null", 1.0),  # the run's own proposer
        ("bundled", None),
        ("simulated", None),
    ],
)
@pytest.mark.parametrize("judge", ["judge", "generative"])
def test_a_judge_uses_a_gpu_if_the_model_that_it_asks_does(judge: str, model: str, gpus: float | None) -> None:
    _, (names, resources) = bundles(f"scorer={{type: {judge}, model: {model}}}")
    assert names == ["scorer 0"] and resources == ({} if gpus is None else {"GPU": gpus})


def test_a_verifier_is_no_model() -> None:
    assert bundles("scorer={type: verifier, function: 'a:b'}")[1] == (["scorer 0"], {})
