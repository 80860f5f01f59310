"""Reward models of the real classes with random weights: scores equal a direct forward, whatever the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.models import job, save, steps
from treesearch.backends.formats import FORMATS
from treesearch.backends.reward import TransformersORM, TransformersPRM
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt

TASK = load_task("game24")
PATH = steps("6 + 4 = 10 (left: 5 10 10)\n")
CHAINS = (
    steps("10 + 10 = 20 (left: 5 20)\n", "20 + 5 = 25 (left: 25)"),
    steps("10 - 5 = 5 (left: 5 10)\n"),
    steps("10 - 5 = 5 (left: 5 10)\n"),
)


def ask(scorer: Any, items: Sequence[Any]) -> list[Any]:
    async def main() -> list[Any]:
        return [reply for (reply,) in await asyncio.gather(*(scorer.score([item]) for item in items))]

    return asyncio.run(main())


@pytest.fixture(scope="module")
def prm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return TransformersPRM(str(save(tmp_path_factory.mktemp("prm"), "prm"))).build(TASK, Prompt())


def test_step_scores_equal_a_direct_computation(prm: Any) -> None:
    """The text of the convention, tokenised as a whole, read at its `<extra_0>` tokens."""
    (scored,) = ask(prm, [(job(path=PATH), CHAINS)])
    text = (
        "4 5 6 10\n6 + 4 = 10 (left: 5 10 10)<extra_0>10 + 10 = 20 (left: 5 20)<extra_0>20 + 5 = 25 (left: 25)<extra_0>"
    )
    ids = prm.reader.tokenizer(text)["input_ids"]
    at = [k for k, i in enumerate(ids) if i == prm.reader.tokenizer.convert_tokens_to_ids("<extra_0>")]
    with torch.inference_mode():
        direct = prm.model(torch.tensor([ids])).softmax(-1)[0, at, 1].tolist()
    assert scored.scores[0] == pytest.approx(direct[1:], abs=1e-5)
    assert [len(row) for row in scored.scores] == [2, 1, 1]


def test_scores_do_not_depend_on_batch_or_order(prm: Any) -> None:
    items = [(job(path=PATH), CHAINS), (job("1 2 3 4"), CHAINS[1:2]), (job(path=PATH), CHAINS[::-1])]
    together = ask(prm, items)
    apart = [ask(prm, [item])[0] for item in items]
    for a, b in zip(together, apart, strict=True):
        for row_a, row_b in zip(a.scores, b.scores, strict=True):
            assert row_a == pytest.approx(row_b, abs=1e-5)
    assert together[2].scores == together[0].scores[::-1]


def test_equal_chains_are_computed_once(prm: Any) -> None:
    first, other = job("1 2 3 4", path=PATH), job("1 2 3 5", path=PATH)
    once, twice = ask(prm, [(first, CHAINS[:2])])[0], ask(prm, [(other, CHAINS)])[0]
    assert once.tokens == twice.tokens > 0
    assert twice.scores[1] == twice.scores[2]
    again = ask(prm, [(first, CHAINS)])[0]
    assert again.tokens == 0 and again.scores[:2] == once.scores


def test_a_mark_inside_a_step_does_not_add_a_score(prm: Any) -> None:
    (scored,) = ask(prm, [(job(), (steps("6 + <extra_0> 4\n"),))])
    assert [len(row) for row in scored.scores] == [1]


def test_a_chain_longer_than_the_context_is_an_error_value(prm: Any) -> None:
    long, short = ask(prm, [(job("1 " * 300), CHAINS[:1]), (job(), CHAINS[:1])])
    assert isinstance(long, RequestError) and "context of 128" in str(long)
    assert len(short.scores) == 1


def test_nan_scores_are_an_error_value(tmp_path: Path) -> None:
    scorer = TransformersPRM(str(save(tmp_path, "prm"))).build(TASK, Prompt())
    with torch.no_grad():
        scorer.model.score[2].bias.fill_(float("nan"))
    (reply,) = ask(scorer, [(job(), CHAINS[:1])])
    assert isinstance(reply, RequestError) and "nan" in str(reply)


def test_the_qwen_family_reads_a_chat(tmp_path: Path) -> None:
    scorer = TransformersPRM(str(save(tmp_path, "prm", chat=True))).build(TASK, Prompt())
    assert scorer.reader.form is FORMATS["qwen2.5-math-prm"]
    text = scorer.reader.form.begin("2 + 2?", "4", scorer.reader.tokenizer)
    assert text.startswith("<|im_start|>system\nPlease reason step by step") and text.endswith("assistant\n4")


@pytest.mark.parametrize("labels", [1, 2])
def test_a_token_classification_model_is_read_at_the_line_end(tmp_path: Path, labels: int) -> None:
    scorer = TransformersPRM(str(save(tmp_path, "token", num_labels=labels))).build(TASK, Prompt())
    (scored,) = ask(scorer, [(job(), CHAINS[:1])])
    ids = scorer.reader.tokenizer("4 5 6 10\n10 + 10 = 20 (left: 5 20)\n")["input_ids"]
    with torch.inference_mode():
        logits = scorer.model(torch.tensor([ids])).logits[0, -1]
    expected = logits.sigmoid()[0] if labels == 1 else logits.softmax(-1)[1]
    assert scored.scores[0][0] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("labels", [1, 2])
def test_an_outcome_model_gives_one_value_a_chain(tmp_path: Path, labels: int) -> None:
    scorer = TransformersORM(str(save(tmp_path, "sequence", num_labels=labels))).build(TASK, Prompt())
    (scored,) = ask(scorer, [(job(path=PATH), CHAINS)])
    assert [len(row) for row in scored.scores] == [1, 1, 1]
    ids = torch.tensor([scorer.reader.tokenizer("4 5 6 10\n" + PATH[0].text + CHAINS[1][0].text)["input_ids"]])
    with torch.inference_mode():
        logits = scorer.model(ids).logits[0]
    expected = logits[0] if labels == 1 else logits.softmax(-1)[1]
    assert scored.scores[1][0] == pytest.approx(float(expected), abs=1e-4)


def test_a_model_that_is_no_prm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a known PRM"):
        TransformersPRM(str(save(tmp_path, "causal"))).build(TASK, Prompt())
    with pytest.raises(ConfigError, match=r"scorer\.family"):
        TransformersPRM(family="unknown")
