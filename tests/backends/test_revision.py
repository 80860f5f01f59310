"""Revisions: a finished answer and its score go back into the prompt, and what is judged is the new attempt alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import treesearch as ts
from tests.backends.chat_models import save, tokenizer_of
from tests.backends.models import job
from treesearch.backends.base import Limits, Scored
from treesearch.backends.causal import CausalProposer, ends_of
from treesearch.backends.transformers import Transformers
from treesearch.engine import Engine, Settings
from treesearch.errors import RequestError
from treesearch.tasks import TASKS, Prompt, prompts
from treesearch.tree import Tree
from treesearch.types import Chain, Expansion, Job, Step, attempts, under_way

PLAIN = TASKS["plain"]
LIMITS = Limits(step_tokens=9, path_tokens=40, depth=4)
FIRST = (Step("4 + 5 is 9.\n", tokens=4), Step("Answer: 9", tokens=3, score=0.25, finish="answer"))
SECOND = (Step("Answer: 24", tokens=2, score=0.5, outcome=0.75, finish="answer"),)


def causal(style: str, prompt: Prompt) -> CausalProposer:
    tokenizer = tokenizer_of(style)
    return CausalProposer(tokenizer, PLAIN, prompt, LIMITS, context=512, size=len(tokenizer),
                          ends=ends_of(tokenizer, None), chat_template_kwargs={})  # fmt: skip


def test_a_path_falls_into_its_attempts():
    open_ = (Step("a\n"), Step("b\n"))
    assert attempts(()) == [] and under_way(()) == ()
    assert attempts(open_) == [open_] and under_way(open_) == open_
    assert attempts((*FIRST, *SECOND)) == [FIRST, SECOND] and under_way((*FIRST, *SECOND)) == ()
    assert attempts((*FIRST, *open_)) == [FIRST, open_] and under_way((*FIRST, *open_)) == open_


def test_a_chat_model_is_told_all_attempts_and_how_they_were_judged():
    told = prompts.messages(PLAIN, Prompt("chat"), "2 2 2 3", [FIRST, SECOND])
    assert [m["role"] for m in told] == ["user", "assistant", "user", "assistant", "user"]
    assert told[1]["content"] == "4 + 5 is 9.\nAnswer: 9" and "0.25" in told[2]["content"]
    assert told[3]["content"] == "Answer: 24" and "0.75" in told[4]["content"]  # the outcome, where there is one


def test_a_thought_is_not_shown_again_and_the_wording_is_the_users():
    thought = (Step("hm</think>\n\n", score=0.1), Step("9", score=None, finish="answer"))
    prompt = Prompt("chat", thinking=True, revise="Again ({score}).")
    assert [m["content"] for m in prompts.messages(PLAIN, prompt, "q", [thought])] == ["q", "9", "Again (?)."]
    with pytest.raises(ts.ConfigError, match="revise is empty"):
        prompts.check(Prompt(revise=" "))


@pytest.mark.parametrize("style", ["qwen2", "llama3", "mistral"])
@pytest.mark.parametrize("prompt", [Prompt("chat"), Prompt("direct")], ids=lambda p: p.style)
def test_a_revision_starts_after_a_prompt_with_the_attempts(style: str, prompt: Prompt):
    proposer = causal(style, prompt)
    start = proposer.start(job(until="revision", path=FIRST))
    text = tokenizer_of(style).decode(start.prefix)
    for part in ("4 5 6 10", "Answer: 9", "0.25"):
        assert part in text
    assert (start.path, start.steps, start.used) == ([], 0, 0)  # limits are those of the new attempt
    assert start.prefix == proposer.prompt_ids("4 5 6 10", [FIRST])
    after = proposer.start(job(until="step", path=(*FIRST, Step("a\n", (5, 6), 2))))
    assert after.prefix == [*start.prefix, 5, 6] and (after.steps, after.used) == (1, 2)


def test_only_a_finished_answer_is_revised():
    proposer = causal("qwen2", Prompt("chat"))
    for path in ((), FIRST[:1], (*FIRST, Step("a\n"))):
        with pytest.raises(RequestError, match="no finished answer"):
            proposer.start(job(until="revision", path=path))


def test_a_candidate_is_one_attempt():
    tree = Tree()
    (tip,) = tree.grow(Expansion(0, (FIRST,)))
    tree.grow(Expansion(tip, (SECOND,)))
    first, second = tree.candidates()
    assert (first.text, first.scores, first.tokens) == ("4 + 5 is 9.\nAnswer: 9", (None, 0.25), 7)
    assert (second.text, second.scores, second.tokens) == ("Answer: 24", (0.5,), 2)


class Watching:
    """A scorer that remembers the paths and chains it was shown."""

    max_jobs = 8

    def __init__(self) -> None:
        self.seen: list[tuple[str, Chain, Chain]] = []

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        self.seen += [(job.until, job.path, chain) for job, chains in items for chain in chains]
        return [Scored(tuple(tuple(0.5 for _ in chain) for chain in chains), 0) for _, chains in items]

    async def close(self) -> None: ...


@pytest.mark.parametrize("style", ["qwen2", "mistral"])
def test_ab_mcts_revises_whole_answers_of_a_real_model(style: str, tmp_path: Path):
    async def searched() -> tuple[list[ts.Answer], list[Job]]:
        proposer = Transformers(str(save(tmp_path, style))).build(PLAIN, Prompt("chat"), LIMITS)
        asked: list[Job] = []
        propose = proposer.propose

        async def watched(jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
            asked.extend(jobs)
            return await propose(jobs)

        proposer.propose = watched  # type: ignore[method-assign]
        checker = ts.Checker()
        engine = Engine(ts.ABMCTS(simulations=12, unit="answer"), PLAIN, [proposer], [scorer], checker=checker,
                        settings=Settings(seed=3))  # fmt: skip
        answers = [answer async for answer in engine.answers([ts.Problem("1", "What is 4 + 5?")])]
        await proposer.close()
        checker.close()
        return answers, asked

    scorer = Watching()
    (answer,), asked = asyncio.run(searched())
    revisions = [j for j in asked if j.until == "revision"]
    assert answer.stopped == "finished" and answer.expansions == 12 and revisions
    assert all(j.path[-1].finish == "answer" for j in revisions)
    assert all(path == () for _, path, _ in scorer.seen)  # the scorer reads the new attempt alone
    assert any(until == "revision" for until, _, _ in scorer.seen)


def test_a_revision_depends_on_what_is_revised(tmp_path: Path):
    """With the same seed: other attempts before it, another revision; the same ones, the same."""

    async def drawn(paths: Sequence[Chain]) -> list[str]:
        proposer = Transformers(str(save(tmp_path, "qwen2"))).build(PLAIN, Prompt("chat"), LIMITS)
        replies = await proposer.propose([replace(job(n=1, until="revision", path=path), seed=7) for path in paths])
        await proposer.close()
        assert not any(isinstance(reply, Exception) for reply in replies)
        return ["".join(s.text for s in reply[0]) for reply in replies if not isinstance(reply, Exception)]

    other = (replace(FIRST[0], text="No.\n"), FIRST[1])
    a, b, again = asyncio.run(drawn([FIRST, other, FIRST]))
    assert a == again != b
