"""A language model that verifies a solution aloud, step by step, as in ThinkPRM (arXiv:2504.16828). Knows no search.

Prompt and format are those of the cards of launch/ThinkPRM-1.5B, -7B and -14B; any model that follows the prompt will do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.backends.base import Scored, Scorer
from treesearch.backends.judge import LONGEST_QUOTE, fill, template
from treesearch.backends.panel import Panel, PanelScorer, PanelSpec
from treesearch.errors import RequestError
from treesearch.manager import total
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job

PROMPT = """You are given a math problem and a proposed step-by-step solution:

[Math Problem]

{question}

[Solution]

{steps}

Review and critique each step in the proposed solution to determine whether each step is correct. If the solution is \
incomplete, only verify the provided steps."""  # the models were trained with these words
LEAD = "\nLet's verify step by step:"  # as the cards begin the model's turn
_NUMBER = re.compile(r"\s*(?:#+\s*)?step\s+[0-9]+\s*[:.]\s*", re.IGNORECASE)  # where a step begins
_MARKS = re.compile(
    r"^(?:[^\S\n]|[#*>-])*step\s+(?P<header>[0-9]{1,9})\b|\\boxed\{\s*(?:\\text\{\s*)?(?P<verdict>correct|incorrect)\b",
    re.IGNORECASE | re.MULTILINE,
)
_FINAL = re.compile(r"is the solution correct\?\W*(yes|no)\b", re.IGNORECASE)

Verdicts = tuple[bool | None, ...]  # a step right so far, wrong, or not said


@dataclass(frozen=True)
class Generative(PanelSpec):
    """Scorer `generative`: the share of `votes` verifications in which a step, and all before it, is right.

    One verification reads a whole path and gives verdicts for all its steps. Like the cards: greedy, a chat, one vote.
    `prompt` is the path of a text with {question} and {steps} (numbered).
    """

    votes: int = 1
    temperature: float = 0.0
    max_tokens: int = 4096
    prompt: str | None = None

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """Build the model. Raises ConfigError as it does, or for a prompt that cannot be used."""
        return GenerativeScorer(self)


@dataclass(frozen=True)
class GenerativeOutcome(Generative):
    """Outcome `generative`: the share of verifications that find the whole chain right."""

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """As for a scorer."""
        return GenerativeScorer(self, whole=True)


class GenerativeScorer(PanelScorer):
    """Asks about paths. `whole`: one value a chain, that of its last step."""

    def __init__(self, spec: Generative, whole: bool = False) -> None:
        self.whole = whole
        self.template = PROMPT if spec.prompt is None else template(spec.prompt, "value")
        super().__init__(Panel(spec, lead=LEAD))

    async def item(self, job: Job, chains: tuple[Chain, ...]) -> Scored:
        replies = await asyncio.gather(*(self._chain(job, chain) for chain in chains))
        return Scored(tuple(values for values, _ in replies), total(tokens for _, tokens in replies))

    async def _chain(self, job: Job, chain: Chain) -> tuple[tuple[float, ...], int | None]:
        texts = [step.text for step in (*job.path, *chain)]
        prompt = fill(self.template, question=job.problem.question, steps=numbered(texts), step=texts[-1].strip())
        (found, end), tokens = await self.panel.ask(prompt, lambda votes: shares(votes, len(texts)), job.priority)
        values = found[-1:] if self.whole else found[len(job.path) :]
        return tuple(_known(value, k, end) for k, value in enumerate(values, len(texts) - len(values) + 1)), tokens


def _known(value: float | None, step: int, end: str) -> float:
    if value is None:
        raise RequestError(f"no verification says whether step {step} is right; one ends {end!r}")
    return value


def numbered(texts: Sequence[str]) -> str:
    """`Step 1: ...`, a line each; a number that a step has already is taken off."""
    return "\n".join(f"Step {k}: {_unnumbered(text)}" for k, text in enumerate(texts, 1))


def _unnumbered(text: str) -> str:
    found = _NUMBER.match(text)
    return text[found.end() if found else 0 :].strip()


def shares(votes: Sequence[str], steps: int) -> tuple[list[float | None], str]:
    """For each step the share of the votes that say something of it and call it right (None: none says anything), and how
    the last vote ends."""
    columns = zip(*(verdicts(vote, steps) for vote in votes), strict=True)
    said = [[verdict for verdict in column if verdict is not None] for column in columns]
    return [sum(column) / len(column) if column else None for column in said], votes[-1][-LONGEST_QUOTE:]


def verdicts(vote: str, steps: int) -> Verdicts:
    """What a verification says of each of `steps` steps: whether it is right and all before it are.

    `\\boxed{correct}` belongs to the step whose heading it follows (the last one of a step counts), or, without any
    headings, to the step of its place. After a wrong step all are wrong: verifiers stop there. "Is the solution correct?"
    is the verdict on the last step, which is how ThinkPRM scores a prefix, and its Yes on each step without one.
    """
    said = _boxed(vote, steps)
    found: list[bool | None] = []
    for k in range(1, steps + 1):
        found.append(False if False in found else said.get(k))
    final = _FINAL.findall(vote)
    if final:
        right = final[-1].lower() == "yes"
        found = [True if value is None and right else value for value in found]
        found[-1] = right
    return tuple(found)


def _boxed(vote: str, steps: int) -> dict[int, bool]:
    """Verdicts by the number of their step."""
    under: dict[int, bool] = {}
    loose: list[bool] = []
    step = None
    for mark in _MARKS.finditer(vote):
        if mark["header"]:
            step = int(mark["header"])
        elif step is None:
            loose.append(mark["verdict"].lower() == "correct")
        else:
            under[step] = mark["verdict"].lower() == "correct"
    return dict(enumerate(loose, 1)) if not under and len(loose) <= steps else under
