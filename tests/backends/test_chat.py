"""Chat models of four styles: their templates, their ends of turn, and turns that go on token by token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.backends.chat_models import (
    DEAF,
    MISTRAL,
    QWEN3,
    R1,
    STYLES,
    TURN_ENDS,
    llama3,
    mistral,
    qwen,
    save,
    tokenizer_of,
)
from tests.backends.models import job
from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.causal import CausalProposer, ends_of
from treesearch.backends.chat import chat_of, turn_ends
from treesearch.backends.transformers import Transformers, TransformersProposer
from treesearch.backends.vllm import VLLM, describe
from treesearch.errors import ConfigError
from treesearch.tasks import TASKS, Prompt
from treesearch.types import GREEDY, Chain, Sampling

MATH, PLAIN = TASKS["math"], TASKS["plain"]
LIMITS = Limits(step_tokens=9, path_tokens=60, depth=8)
QUESTION = "What is 4 + 5? It's 9."


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proposer(style: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersProposer]:
    folder = save(tmp_path_factory.mktemp(style), style)
    built = Transformers(str(folder)).build(PLAIN, Prompt("chat", system="Be brief."), LIMITS)
    yield built
    asyncio.run(built.close())


def causal(tokenizer: Any, prompt: Prompt, task: Any = PLAIN, **kwargs: Any) -> CausalProposer:
    """The text part of a proposer, without a model."""
    return CausalProposer(tokenizer, task, prompt, LIMITS, context=512, size=len(tokenizer),
                          ends=ends_of(tokenizer, None), chat_template_kwargs=kwargs)  # fmt: skip


def propose(
    proposer: TransformersProposer, *, until: str = "step", path: Chain = (), **given: Any
) -> tuple[Chain, ...]:
    async def main() -> Any:
        return await proposer.propose([job(QUESTION, until=until, path=path, **given)])

    (chains,) = asyncio.run(main())
    if isinstance(chains, Exception):
        raise chains
    return chains  # type: ignore[no-any-return]


@pytest.fixture
def seen(proposer: TransformersProposer) -> Iterator[list[list[int]]]:
    """The ids of each prompt that the model itself was given."""
    prompts: list[list[int]] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("past_key_values") is None:
            rows = zip(kwargs["input_ids"].tolist(), kwargs["attention_mask"].tolist(), strict=True)
            prompts.extend([i for i, on in zip(ids, mask, strict=True) if on] for ids, mask in rows)

    hook = proposer.model.register_forward_pre_hook(look, with_kwargs=True)
    yield prompts
    hook.remove()


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What any tokenizer is asked to tokenise."""
    calls: list[Any] = []
    for name in ("__call__", "encode", "tokenize"):

        def count(
            self: Any, text: Any, *args: Any, was: Any = getattr(PreTrainedTokenizerBase, name), **kw: Any
        ) -> Any:
            calls.append(text)
            return was(self, text, *args, **kw)

        monkeypatch.setattr(PreTrainedTokenizerBase, name, count)
    return calls


def test_the_model_reads_the_prompt_and_the_ids_of_the_steps_and_nothing_is_tokenised_again(
    proposer: TransformersProposer, seen: list[list[int]], tokenised: list[Any]
) -> None:
    prompt = list(proposer.prompt_ids(QUESTION))
    assert len(tokenised) == 1
    path: Chain = ()
    for _ in range(8):
        chains = propose(proposer, n=3, path=path)
        assert seen[-1] == prompt + [i for step in path for i in step.ids]
        going_on = [chain for chain in chains if chain[-1].finish == "step"]
        if not going_on:
            break
        path = (*path, *going_on[0])
    assert len(path) >= 4 and len(tokenised) == 1


def test_step_by_step_is_at_once_and_its_texts_are_the_decode(proposer: TransformersProposer) -> None:
    (whole,) = propose(proposer, n=1, until="answer", sampling=GREEDY)
    path: Chain = ()
    while not path or path[-1].finish == "step":
        ((step,),) = propose(proposer, n=1, path=path, sampling=GREEDY)
        path = (*path, step)
    assert [(s.ids, s.text, s.finish) for s in path] == [(s.ids, s.text, s.finish) for s in whole] and len(path) > 1
    text = proposer.tokenizer.decode([i for s in path for i in s.ids], clean_up_tokenization_spaces=False)
    assert "".join(step.text for step in path) == text


def test_temperatures_are_cycled_over_the_chains(proposer: TransformersProposer) -> None:
    mixed = propose(proposer, n=4, sampling=Sampling((0.0, 1.5)))
    ((greedy,),) = propose(proposer, n=1, sampling=GREEDY)
    assert mixed[0][0].ids == mixed[2][0].ids == greedy.ids
    hot = propose(proposer, n=4, sampling=Sampling(1.5))
    assert [mixed[i][0].ids for i in (1, 3)] == [hot[i][0].ids for i in (1, 3)]


def test_a_prompt_is_what_transformers_itself_makes_of_the_messages(proposer: TransformersProposer, style: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    if style == "mistral":  # it refuses the role
        messages = [{"role": "user", "content": f"Be brief.\n\n{QUESTION}"}]
    tokenizer = proposer.tokenizer
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert proposer.prompt_ids(QUESTION) == ids
    assert tokenizer.bos_token_id is None or ids.count(tokenizer.bos_token_id) == 1


def test_the_end_of_a_turn_ends_a_chain_though_no_config_names_it(proposer: TransformersProposer, style: str) -> None:
    end = proposer.tokenizer.convert_tokens_to_ids(TURN_ENDS[style])
    assert proposer.model.generation_config.eos_token_id == proposer.tokenizer.eos_token_id
    assert {end, proposer.tokenizer.eos_token_id} == proposer.splitter.end_ids
    (piece,) = proposer.splitter.split([5, end, 6], 0, 0, 100)
    assert piece.finish == "answer" and piece.ids == (5,)


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }} says: {{ raise_exception('no') }}",
                                      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"])  # fmt: skip
def test_a_template_that_shows_no_end_of_turn_adds_none(template: str | None) -> None:
    tokenizer = qwen()
    tokenizer.chat_template = template
    assert turn_ends(tokenizer) == [] and ends_of(tokenizer, None) == [tokenizer.eos_token_id]


# System prompts, template files, BOS


@pytest.mark.parametrize(("tokenizer", "says"), [
    (qwen(), "<|im_start|>system\nBrief!<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"),
    (llama3(), "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBrief!<|eot_id|><|start_header_id|>user"
               "<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    (mistral(), "<s>[INST] Brief!\n\nq [/INST]"),  # refuses the role
    (qwen(DEAF), "<|im_start|>user\nBrief!\n\nq<|im_end|>\n<|im_start|>assistant\n"),  # would leave it out without a word
], ids=["chatml", "llama3", "mistral", "deaf"])  # fmt: skip
def test_a_system_prompt_that_a_template_does_not_take_stands_before_the_user_s_message(
    tokenizer: Any, says: str
) -> None:
    assert causal(tokenizer, Prompt("chat", system="Brief!")).prompt_text("q") == says
    without = causal(tokenizer, Prompt("chat", system="")).prompt_text("q")
    assert "Brief!" not in without and without == causal(tokenizer, Prompt("chat")).prompt_text("q")


def test_a_task_s_own_system_prompt_is_used_unless_it_is_set(task: Any = MATH) -> None:
    assert r"\boxed" in causal(mistral(), Prompt("chat"), task).prompt_text("q")
    assert r"\boxed" not in causal(mistral(), Prompt("chat", system=""), task).prompt_text("q")


def test_a_template_from_a_file(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = save(tmp_path_factory.mktemp("own"), "mistral")
    (tmp_path / "own.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    built = Transformers(str(folder), chat_template=str(tmp_path / "own.jinja")).build(PLAIN, Prompt("chat"), LIMITS)
    assert built.prompt_text("q") == "<s>user: q\n"
    with pytest.raises(ConfigError, match=r"chat_template '/no/such\.jinja' cannot be read"):
        Transformers(str(folder), chat_template="/no/such.jinja").build(PLAIN, Prompt("chat"), LIMITS)
    (tmp_path / "bad.jinja").write_text("{% for m in %}")
    with pytest.raises(ConfigError, match="the chat template cannot be used"):
        Transformers(str(folder), chat_template=str(tmp_path / "bad.jinja")).build(PLAIN, Prompt("chat"), LIMITS)


def test_vllm_is_told_the_same_template_and_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_engine, "installed", lambda: "0.32.0")
    monkeypatch.setattr(vllm_engine, "quiet", lambda: None)
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}")
    spec = VLLM(str(save(tmp_path / "model", "qwen2")))
    model, own = describe(spec, "proposer"), describe(spec, "proposer", str(tmp_path / "own.jinja"))
    assert model.tokenizer.convert_ids_to_tokens(model.ends) == ["<|endoftext|>", "<|im_end|>"]
    assert own.tokenizer.convert_ids_to_tokens(own.ends) == ["<|endoftext|>"]


def test_a_model_without_a_template_is_refused_when_it_is_built() -> None:
    with pytest.raises(ConfigError, match="this one has none"):
        causal(qwen(None), Prompt("chat"))  # type: ignore[arg-type]
    assert chat_of(qwen(None)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [Prompt("chat"), Prompt("direct"), Prompt(template="<s>{question}")])
def test_a_text_begins_once(prompt: Prompt) -> None:
    """The template's BOS, the tokenizer's, or both of a template that the user wrote."""
    proposer = causal(mistral(), prompt)
    assert proposer.prompt_ids("q").count(1) == 1 and proposer.prompt_ids("q")[0] == 1


def test_the_template_s_switches_are_the_user_s() -> None:
    on, off = (
        causal(qwen(QWEN3, True), Prompt("chat")),
        causal(qwen(QWEN3, True), Prompt("chat"), enable_thinking=False),
    )
    assert off.prompt_text("q") == on.prompt_text("q") + "<think>\n\n</think>\n\n"
    with pytest.raises(ConfigError, match="closes the thought itself"):
        causal(qwen(QWEN3, True), Prompt("chat", thinking=True), enable_thinking=False)
    with pytest.raises(ConfigError, match=r"opens a thought .* set prompt\.thinking"):
        causal(qwen(R1, True), Prompt("chat"))
    assert causal(qwen(R1, True), Prompt("chat", thinking=True)).prompt_text("q").endswith("assistant\n<think>\n")
    assert causal(qwen(R1, True), Prompt("chat_think")).prompt_text("q").count("<think>\n") == 1
    assert causal(mistral(MISTRAL), Prompt("chat_think")).prompt_text("q").endswith("q [/INST]<think>\n")


def test_the_separator_of_a_prompt_or_of_thoughts_comes_before_the_task_s() -> None:
    found = [causal(qwen(), p).splitter.separator for p in (
        Prompt("chat"), Prompt("chat", thinking=True), Prompt("think"), Prompt("think", separator="\n"), Prompt(separator=". "),
    )]  # fmt: skip
    assert found == ["\n", "\n\n", "\n\n", "\n", ". "]
    with pytest.raises(ConfigError, match="separator '---' of steps"):
        causal(qwen(), Prompt(separator="---"))


def test_a_vocabulary_is_the_tokenizer_s_in_every_style(style: str) -> None:
    assert len(causal(tokenizer_of(style), Prompt()).splitter.holds) == len(tokenizer_of(style))
