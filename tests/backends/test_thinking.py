"""Models that think: budgets of a thought on both backends, thoughts that were cut, steps by blank lines.

The model is a script: a function of the ids, so every backend must write the same chains.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.decoders import DecodeStream

from tests.backends.chat_models import QWEN3, llama3, qwen
from tests.backends.models import job
from treesearch.algorithms import SEARCHES
from treesearch.backends import vllm, vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.causal import ends_of
from treesearch.backends.transformers import Transformers, TransformersProposer
from treesearch.backends.vllm import VLLM, Model
from treesearch.backends.vllm_engine import Reply
from treesearch.checker import Checker
from treesearch.config import load
from treesearch.engine import Engine, Settings
from treesearch.run import settings
from treesearch.tasks import TASKS, Prompt
from treesearch.tasks.readers import has_answer
from treesearch.types import GREEDY, Chain, Job, Problem, Sampling

THINK = Prompt("chat", thinking=True)
TOKENIZERS = {"a tag of one token": qwen(QWEN3, thinking=True), "a tag of five": llama3()}
BUDGETS = [(10, 20, 30), (None, 15, 30), (12, None, 5), (17, 17, 7), (1, 2, 4)]  # least, most, tokens of a step


class Script:
    """A model that writes the tag as the tokenizer does, and else one of a few tokens, by a hash of all before."""

    def __init__(self, tokenizer: Any, closes: float = 0.15, ends: float = 0.05) -> None:
        def ids(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        self.tag = ids("</think>")
        words = [*ids("\n\n"), *ids("\n"), *ids(" step"), *ids("24"), *ids("."), *ids("🙂")]
        self.words, self.closes, self.ends, self.end = words, closes, ends, tokenizer.eos_token_id
        self.size = len(tokenizer)

    def weights(self, ids: Sequence[int]) -> list[tuple[int, float]]:
        """The next tokens that may be and their shares."""
        for k in range(len(self.tag) - 1, 0, -1):
            if list(ids[-k:]) == self.tag[:k]:
                return [(self.tag[k], 1.0)]
        rng = random.Random(repr(ids))
        shares = [(self.tag[0], self.closes), (self.end, self.ends), *((word, 0.1) for word in self.words)]
        return [(token, share * rng.random()) for token, share in shares]

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """[V]"""
        out = torch.full((self.size,), 1e-9)
        for token, share in self.weights(ids):
            out[token] += share
        return out.log()

    def greedy(self, ids: Sequence[int]) -> int:
        return max(self.weights(ids), key=lambda pair: pair[1])[0]


class Cache:
    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def reorder_cache(self, index: torch.Tensor) -> None:
        self.rows = [list(self.rows[k]) for k in index.tolist()]


class ScriptedModel:
    """The part of a transformers model that the proposer uses."""

    device = torch.device("cpu")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.config = SimpleNamespace(max_position_embeddings=400)
        self.generation_config = SimpleNamespace(eos_token_id=None)

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(num_embeddings=self.script.size)

    def __call__(self, input_ids: Any, attention_mask: Any, past_key_values: Any = None, **_: Any) -> Any:
        if past_key_values is None:
            rows = zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
            past_key_values = Cache([[i for i, on in zip(ids, mask, strict=True) if on] for ids, mask in rows])
        else:
            for row, (token,) in zip(past_key_values.rows, input_ids.tolist(), strict=True):
                row.append(token)
        logits = torch.stack([self.script.logits(row) for row in past_key_values.rows])[:, None]
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)


class ScriptedEngine:
    """An engine that writes greedily and stops where vLLM would, which looks for text in a stream begun with the prompt."""

    def __init__(self, script: Script, tokenizer: Any) -> None:
        self.script, self.tokenizer = script, tokenizer
        self.asked: list[Any] = []
        self.dead, self.usage = False, {}

    def name(self, about: str) -> str:
        return about

    async def generate(self, ids: Sequence[int], params: Any, request_id: str, priority: int = 0) -> Reply:
        self.asked.append((list(ids), params))
        stream, text = DecodeStream(ids=list(ids), skip_special_tokens=params["skip_special_tokens"]), ""
        out: list[int] = []
        while len(out) < params["max_tokens"]:
            out.append(self.script.greedy([*ids, *out]))
            text += stream.step(self.tokenizer.backend_tokenizer, out[-1]) or ""
            if out[-1] in params["stop_token_ids"] or any(stop in text for stop in params["stop"] or ()):
                break
        return Reply(out, [-1.0] * len(out) if params["logprobs"] is not None else None)

    def abort(self, names: Sequence[str]) -> None: ...


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "sampling", lambda **given: given)


def on_transformers(tokenizer: Any, limits: Limits, prompt: Prompt = THINK, **script: float) -> TransformersProposer:
    model = ScriptedModel(Script(tokenizer, **script))
    return TransformersProposer(Transformers(), model, tokenizer, TASKS["plain"], prompt, limits)


def on_vllm(tokenizer: Any, limits: Limits, prompt: Prompt = THINK, **script: float) -> vllm.VLLMProposer:
    config = SimpleNamespace(vocab_size=len(tokenizer))
    model = Model("x", tokenizer, config, ends_of(tokenizer, None), context=400)
    engine: Any = ScriptedEngine(Script(tokenizer, **script), tokenizer)
    return vllm.VLLMProposer(VLLM(), engine, model, TASKS["plain"], prompt, limits)


def ask(proposer: Any, *jobs: Job) -> list[Any]:
    async def main() -> list[Any]:
        return list(await proposer.propose(jobs))

    replies = asyncio.run(main())
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def by_steps(proposer: Any, question: str) -> Chain:
    path: Chain = ()
    while not path or path[-1].finish == "step":
        (((step,),),) = ask(proposer, job(question, n=1, path=path, sampling=GREEDY))
        path = (*path, step)
    return path


def ids_of(chain: Chain) -> list[int]:
    return [i for step in chain for i in step.ids]


def thought(proposer: Any, chain: Chain) -> int | None:
    """Tokens before the closing tag; None if the thought was never closed."""
    ids = ids_of(chain)
    for k in range(len(ids) + 1):
        if "</think>" in proposer.tokenizer.decode(ids[:k]):
            return max(j for j in range(k) if "</think>" in proposer.tokenizer.decode(ids[j:k]))
    return None


QUESTIONS = [f"Question {k}?" for k in range(5)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize(("least", "most", "step"), BUDGETS)
def test_a_thought_keeps_its_budget_alike_on_both_backends_at_once_and_step_by_step(
    tokenizer: Any, least: int | None, most: int | None, step: int
) -> None:
    limits = Limits(step_tokens=step, path_tokens=60, think_least=least, think_most=most)
    one, other = on_transformers(tokenizer, limits), on_vllm(tokenizer, limits)
    jobs = [job(question, n=1, until="answer", sampling=GREEDY) for question in QUESTIONS]
    closed = 0
    for question, (a,), (b,) in zip(QUESTIONS, ask(one, *jobs), ask(other, *jobs), strict=True):
        told = [(s.ids, s.text, s.tokens, s.finish) for s in a]
        assert told == [(s.ids, s.text, s.tokens, s.finish) for s in b]
        if question in QUESTIONS[:2]:
            assert told == [(s.ids, s.text, s.tokens, s.finish) for s in by_steps(one, question)]
        assert told == [(s.ids, s.text, s.tokens, s.finish) for s in by_steps(other, question)]
        assert "".join(s.text for s in a) == tokenizer.decode(ids_of(a)) and sum(s.tokens or 0 for s in a) <= 60
        length = thought(one, a)
        closed += length is not None
        if length is None:
            assert most is None and (len(ids_of(a)) >= (least or 0))
        else:
            assert (least or 0) <= length and (most is None or length <= most + 1)
    assert closed >= (5 if most else 2)
    asyncio.run(one.close())


def without_budget(tokenizer: Any, question: str, **script: float) -> Chain:
    ((chain,),) = ask(on_vllm(tokenizer, Limits(path_tokens=60), **script),
                      job(question, n=1, until="answer", sampling=GREEDY))  # fmt: skip
    return chain  # type: ignore[no-any-return]


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_what_comes_before_the_budget_s_word_is_what_the_model_would_have_written(tokenizer: Any) -> None:
    free = without_budget(tokenizer, "q", closes=0, ends=0)
    limits = Limits(path_tokens=60, think_most=15)
    ((chain,),) = ask(on_vllm(tokenizer, limits, closes=0, ends=0), job("q", n=1, until="answer", sampling=GREEDY))
    text, ids = tokenizer.decode(ids_of(chain)), ids_of(chain)
    assert ids[:15] == ids_of(free)[:15] and "</think>" not in tokenizer.decode(ids_of(free))
    assert text[len(tokenizer.decode(ids[:15])) :].lstrip("\n").startswith("</think>\n\n")


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tag_and_an_end_that_come_too_early_are_taken_back(tokenizer: Any) -> None:
    """A model that always closes at once writes "Wait" until it may close; one that always ends, too."""
    for script in ({"closes": 1e6, "ends": 0}, {"closes": 0, "ends": 1e6}):
        proposer = on_transformers(tokenizer, Limits(think_least=9), **script)
        ((chain,),) = ask(proposer, job(n=1, until="answer", sampling=GREEDY))
        text = "".join(step.text for step in chain)
        assert text.startswith("Wait" * 5) and text.count("Wait") == 5  # of two tokens each
        assert text.startswith("Wait" * 5 + "</think>") == (script["closes"] > 0)
        assert chain[-1].finish == ("length" if script["closes"] else "answer")
        assert chain[0].tokens == len(chain[0].ids) + (not script["closes"])
        asyncio.run(proposer.close())


def test_chains_have_seeds_of_their_own_in_every_segment() -> None:
    """Four of one wish are one of four wishes; after a forced "Wait" a chain goes on with other numbers."""
    proposer = on_transformers(TOKENIZERS["a tag of one token"], Limits(path_tokens=50, think_least=12, think_most=24))
    asked = Sampling(1.0)
    (together,) = ask(proposer, job("q", n=4, until="answer", sampling=asked))
    apart = [ask(proposer, job("q", n=1, first=i, until="answer", sampling=asked))[0][0] for i in range(4)]
    assert list(together) == apart and len({tuple(ids_of(c)) for c in together}) == 4
    assert sum("Wait" in "".join(step.text for step in c) for c in together) >= 1
    draft = proposer.draft(proposer.start(job("q", n=1)), 0)
    seeds = []
    for _ in range(3):
        seeds.append(draft.seed)
        draft.force([5])
    assert len(set(seeds)) == 3
    asyncio.run(proposer.close())


def test_forced_tokens_have_no_log_probability_of_the_model() -> None:
    proposer = on_vllm(TOKENIZERS["a tag of one token"], Limits(think_most=6), closes=0, ends=0)
    asked = Job("p/0", job("q").problem, (), 0, 1, "answer", GREEDY, 1, logprobs=True)
    ((chain,),) = ask(proposer, asked)
    closing = next(s for s in chain if "</think>" in s.text)
    forced = len(proposer.thinking.due([5] * 6))  # type: ignore[union-attr]
    assert sum(s.logprob or 0 for s in chain) == forced - sum(s.tokens or 0 for s in chain)
    assert closing.logprob is not None and closing.logprob > -len(closing.ids)


def test_a_model_without_a_budget_is_asked_once() -> None:
    proposer = on_vllm(TOKENIZERS["a tag of one token"], Limits(path_tokens=40))
    ask(proposer, job("q", n=3, until="answer", sampling=GREEDY))
    assert len(proposer.engine.asked) == 3 and proposer.thinking is None  # type: ignore[attr-defined]


# What the engine makes of thoughts


def read_from(proposer: Any, thinking: bool) -> list[tuple[bool, str | None]]:
    """(whether its thought is over, its answer) of eight chains."""

    async def main() -> list[tuple[bool, str | None]]:
        checker, told = Checker(), Settings(thinking=thinking)
        engine = Engine(SEARCHES["sample"](n=8), TASKS["plain"], [proposer], checker=checker, settings=told)
        (answer,) = [a async for a in engine.answers([Problem("p", "Question?")])]
        checker.close()
        return [("</think>" in c.text, c.answer) for c in answer.candidates]

    return asyncio.run(main())


def test_a_chain_cut_in_its_thought_has_no_answer() -> None:
    """The same chains twice: where nobody says that the model thinks, an unfinished thought is read as an answer."""
    limits = Limits(step_tokens=30, path_tokens=25)
    told, untold = (
        read_from(on_transformers(TOKENIZERS["a tag of one token"], limits, closes=0.3), thinking)
        for thinking in (True, False)
    )
    assert told == [(over, answer if over else None) for over, answer in untold]
    assert {(over, answer is None) for over, answer in untold} >= {(True, False), (False, False)}


@pytest.mark.parametrize(("texts", "thinking", "readable"), [
    (["So 4", "\n\n"], False, True), (["So 4", "\n\n"], True, False), (["So 4</th", "ink>\n\n5"], True, True),
    ([], True, False),
])  # fmt: skip
def test_an_answer_follows_the_thought(texts: list[str], thinking: bool, readable: bool) -> None:
    assert has_answer(texts, thinking) == readable


def test_a_run_s_settings_say_whether_its_model_thinks() -> None:
    asked = ("direct", "think", "chat", "chat_think")
    told = [settings(load(None, [f"prompt.style={style}"])).thinking for style in asked]
    told.append(settings(load(None, ["prompt.style=chat", "prompt.thinking=true"])).thinking)
    assert told == [False, True, False, True, True]


def test_steps_of_a_thought_end_at_blank_lines() -> None:
    proposer = on_vllm(TOKENIZERS["a tag of one token"], Limits(step_tokens=60, path_tokens=60), ends=0, closes=0)
    ((chain,),) = ask(proposer, job("q", n=1, until="answer", sampling=GREEDY))
    assert len(chain) > 2 and all(step.text.endswith("\n\n") for step in chain[:-1])
    assert any("\n" in step.text.removesuffix("\n\n") for step in chain)  # a line of the task `plain` is no step here
