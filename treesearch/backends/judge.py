"""A language model as judge of steps, as in Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601). Knows no search.

`value` asks of each state by itself whether it can lead to the answer; `vote` shows all siblings and asks for the best.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from treesearch.backends.base import Scored, Scorer, states
from treesearch.backends.panel import Panel, PanelScorer, PanelSpec
from treesearch.errors import ConfigError, RequestError
from treesearch.manager import total
from treesearch.tasks.base import Prompt, Task
from treesearch.tasks.readers import boxed
from treesearch.types import Chain, Job

UNIT = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}
TOT = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}  # the paper's code, src/tot/tasks/game24.py
NOTHING = (
    0.0  # in the paper's code the value of a state that an earlier sibling has, or of a puzzle that ends without answer
)
LONGEST_QUOTE = 200  # characters of an unreadable vote that are told

State = tuple[str, ...]  # texts of the steps

VALUE = """Judge how far a solution can be trusted. Check each step. The solution may stop before its answer: then judge \
whether it can still lead to the right one.

Question:
{question}

Solution so far:
{steps}

Think briefly. Then end with a line that holds one word only:
sure: all steps are right and give the right answer, or certainly lead to it
likely: no step is wrong, but the right answer is not certain
impossible: a step is wrong, or the right answer cannot follow
"""
NUMBERS = """Can these numbers make the target with + - * /, each used exactly once? Try a few ways. Then end with a line \
that holds one word only: sure, likely or impossible.

numbers 4 6, target 24
4 * 6 = 24
sure

numbers 3 10, target 24
3 + 10 = 13
10 - 3 = 7
3 * 10 = 30
no way is left
impossible

numbers 2 5 7, target 24
(5 + 7) * 2 = 12 * 2 = 24
sure

numbers 4 7 9, target 30
4 * 7 + 9 = 37
4 * 9 - 7 = 29
none found yet, but they come near
likely

numbers 1 1 2, target 24
(1 + 1) * 2 = 4
all of them are too small
impossible

numbers {left}, target {target}
"""
ANSWER = """Is the answer right? It must use each of the numbers exactly once and no others, and make the target. End with a \
line that holds one word only: sure or impossible.

numbers 2 3 5 6, target 24
answer: (5 - 3 + 2) * 6 = 24
sure

numbers 1 7 8 8, target 40
answer: (7 - 1) * 8 - 8 = 40
sure

numbers 2 3 5 6, target 24
answer: 6 * 5 - 3 = 24
impossible

numbers 3 4 4 12, target 24
answer: (4 - 4 + 3) * 12 = 24
impossible

numbers {numbers}, target {target}
answer: {answer}
"""
VOTE = """Several ways to continue a solution are given. Look at each of them, then decide which is the best.

Question:
{question}

Solution so far:
{steps}

{choices}

Compare the choices. Then end with a line: The best choice is NUMBER
"""


@dataclass(frozen=True)
class Judge(PanelSpec):
    """Scorer `judge`: rates each state (`mode: value`), or lets the votes choose among siblings (`mode: vote`).

    `scale: unit`: a value is the mean over the votes of sure 1, likely 0.5, impossible 0 (in [0, 1]); of `mode: vote`, the
    share of the votes. `scale: tot` is the paper's: the sum over the votes of sure 20, likely 1, impossible 0.001, and 0
    for a state that an earlier sibling has; of `mode: vote`, the number of votes. `values` are other words with their
    values. Votes that cannot be read count as nothing; if none can, that is an error. `prompt` is the path of a text with
    {question}, {steps} and {step} (the last one); of `mode: vote`, {choices}. A wish that compares siblings is voted on.
    What siblings are compared with is their own wish alone, so votes of different wishes are no common scale.
    """

    mode: Literal["value", "vote"] = "value"
    scale: Literal["unit", "tot"] = "unit"
    values: dict[str, float] = field(default_factory=dict)
    prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, value in self.values.items():
            if word != _word(word):
                raise ConfigError(
                    f"values has {word!r}: a verdict is a lower-case word, such as {_word(word) or 'sure'!r}"
                )
            if self.scale == "unit" and not 0 <= value <= 1:
                raise ConfigError(f"values.{word} = {value!r}: must be in [0, 1]; or use scale: tot")

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """Build the model. Raises ConfigError as it does, or for a prompt that cannot be used."""
        return JudgeScorer(self, task)


@dataclass(frozen=True)
class JudgeOutcome(Judge):
    """Outcome `judge`: rates whole chains; only their last state is asked about."""

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """As for a scorer."""
        return JudgeScorer(self, task, whole=True)


class JudgeScorer(PanelScorer):
    """Asks about states. `whole`: about whole chains alone, one value a chain."""

    def __init__(self, spec: Judge, task: Task, whole: bool = False) -> None:
        self.spec, self.task, self.whole = spec, task, whole
        self.template = None if spec.prompt is None else template(spec.prompt, spec.mode)
        self.raw = spec.scale == "tot"
        self.values = spec.values or (TOT if self.raw else UNIT)
        super().__init__(Panel(spec))

    async def item(self, job: Job, chains: tuple[Chain, ...]) -> Scored:
        if self.spec.mode == "vote" or job.score == "siblings":
            return await self._compared(job, chains)
        return await self._rated(job, chains)

    async def _rated(self, job: Job, chains: tuple[Chain, ...]) -> Scored:
        """Each state by itself."""
        rows = [states(job, chain)[-1 if self.whole else 0 :] for chain in chains]
        earlier: set[State] = set()
        asked = []
        for row in rows:
            asked += [self._value(job, state, self.raw and state in earlier) for state in row]
            earlier.update(row)
        replies = await asyncio.gather(*asked)
        values = iter(value for value, _ in replies)
        return Scored(tuple(tuple(next(values) for _ in row) for row in rows), total(tokens for _, tokens in replies))

    async def _value(self, job: Job, state: State, duplicate: bool) -> tuple[float, int | None]:
        question = job.problem.question
        if duplicate or (self.raw and unfinished(self.task, question, state)):
            return NOTHING, 0
        return await self.panel.ask(self._prompt(question, state), self._rating, job.priority)

    def _prompt(self, question: str, state: State) -> str:
        if self.template is None and (puzzle := puzzle_prompt(self.task, question, state)) is not None:
            return puzzle
        return fill(self.template or VALUE, question=question, steps=_text(state), step=state[-1].strip())

    def _rating(self, votes: Sequence[str]) -> float:
        """The sum (paper) or the mean of the votes that can be read."""
        words = [verdict(self.panel.said(vote)) for vote in votes]
        read = [self.values[word] for word in words if word in self.values]
        if not read:
            raise RequestError(f"no vote of {len(votes)} ends with {', '.join(self.values)}; {_one_of(votes)}")
        return sum(read) if self.raw else sum(read) / len(read)

    async def _compared(self, job: Job, chains: tuple[Chain, ...]) -> Scored:
        """All chains of the item against each other; every new step of a chain has the value of the chain."""
        texts = ["".join(step.text for step in chain).strip() for chain in chains]
        shown = texts if self.raw else list(dict.fromkeys(texts))
        counts, tokens = await self._counts(job, shown)
        values = counts if self.raw else [counts[shown.index(text)] / sum(counts) for text in texts]
        rows = [
            (float(value),) * (1 if self.whole else len(chain)) for value, chain in zip(values, chains, strict=True)
        ]
        return Scored(tuple(rows), tokens)

    async def _counts(self, job: Job, shown: Sequence[str]) -> tuple[list[int], int | None]:
        """How many votes each choice has. One alone has them all: nobody is asked."""
        if len(shown) == 1:
            return [self.spec.votes], 0
        own = self.template if self.spec.mode == "vote" else None
        path = _text([step.text for step in job.path]) or "(none)"
        choices = "\n\n".join(f"Choice {k}:\n{text}" for k, text in enumerate(shown, 1))
        prompt = fill(own or VOTE, question=job.problem.question, steps=path, choices=choices)
        return await self.panel.ask(prompt, lambda votes: self._ballot(votes, len(shown)), job.priority)

    def _ballot(self, votes: Sequence[str], choices: int) -> list[int]:
        """Votes for each choice."""
        chosen = [choice(self.panel.said(vote)) for vote in votes]
        counts = [chosen.count(k) for k in range(1, choices + 1)]
        if not any(counts):
            raise RequestError(f"no vote of {len(votes)} says which choice of {choices} is best; {_one_of(votes)}")
        return counts


def verdict(said: str) -> str:
    """The word on the last line, boxed or after any colon, without marks around it. The paper's code takes the whole line."""
    line = said.rpartition("\n")[2]
    inside = boxed(line)
    return _word(line.rpartition(":")[2] if inside is None else inside.removeprefix("\\text{"))


def choice(said: str) -> int | None:
    """The number in the last "best choice is NUMBER". The paper's code takes the last digit, so it cannot count beyond 9."""
    found = re.findall(r"best choice is\D{0,20}?([0-9]{1,9})", said, re.IGNORECASE)
    return int(found[-1]) if found else None


def puzzle_prompt(task: Task, question: str, state: Sequence[str]) -> str | None:
    """What to ask about a number puzzle: of the numbers left, or of the answer; None if the task is no such puzzle."""
    if not hasattr(task, "puzzle"):
        return None
    numbers, target = task.puzzle(question)
    last = _text(state).rpartition("\n")[2]
    if "left: " in last:
        return fill(NUMBERS, left=last.rpartition("left: ")[2].partition(")")[0].strip(), target=str(target))
    if "answer" not in last.lower():
        return None
    answer = re.sub("answer: ?", "", last, flags=re.IGNORECASE).strip()
    return fill(ANSWER, numbers=" ".join(map(str, numbers)), target=str(target), answer=answer)


def unfinished(task: Task, question: str, state: Sequence[str]) -> bool:
    """Whether a number puzzle has had its last line without an answer: 0 in the paper's code, whatever the votes say."""
    if not hasattr(task, "puzzle"):
        return False
    text, (numbers, _) = _text(state), task.puzzle(question)
    return len(text.split("\n")) == len(numbers) and "answer" not in text.lower()


def template(path: str, mode: str) -> str:
    """The text of a prompt file. Raises ConfigError if it cannot be read or never shows what is judged."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt {path!r} cannot be read: {error}; give the path of a text file") from error
    shown = ("{choices}",) if mode == "vote" else ("{steps}", "{step}")
    if not any(place in text for place in shown):
        raise ConfigError(f"prompt {path!r} never shows what is judged; put {' or '.join(shown)} where it belongs")
    return text


def fill(text: str, **given: str) -> str:
    """The text with each {name} replaced, once: what is put in may hold braces of its own."""
    return re.sub(r"\{(\w+)\}", lambda found: given.get(found[1], found[0]), text)


def _text(state: Sequence[str]) -> str:
    return "".join(state).strip()


def _word(text: str) -> str:
    """Without what is neither letter nor digit around it; by places, for such a pattern is quadratic in a run of marks."""
    places = [k for k, char in enumerate(text) if char.isalnum()]
    return text[places[0] : places[-1] + 1].lower() if places else ""


def _one_of(votes: Sequence[str]) -> str:
    last = votes[-1]
    return f"one is {last if len(last) <= LONGEST_QUOTE else '...' + last[-LONGEST_QUOTE:]!r}"
