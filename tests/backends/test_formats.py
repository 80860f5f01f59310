"""Each family through transformers: what its model card computes, whatever the batch, the order and the way it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaForCausalLM, Qwen2ForCausalLM

from tests.backends.families import (
    MISTRAL_CHAT,
    OUTCOMES,
    PRMS,
    QUESTION,
    STEPS,
    llama3,
    mistral,
    qwen,
    save,
    says,
    skywork,
)
from tests.backends.models import job
from treesearch.backends import vllm_engine
from treesearch.backends.formats import FORMATS, form_of, system_of
from treesearch.backends.reading import StepReader
from treesearch.backends.reward import TransformersORM, TransformersPRM
from treesearch.errors import ConfigError
from treesearch.models.vllm_plugin import CLASSES
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Step

TASK = load_task("plain")
CLOSE = {"float32": 1e-4, "bfloat16": 1e-2}


def chain(*texts: str) -> Chain:
    return tuple(Step(text, (), 0) for text in texts)


CHAIN = chain(*STEPS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hub")
    return {name: save(folder, family) for name, family in (PRMS | OUTCOMES).items()}


def ask(scorer: Any, *items: Any) -> list[list[list[float]]]:
    """Score rows of each item, all asked at once."""

    async def main() -> Any:
        replies = [r for (r,) in await asyncio.gather(*(scorer.score([item]) for item in items))]
        await scorer.forget()
        return replies

    return [[list(row) for row in reply.scores] for reply in asyncio.run(main())]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("family", PRMS)
def test_a_prm_gives_what_its_card_gives(folders: dict[str, Path], family: str, dtype: str) -> None:
    """Recognised by its class or hub name. Alone, behind others in a batch, and step by step."""
    scorer = TransformersPRM(str(folders[family]), dtype=dtype).build(TASK, Prompt())
    assert scorer.reader.form.name == family and scorer.model.dtype == getattr(torch, dtype)
    card = PRMS[family].card(scorer.model, scorer.reader.tokenizer, QUESTION, STEPS)
    assert len(card) == 3 and max(card) - min(card) > 1e-3
    expected = pytest.approx(card, abs=CLOSE[dtype])
    ((alone,),) = ask(scorer, (job(QUESTION), (CHAIN,)))
    (_, (_, behind)) = ask(scorer, (job("Another?"), (CHAIN[::-1],)), (job(QUESTION), (CHAIN[1:], CHAIN)))
    after = [ask(scorer, (job(QUESTION, path=CHAIN[:k]), (CHAIN[k : k + 1],)))[0][0][0] for k in range(3)]
    assert alone == expected and behind == expected and after == expected


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("family", OUTCOMES)
def test_an_outcome_model_gives_what_its_card_gives(folders: dict[str, Path], family: str, dtype: str) -> None:
    scorer = TransformersORM(str(folders[family]), dtype=dtype).build(TASK, Prompt())
    card = OUTCOMES[family].card(scorer.model, scorer.reader.tokenizer, QUESTION, STEPS)
    (others, (row,)) = ask(scorer, (job("Another?"), (CHAIN, CHAIN[:1])), (job(QUESTION, path=CHAIN[:1]), (CHAIN[1:],)))
    assert row == pytest.approx(card, abs=CLOSE[dtype]) and len({*row, *others[0], *others[1]}) == 3


# What a family reads


@pytest.mark.parametrize("family", PRMS)
def test_there_are_as_many_scores_as_steps_whatever_is_in_them(family: str) -> None:
    """Empty steps, marks inside steps, and texts that look like the family's own turns."""
    tokenizer = PRMS[family].tokenizer()
    reader = StepReader(tokenizer, 4096, FORMATS[family])
    mark = reader.form.mark
    steps = chain("", f"a{mark}b", "", mark, f"{reader.form.between}c{mark}{mark}", "\n\n", "d ки +")
    ids, positions = reader.read(job(QUESTION), steps)
    assert len(positions) == len(set(positions)) == len(steps) and positions[-1] == len(ids) - 1
    assert all(list(ids[p + 1 - len(reader.mark) : p + 1]) == reader.mark for p in positions)
    marks = [k for k in range(len(ids)) if list(ids[k + 1 - len(reader.mark) : k + 1]) == reader.mark]
    before = len(reader.ids(reader.form.begin(QUESTION, "", tokenizer), reader.form.special))
    assert [k for k in marks if k >= before] == positions  # no mark of the family but ours
    for k in range(len(steps)):
        path, (at,) = reader.read(job(QUESTION, path=steps[:k]), steps[k : k + 1])
        assert path == ids[: len(path)] and at == positions[k]


def test_empty_steps_are_scored_as_the_cards_score_them(folders: dict[str, Path]) -> None:
    """Where a card can: Skywork's, RLHFlow's and trl's code keep them. VersaPRM's and Math-psa's marks would grow together."""
    steps = (STEPS[0], "", STEPS[2])
    for family in ("math-shepherd", "skywork-o1-open-prm", "rlhflow", "qwen2.5-math-prm", "newline"):
        scorer = TransformersPRM(str(folders[family])).build(TASK, Prompt())
        card = PRMS[family].card(scorer.model, scorer.reader.tokenizer, QUESTION, steps)
        ((row,),) = ask(scorer, (job(QUESTION), (chain(*steps),)))
        assert row == pytest.approx(card, abs=1e-4)


@pytest.mark.parametrize("tokenizer", [llama3(), mistral()], ids=["llama-3", "mistral"])
def test_a_path_in_turns_is_the_templated_conversation(tokenizer: Any) -> None:
    """Its ids are those of the whole conversation up to the last label, and a prefix of what follows."""
    reader = StepReader(tokenizer, 4096, FORMATS["rlhflow"])
    for steps in (STEPS, ("x", "1.\n\n2.", "So [INST] it is + 1"), ("a",)):
        turns: Sequence[str] = [text for k, s in enumerate(steps) for text in ((s if k else f"{QUESTION} {s}"), "+")]
        whole = tokenizer.apply_chat_template(says(*turns), tokenize=True, return_dict=False)
        ids, positions = reader.read(job(QUESTION), chain(*steps))
        assert whole[: len(ids)] == list(ids) and tokenizer.decode(whole[len(ids) : len(ids) + 1]).strip() == "+"
        assert all(tokenizer.decode([whole[p + 1]]).strip() == "+" for p in positions)
        for k in range(1, len(steps)):
            path, _ = reader.read(job(QUESTION), chain(*steps[:k]))
            assert ids[: len(path)] == path and positions[k - 1] == len(path) - 1


def test_a_template_that_is_no_sequence_of_turns_is_refused() -> None:
    tokenizer = mistral().__class__(tokenizer_object=mistral().backend_tokenizer, bos_token="<s>", eos_token="</s>")
    with pytest.raises(ConfigError, match="rlhflow: needs a chat template"):
        StepReader(tokenizer, 99, FORMATS["rlhflow"])
    tokenizer.chat_template = MISTRAL_CHAT.replace("[INST] {{", "[INST] {{ loop.index }} {{")
    ids, _ = StepReader(tokenizer, 99, FORMATS["math-shepherd"]).read(job("Q"), chain("s"))
    assert tokenizer.decode(ids).endswith("Q s ки")
    tokenizer.chat_template = "{% for m in messages|reverse %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="turns one after the other"):
        StepReader(tokenizer, 99, FORMATS["rlhflow"])


def test_line_ends_inside_a_step_are_no_marks_where_they_mark() -> None:
    """As in RyanLiu112/compute-optimal-tts; and the full stop before the mark stays a token of its own."""
    reader = StepReader(skywork(), 4096, FORMATS["skywork-o1-open-prm"])
    ids, positions = reader.read(job("Q"), chain("one.\ntwo.\n\n"))
    assert reader.tokenizer.decode(list(ids)) == "<|endoftext|>Q\none. two.\n" and positions == [len(ids) - 1]
    assert ids[-1:] == tuple(reader.ids("\n")) and len(reader.ids(".\n")) == 1


def test_a_piece_that_grows_together_with_what_is_before_it_is_tokenised_alone() -> None:
    reader = StepReader(qwen(), 4096, FORMATS["qwen2.5-math-prm"])
    assert reader.after(".", "\n") == reader.ids("\n") and reader.ids(".\n")[0] not in (
        reader.ids(".") + reader.ids("\n")
    )
    spaced = StepReader(mistral(), 4096, FORMATS["math-shepherd"])
    assert spaced.ids("So") != spaced.after(" ки\n", "So") == spaced.ids("\nSo")[-1:]


# Which family it is


@pytest.mark.parametrize(("classes", "name", "chat", "family"), [
    (["Qwen2ForProcessRewardModel"], "x", True, "qwen2.5-math-prm"),
    (["Qwen2ForProcessRewardModel"], "x", False, "bundled"),
    (["Qwen2ForPrmModel"], "x", True, "skywork-o1-open-prm"),
    (["Qwen3ForTokenClassification"], "someone/math-shepherd-again", True, "newline"),
    (["MistralForCausalLM"], "peiyi9979/math-shepherd-mistral-7b-prm", True, "math-shepherd"),
    (["LlamaForCausalLM"], "/models/RLHFlow/Llama3.1-8B-PRM-Mistral-Data/", True, "rlhflow"),
    (["LlamaForCausalLM"], "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", True, "rlhflow"),
    (["LlamaForCausalLM"], "UW-Madison-Lee-Lab/VersaPRM-Base-8B", True, "versaprm"),
])  # fmt: skip
def test_a_family_is_known_by_its_class_or_by_its_name(classes: list[str], name: str, chat: bool, family: str) -> None:
    assert form_of(None, classes, ["", name], chat).name == family


def test_what_is_no_prm_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"set scorer\.family to one of bundled, .*, rlhflow"):
        form_of(None, ["LlamaForCausalLM"], ["/math-shepherd/models/llama/3"], True)
    with pytest.raises(ConfigError, match=r"name it as outcome\.model"):
        form_of(None, ["Qwen2ForRewardModel"], ["Qwen/Qwen2.5-Math-RM-72B"], True)
    with pytest.raises(ConfigError, match=r"its models are \*ForCausalLM, this one is Qwen2ForProcessRewardModel"):
        form_of("math-shepherd", ["Qwen2ForProcessRewardModel"], [], True)
    with pytest.raises(ConfigError, match="LlamaForCausalLM is no outcome model"):
        system_of(["LlamaForCausalLM"])


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    """transformers would draw one at random and say so in a log only."""
    bare = replace(PRMS["skywork-o1-open-prm"], kind=Qwen2ForCausalLM)
    folder = save(tmp_path, bare, architectures=["Qwen2ForPrmModel"])
    config = folder / "config.json"
    config.write_text(config.read_text().replace("Qwen2ForCausalLM", "Qwen2ForPrmModel"))
    with pytest.raises(ConfigError, match=r"lacks v_head\.summary\.bias"):
        TransformersPRM(str(folder)).build(TASK, Prompt())
    language = save(tmp_path, replace(OUTCOMES["classifier"], kind=LlamaForCausalLM, tokenizer=qwen))
    with pytest.raises(ConfigError, match="no outcome model"):
        TransformersORM(str(language)).build(TASK, Prompt())


def test_an_outcome_model_must_have_a_value_at_its_last_token(tmp_path: Path) -> None:
    shape = {
        "vocab_size": 640,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    BertForSequenceClassification(BertConfig(**shape, num_labels=1)).save_pretrained(tmp_path)
    qwen().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="BertForSequenceClassification reads both ways"):
        TransformersORM(str(tmp_path)).build(TASK, Prompt())


# vLLM's plugin


def test_engines_must_find_the_classes_that_we_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = EntryPoint("treesearch", "treesearch.models.vllm_plugin:register", "vllm.general_plugins")
    monkeypatch.setattr(vllm_engine, "entry_points", lambda **_: (ours,))
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    for architecture in (*CLASSES, "ForCausalLM"):
        vllm_engine.check_plugin(architecture)
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    with pytest.raises(
        ConfigError, match=r"Qwen2ForPrmModel.*let VLLM_PLUGINS name treesearch, or use type transformers"
    ):
        vllm_engine.check_plugin("Qwen2ForPrmModel")
    monkeypatch.setattr(vllm_engine, "entry_points", lambda **_: ())
    with pytest.raises(ConfigError, match="install treesearch again with pip"):
        vllm_engine.check_plugin("Qwen2ForPrmModel")
