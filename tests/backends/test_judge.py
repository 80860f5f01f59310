"""A language model as judge: the paper's sums, the mean in [0, 1], votes among siblings, and what cannot be read."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import CHATML, job, save
from tests.backends.saying import Says
from tests.backends.servers import HOSTED, OLD_VLLM, VLLM, Manners, Server
from treesearch.algorithms.base import Wishes
from treesearch.backends import OUTCOMES
from treesearch.backends.base import Scored
from treesearch.backends.generative import LEAD, Generative
from treesearch.backends.judge import ANSWER, NUMBERS, Judge, JudgeOutcome, choice, fill, puzzle_prompt, verdict
from treesearch.backends.mixture import Member, Mixture
from treesearch.backends.openai import OpenAI
from treesearch.backends.recorded import Recorded
from treesearch.backends.simulated import Simulated
from treesearch.backends.transformers import Transformers
from treesearch.config import build, digest, load
from treesearch.errors import ConfigError, RequestError
from treesearch.run import answer_all
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.tasks.countdown import Countdown
from treesearch.tasks.expressions import parse, value
from treesearch.tree import ROOT, Tree
from treesearch.types import Chain, Expand, Job, Step

PLAIN, GAME, COUNTDOWN = (load_task(name) for name in ("plain", "game24", "countdown"))
VOTES = ["well\nsure", "10 - 4 = 6\n\nlikely", "no\nimpossible"]


def judge(say: Any, task: Any = PLAIN, kind: Any = Judge, **settings: Any) -> Any:
    return kind(model=Says(say), **settings).build(task, Prompt())


def chain(*texts: str) -> Chain:
    return tuple(Step(f"{text}\n") for text in texts)


def score(scorer: Any, *chains: Chain, asked: Job | None = None) -> Scored | Exception:
    (reply,) = asyncio.run(scorer.score([(asked or job(), chains)]))
    return reply


def test_a_state_is_worth_the_mean_of_its_votes() -> None:
    assert score(judge(VOTES), chain("a")) == Scored(((0.5,),), None)


def test_the_papers_value_is_the_sum_of_20_1_and_a_thousandth() -> None:
    assert score(judge(VOTES, scale="tot"), chain("a")) == Scored(((21.001,),), None)
    five = judge(["sure", "sure", "likely", "impossible", "who knows"], scale="tot", votes=5)
    assert score(five, chain("a")) == Scored(((41.001,),), None)


def test_a_duplicate_among_siblings_is_worth_nothing_to_the_paper_and_the_same_to_the_mean() -> None:
    siblings = (chain("a"), chain("b"), chain("a"), chain("a", "c"))
    assert score(judge(VOTES, scale="tot"), *siblings) == Scored(((21.001,), (21.001,), (0.0,), (0.0, 21.001)), None)
    assert score(judge(VOTES), *siblings) == Scored(((0.5,), (0.5,), (0.5,), (0.5, 0.5)), None)


def test_votes_that_cannot_be_read_count_as_nothing_and_all_of_them_are_an_error() -> None:
    assert score(judge(["sure", "sure enough", ""]), chain("a")) == Scored(((1.0,),), None)
    assert score(judge(["sure", "sure enough", ""], scale="tot"), chain("a")) == Scored(((20.0,),), None)
    scorer = judge(["I do not know"] * 3)
    for _ in range(2):  # and it is not asked again: the votes would be the same
        reply = score(scorer, chain("a"))
        assert isinstance(reply, RequestError) and "'I do not know'" in str(reply)
    assert len(scorer.panel.proposer.asked) == 1


@pytest.mark.parametrize(
    "text, word",
    [
        ("sure", "sure"),
        ("12 + 12\n**Sure.**", "sure"),
        ("Verdict: impossible", "impossible"),
        (r"so it is $\boxed{\text{Likely}}$", "likely"),
        (r"\boxed{likely}.", "likely"),
        ("sure\nimpossible", "impossible"),
        ("I am not sure", "i am not sure"),
        ("", ""),
    ],
)
def test_the_last_line_is_the_verdict(text: str, word: str) -> None:
    assert verdict(text) == word


def test_what_counts_of_a_vote() -> None:
    """A base model goes on with another puzzle; a thought is no verdict, least of all one that was cut off."""
    panel = judge(VOTES).panel
    runs_on, thought = (
        " 4 * 6 = 24\nsure\n\nnumbers 1 1, target 24\nimpossible",
        "so\nsure\n</think>\n\nit is\n\nlikely",
    )
    assert (panel.said(runs_on)[-10:], panel.said(thought)) == ("impossible", "it is\n\nlikely")
    panel.thinks = True
    assert (panel.said("so\nsure"), panel.said(thought)) == ("", "it is\n\nlikely")
    panel.chats, panel.thinks = False, False
    assert (panel.said(runs_on), panel.said(thought)) == ("4 * 6 = 24\nsure", "it is")


def test_other_words_have_other_values() -> None:
    assert score(judge(["9", "Rating: 10", "x"], values={"9": 0.9, "10": 1.0}), chain("a")) == Scored(((0.95,),), None)
    with pytest.raises(ConfigError, match=r"values.good = 7: must be in \[0, 1\]"):
        Judge(values={"good": 7})
    with pytest.raises(ConfigError, match="lower-case word, such as 'good'"):
        Judge(values={"Good!": 1.0})
    assert Judge(values={"good": 7}, scale="tot")


def test_equal_states_are_asked_once_also_of_other_paths_and_problems() -> None:
    """As in the paper's cache: what is left of a puzzle is the state, not how one came there."""
    scorer = judge(VOTES, GAME)
    ways = [("4 5 6 10", "4 + 5 = 9 (left: 6 9 10)"), ("6 10 3 3", "3 * 3 = 9 (left: 6 9 10)")]
    items = [(job(question), (chain(step), chain(step))) for question, step in ways]
    values = ((0.5,), (0.5,))
    assert asyncio.run(scorer.score(items)) == [Scored(values, None), Scored(values, 0)]
    (asked,) = scorer.panel.proposer.asked
    assert asked.problem.question.endswith("numbers 6 9 10, target 24\n") and asked.n == 3
    asyncio.run(scorer.forget())
    asyncio.run(scorer.score(items))
    assert len(scorer.panel.proposer.asked) == 2


def test_the_models_errors_are_the_items_and_are_not_kept() -> None:
    answers: list[Any] = [ConnectionError("gone"), "sure", "sure", "sure"]
    scorer = judge(lambda prompt, seed: answers.pop(0))
    assert isinstance(score(scorer, chain("a")), ConnectionError)
    assert score(scorer, chain("a")) == Scored(((1.0,),), None)


def keyed(prompt: str, seed: int) -> str:
    return random.Random(f"{prompt}{seed}").choice(["sure", "likely", "impossible", "?"])


@pytest.mark.parametrize("scale", ["unit", "tot"])
def test_values_depend_on_no_order_no_batch_and_no_attempt(scale: str) -> None:
    """A seed follows from what is asked: the path's text, so whoever asks first, all get the same votes."""
    states = [chain(f"step {k}") for k in range(12)]
    scorer = judge(keyed, scale=scale, votes=8)
    (together,) = asyncio.run(scorer.score([(job(), tuple(states))]))
    alone = judge(keyed, scale=scale, votes=8)
    shuffled = random.Random(0).sample(range(12), 12)
    one_by_one = {}
    for attempt, k in enumerate(shuffled):
        asked = replace(job(), id=f"p/{attempt}", first=attempt, seed=attempt)
        (reply,) = asyncio.run(alone.score([(asked, (states[k],))]))
        one_by_one[k] = reply.scores[0]
    assert together.scores == tuple(one_by_one[k] for k in range(12))
    assert len(set(together.scores)) > 3
    others = judge(keyed, scale=scale, votes=8, seed=1)
    assert score(others, *states) != together


def test_an_outcome_is_asked_about_whole_chains_alone() -> None:
    assert OUTCOMES["judge"] is JudgeOutcome
    scorer = judge(VOTES, kind=JudgeOutcome)
    assert score(scorer, chain("a", "b", "c")) == Scored(((0.5,),), None)
    (asked,) = scorer.panel.proposer.asked
    assert "a\nb\nc\n" in asked.problem.question


# Votes


def best(*numbers: int) -> list[str]:
    return [f"long talk\nThe best choice is {number}" for number in numbers]


def test_siblings_are_shown_together_and_valued_by_their_share_of_the_votes() -> None:
    scorer = judge(best(2, 2, 1, 9), mode="vote", votes=4)
    reply = score(scorer, chain("a"), chain("b", "c"), chain("a"), asked=job("why?", path=chain("so")))
    assert reply == Scored(((1 / 3,), (2 / 3, 2 / 3), (1 / 3,)), None), "the vote for 9 is no vote"
    (asked,) = scorer.panel.proposer.asked
    for part in ("why?", "so", "Choice 1:\na", "Choice 2:\nb\nc"):
        assert part in asked.problem.question
    assert "Choice 3" not in asked.problem.question


def test_the_papers_vote_counts_and_shows_duplicates_too() -> None:
    scorer = judge(best(3, 3, 1), mode="vote", scale="tot")
    assert score(scorer, chain("a"), chain("b"), chain("a")) == Scored(((1.0,), (0.0,), (2.0,)), None)


def test_one_alone_needs_no_vote() -> None:
    assert score(judge(["?"] * 3, mode="vote"), chain("a"), chain("a")) == Scored(((1.0,), (1.0,)), 0)


def test_a_wish_that_compares_is_voted_on() -> None:
    scorer = judge(best(2, 2, 2))
    compared = replace(job(), score="siblings")
    assert score(scorer, chain("a"), chain("b"), asked=compared) == Scored(((0.0,), (1.0,)), None)
    assert isinstance(score(scorer, chain("a"), chain("b")), RequestError), "a wish for steps is rated: no verdict here"


def test_a_vote_is_for_the_last_choice_named() -> None:
    assert choice("The best choice is 1? No: the best choice is **12**.") == 12
    assert choice("the BEST CHOICE is Choice 2") == 2 and choice("choice 1") is None
    reply = score(judge(best(4, 0, 9), mode="vote"), chain("a"), chain("b"))
    assert isinstance(reply, RequestError) and "which choice of 2" in str(reply)


# Prompts


def test_a_puzzle_is_judged_by_what_is_left_and_in_the_end_by_its_answer() -> None:
    left = puzzle_prompt(GAME, "4 5 6 10", ("13 - 9 = 4 (left: 4 4 10)\n",))
    assert left == fill(NUMBERS, left="4 4 10", target="24")
    said = puzzle_prompt(COUNTDOWN, "4 5 6 10 -> 39", ("x\n", "Answer: 4 * 5 + 9 = 39"))
    assert said == fill(ANSWER, numbers="4 5 6 10", target="39", answer="4 * 5 + 9 = 39")
    assert puzzle_prompt(GAME, "4 5 6 10", ("13 - 9 = 4\n",)) is None, "a move without what is left: the general prompt"
    assert puzzle_prompt(PLAIN, "4 5 6 10", ("(left: 4)",)) is None


def test_the_examples_in_the_puzzle_prompts_are_true() -> None:
    task = Countdown()
    for block in ANSWER.split("\n\n")[1:-1]:
        numbers, answer, says = block.split("\n")
        question = numbers.removeprefix("numbers ").replace(", target", " ->")
        (problem,) = [replace(job().problem, question=question, reference=None)]
        assert task.check(problem, answer.removeprefix("answer: ")) is (says == "sure"), block
    for block in NUMBERS.split("\n\n")[1:-1]:
        for line in block.split("\n")[1:-1]:
            parts = line.split(" = ")
            assert len(parts) == 1 or len({value(parse(part)) for part in parts}) == 1, line


def test_a_puzzle_that_ends_without_an_answer_is_worth_nothing_to_the_paper() -> None:
    scorer = judge(VOTES, GAME, scale="tot")
    path = chain("4 + 6 = 10 (left: 5 10 10)", "10 + 10 = 20 (left: 5 20)", "20 + 5 = 25 (left: 25)")
    assert score(scorer, chain("so what"), chain("Answer: 5"), asked=job(path=path)) == Scored(
        ((0.0,), (21.001,)), None
    )
    assert len(scorer.panel.proposer.asked) == 1


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Q {question} S {steps} L {step} {other} \\boxed{x}")
    scorer = judge(VOTES, GAME, prompt=str(path))
    score(scorer, chain("{question} (left: 1)"), asked=job(path=chain("first")))
    (asked,) = scorer.panel.proposer.asked
    assert asked.problem.question == (
        "Q 4 5 6 10 S first\n{question} (left: 1) L {question} (left: 1) {other} \\boxed{x}"
    )


@pytest.mark.parametrize(
    "text, mode, reason",
    [(None, "value", "cannot be read"), ("{question}", "value", "{steps} or {step}"), ("{steps}", "vote", "{choices}")],
)
def test_a_prompt_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, mode: str, reason: str) -> None:
    path = tmp_path / "prompt.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        judge(VOTES, prompt=str(path), mode=mode)


@pytest.mark.parametrize("settings", [{"votes": 0}, {"max_tokens": 0}, {"temperature": -1.0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Judge(**settings)


def test_a_judge_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="model is not set"):
        Judge().build(PLAIN, Prompt())


# Real proposers


def test_a_recorded_judge_is_asked_by_its_prompt(tmp_path: Path) -> None:
    prompt = fill(NUMBERS, left="4 4 10", target="24")
    votes = [{"text": f"let me see\n\n{word}", "finish": "answer", "tokens": 5} for word in ("sure", "sure", "likely")]
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps({"problem": prompt, "path": [], "children": votes}))
    scorer = Judge(model=Recorded(str(path))).build(GAME, Prompt())
    first, other = (score(scorer, chain(f"x (left: {left})")) for left in ("4 4 10", "4 4 11"))  # type: ignore[arg-type]
    assert first == Scored(((2.5 / 3,),), None)
    assert isinstance(other, RequestError) and "recorded" in str(other)


@pytest.mark.parametrize("chat", [True, False])
def test_a_small_model_of_random_weights_is_asked_and_cannot_be_understood(tmp_path: Path, chat: bool) -> None:
    folder = save(tmp_path / "m", "causal", chat=chat, max_position_embeddings=4096)
    scorer: Any = Judge(model=Transformers(str(folder)), votes=2, max_tokens=8).build(GAME, Prompt())
    assert scorer.panel.chats is chat
    assert scorer.panel.proposer.prompt.style == ("chat" if chat else "direct")
    reply = score(scorer, chain("13 - 9 = 4 (left: 4 4 10)"))
    assert isinstance(reply, RequestError) and "no vote of 2 ends with sure, likely, impossible" in str(reply)
    asyncio.run(scorer.close())


def test_tokens_are_the_prompt_once_and_all_of_the_votes(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "causal", max_position_embeddings=4096)
    scorer: Any = Judge(model=Transformers(str(folder)), votes=2, max_tokens=8).build(GAME, Prompt())
    prompt = fill(NUMBERS, left="4 4 10", target="24")
    texts, tokens = asyncio.run(scorer.panel.ask(prompt, list))
    sizes = [len(ids) for ids in scorer.panel.proposer.tokenizer([prompt, *texts])["input_ids"]]
    assert len(texts) == 2 and sizes[0] + 2 <= tokens <= sizes[0] + 16
    assert asyncio.run(scorer.panel.ask(prompt, list)) == (texts, 0)
    asyncio.run(scorer.close())


def test_a_run_whose_judge_is_its_own_proposer() -> None:
    words = ", ".join(f"wrong-{k}: {k / 5}" for k in range(6))
    config = load(None, ["proposer=simulated", f"scorer={{type: judge, values: {{{words}}}}}", "outcome=judge",
                         f"outcome.values={{{words}}}", "search={type: beam, beams: 2, branch: 4}", "limit=3"])  # fmt: skip
    assert config.scorer.model == config.proposer == Simulated()
    assert config.labels() == ["SIMULATED"] and build([config.resolved()]) == config
    answers = asyncio.run(answer_all(config, GAME.problems("game24")[:3]))
    scores = [score for answer in answers for c in answer.candidates for score in c.scores]
    assert scores and all(score is not None and 0 <= score <= 1 for score in scores) and len(set(scores)) > 3
    again = asyncio.run(answer_all(config, GAME.problems("game24")[:3][::-1]))
    assert [answer.candidates for answer in again[::-1]] == [answer.candidates for answer in answers]


@dataclass(frozen=True)
class Compare:
    """Asks for three siblings to be compared, once."""

    def search(self, tree: Tree) -> Wishes:
        reply = yield [Expand(ROOT, n=3, until="answer", score="siblings")]
        tree.grow(reply)


def test_the_engine_shows_a_judge_all_siblings_of_a_wish() -> None:
    config = replace(load(None, ["proposer=simulated"]), search=Compare(), scorer=Judge(Says(best(2, 2, 3))))
    (answer,) = asyncio.run(answer_all(config, GAME.problems("game24")[:1]))
    assert [set(candidate.scores) for candidate in answer.candidates] == [{0.0}, {2 / 3}, {1 / 3}]


def test_each_model_of_a_mixture_is_asked_in_its_own_way(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(chat), "causal", chat=chat, max_position_embeddings=2048) for chat in (True, False)]
    mixture = Mixture(tuple(Member(Transformers(str(folder))) for folder in folders))
    scorer: Any = Judge(model=mixture).build(PLAIN, Prompt())
    assert [member.prompt.style for member in scorer.panel.proposer.proposers] == ["chat", "direct"]
    assert not scorer.panel.chats
    direct: Any = Judge(model=Transformers(str(folders[0])), style="direct").build(PLAIN, Prompt())
    assert direct.panel.proposer.prompt.style == "direct" and not direct.panel.chats


THINKS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def test_a_template_that_opens_a_thought_is_waited_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "causal", chat=True, max_position_embeddings=2048)
    template = tmp_path / "thinks.jinja"
    template.write_text(THINKS)
    scorer: Any = Judge(model=Transformers(str(folder), chat_template=str(template)), max_tokens=8).build(
        PLAIN, Prompt()
    )
    assert THINKS != CHATML and scorer.panel.thinks and scorer.panel.chats
    assert scorer.panel.proposer.prompt_text("why?").endswith("assistant\n<think>\n")
    assert isinstance(score(scorer, chain("a")), RequestError)
    with pytest.raises(ConfigError, match="style 'chat' needs"):
        Judge(model=Transformers(str(save(tmp_path / "n", "causal"))), style="chat").build(PLAIN, Prompt())


@pytest.mark.parametrize("manners", [HOSTED, OLD_VLLM, VLLM])
def test_a_server_is_asked_in_a_chat_and_goes_on_with_a_lead_where_it_can(
    manners: Manners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with Server(replace(manners, context=None)) as server:
        spec = OpenAI(base_url=server.url)
        scorer: Any = Judge(model=spec, values={str(k): k / 3 for k in range(4)}).build(PLAIN, Prompt())
        verifier: Any = Generative(model=spec).build(PLAIN, Prompt())
        server.probed = True

        async def main() -> list[Any]:
            (rated,), (verified,) = [await s.score([(job(), (chain("a"),))]) for s in (scorer, verifier)]
            for s in (scorer, verifier):
                await s.close()
            return [rated, verified]

        rated, verified = asyncio.run(main())
    assert isinstance(rated, Scored) and rated.scores[0][0] in {
        (a + b + c) / 9 for a, b, c in product(range(4), repeat=3)
    }
    assert isinstance(verified, RequestError) and "Answer: " in str(verified), "this model rates everything"
    *votes, verification = server.requests
    assert len({vote["seed"] for vote in votes}) == len(votes) == 3
    assert all("How" not in vote and vote["messages"][-1]["role"] == "user" for vote in votes)
    goes_on = verification["messages"][-1] == {"role": "assistant", "content": LEAD}
    assert goes_on is (manners is not HOSTED)


def test_a_run_is_the_same_behind_another_address(tmp_path: Path) -> None:
    both = [load(None, [f"proposer={{type: openai, model: m, base_url: 'http://{host}/v1'}}", "scorer=judge",
                        "search={type: sample, n: 2}"]) for host in ("a:1", "b:2")]  # fmt: skip
    assert both[0] != both[1] and digest(both[0]) == digest(both[1])


def test_closing_closes_the_model() -> None:
    scorer = judge(VOTES)
    asyncio.run(scorer.close())
    assert scorer.panel.proposer.closed and scorer.max_jobs == 7
