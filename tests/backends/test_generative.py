"""A verifier that thinks aloud: which verdict belongs to which step, and what follows from the final one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import job, save
from tests.backends.saying import Says
from treesearch.backends import OUTCOMES
from treesearch.backends.base import Scored
from treesearch.backends.generative import LEAD, Generative, GenerativeOutcome, numbered, verdicts
from treesearch.backends.transformers import Transformers
from treesearch.config import build, load
from treesearch.errors import ConfigError, RequestError
from treesearch.run import answer_all
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Job, Step

PLAIN = load_task("plain")
CARD = """ Step 1: Take 3 from both sides: 2x = 4

Critique: as 7 - 3 is 4, this step seems correct. Step 2 divides.

Step 2: Divide by 2: x = 1

Critique: 4 / 2 is 2, so after Step 1 this should be x = 2. Wait, is Step 1 right? Yes.

**Final Output:**

Let's verify step by step:

Step 1: Take 3 from both sides: 2x = 4

Critique: This step is correct.

Step 1 is \\boxed{correct}

Step 2: Divide by 2: x = 1

Critique: as said in Step 1, this is not so. The step is \\boxed{incorrect}
</think>
Is the solution correct? No"""
RIGHT = "Step 1: fine. The step is \\boxed{correct}\nStep 2: fine. The step is \\boxed{correct}"


@pytest.mark.parametrize(
    "vote, steps, found",
    [
        (CARD, 2, (True, False)),
        (RIGHT, 2, (True, True)),
        (RIGHT, 3, (True, True, None)),
        (RIGHT + "\nIs the solution correct? Yes", 3, (True, True, True)),
        (RIGHT + "\nIs the solution correct? No", 3, (True, True, False)),
        (RIGHT + "\nStep 3: The step is \\boxed{incorrect}", 2, (True, True)),
        ("Step 1: no. \\boxed{incorrect}", 3, (False, False, False)),
        ("Step 2: no. \\boxed{incorrect}\nStep 3: \\boxed{correct}", 3, (None, False, False)),
        ("Step 1: \\boxed{correct}. Wait, no.\nStep 1: \\boxed{incorrect}", 1, (False,)),
        ("**Step 1**: so \\boxed{\\text{Correct}}", 1, (True,)),
        ("first \\boxed{correct} then \\boxed{incorrect}", 2, (True, False)),
        ("\\boxed{correct} \\boxed{correct} \\boxed{correct}", 2, (None, None)),
        ("Is the solution correct? **Yes**", 2, (True, True)),
        ("Is the solution correct? No", 2, (None, False)),
        ("the answer is \\boxed{4}", 1, (None,)),
        ("", 1, (None,)),
    ],
)
def test_what_a_verification_says_of_each_step(vote: str, steps: int, found: tuple[bool | None, ...]) -> None:
    assert verdicts(vote, steps) == found


def verifier(say: Any, kind: Any = Generative, **settings: Any) -> Any:
    return kind(model=Says(say), **settings).build(PLAIN, Prompt())


def chain(*texts: str) -> Chain:
    return tuple(Step(f"{text}\n") for text in texts)


def score(scorer: Any, *chains: Chain, asked: Job | None = None) -> Scored | Exception:
    (reply,) = asyncio.run(scorer.score([(asked or job(), chains)]))
    return reply


def test_one_call_for_a_path_gives_the_values_of_its_new_steps() -> None:
    scorer = verifier([CARD])
    assert score(scorer, chain("2x = 4", "x = 1")) == Scored(((1.0, 0.0),), None)
    assert score(scorer, chain("x = 1"), asked=job(path=chain("2x = 4"))) == Scored(((0.0,),), 0), "asked before"
    (asked,) = scorer.panel.proposer.asked
    assert asked.n == 1 and asked.sampling.temperature == 0 and [step.text for step in asked.path] == [LEAD]
    assert "\nStep 1: 2x = 4\nStep 2: x = 1\n" in asked.problem.question


def test_steps_are_numbered_once() -> None:
    assert numbered(["Step 1: a\n\n", "## Step 7: b\n", "c"]) == "Step 1: a\nStep 2: b\nStep 3: c"


def test_verdicts_are_averaged_over_the_votes_that_give_one() -> None:
    votes = [CARD, RIGHT, "who knows", "Step 1: \\boxed{correct}"]
    scorer = verifier(votes, votes=4, temperature=0.7)
    assert score(scorer, chain("a", "b")) == Scored(((1.0, 0.5),), None)


def test_a_step_that_no_vote_speaks_of_is_an_error_unless_nobody_needs_it() -> None:
    scorer = verifier(["Step 2: The step is \\boxed{correct}"])
    reply = score(scorer, chain("a", "b"))
    assert isinstance(reply, RequestError) and "whether step 1 is right" in str(reply) and "boxed" in str(reply)
    assert score(scorer, chain("b"), asked=job(path=chain("a"))) == Scored(((1.0,),), 0)
    assert isinstance(score(scorer, chain("a", "b", "c")), RequestError)


def test_an_outcome_is_the_verdict_on_the_whole_chain() -> None:
    assert OUTCOMES["generative"] is GenerativeOutcome
    scorer = verifier(["Is the solution correct? Yes", CARD], kind=GenerativeOutcome, votes=2, temperature=0.7)
    assert score(scorer, chain("a", "b")) == Scored(((0.5,),), None)


def test_the_reference_is_never_asked_about() -> None:
    scorer = verifier([RIGHT])
    score(scorer, chain("a", "b"), asked=replace(job(), problem=replace(job().problem, reference="S3CRET")))
    assert "S3CRET" not in repr(scorer.panel.proposer.asked)


def test_a_small_model_of_random_weights_goes_on_with_the_lead_and_cannot_be_understood(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "causal", chat=True, max_position_embeddings=2048)
    scorer: Any = Generative(model=Transformers(str(folder)), max_tokens=8).build(PLAIN, Prompt())
    start = scorer.panel.proposer.start(job("why?", path=scorer.panel.path))
    assert scorer.panel.proposer.tokenizer.decode(start.prefix).endswith(
        f"why?<|im_end|>\n<|im_start|>assistant\n{LEAD}"
    )
    assert isinstance(score(scorer, chain("a")), RequestError)
    asyncio.run(scorer.close())


def test_a_prompt_of_ones_own_must_show_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("{question}")
    with pytest.raises(ConfigError, match="never shows"):
        verifier([RIGHT], prompt=str(path))
    path.write_text("{question}: {steps}")
    scorer = verifier([RIGHT], prompt=str(path))
    score(scorer, chain("a", "b"))
    assert scorer.panel.proposer.asked[0].problem.question == "4 5 6 10: Step 1: a\nStep 2: b"


def test_a_run_with_a_verifier_that_thinks_aloud() -> None:
    says = "tests.backends.saying:Says"
    model = f"{{type: '{says}', say: ['Is the solution correct? Yes']}}"
    config = load(None, ["proposer=simulated", f"scorer={{type: generative, model: {model}}}",
                         "search={type: sample, n: 4}"])  # fmt: skip
    assert config.labels() == ["SAYING", "SIMULATED"] and build([config.resolved()]) == config
    (answer,) = asyncio.run(answer_all(config, load_task("game24").problems("game24")[:1]))
    assert {score for c in answer.candidates for score in c.scores} == {1.0}
    assert answer.tokens_scored is None, "the model does not say how long its prompts were"
