"""Recorded replies as proposer and scorer: tests, demonstrations, comparison with published runs. Samples nothing.

JSON lines: {"problem": ID, "path": ["step text", ...], "children": [{"text": ..., "score": ..., "finish": ...,
"tokens": ...}]}. What was not recorded is an error value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, get_args

from treesearch.backends.base import LastScore, Limits, Scored, Scorer
from treesearch.errors import ConfigError, ProblemError, RequestError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Finish, Job, Step

Key = tuple[str, tuple[str, ...]]  # problem id, path of step texts
LARGEST = (1 << 63) - 1  # of a whole number in a journal
FIELDS = {"text", "score", "finish", "tokens", "logprob"}


@dataclass(frozen=True)
class Recorded:
    """Proposer `recorded`: children first .. first + n - 1 of a path in their order; first children down to an answer."""

    path: str
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> RecordedProposer:
        """Read the file. Raises ConfigError or ProblemError (file:line)."""
        return RecordedProposer(read(self.path))


@dataclass(frozen=True)
class RecordedScorer:
    """Scorer `recorded`: the recorded score of each new step."""

    path: str
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """Read the file. Raises ConfigError or ProblemError (file:line)."""
        return RecordedScores(read(self.path))


@dataclass(frozen=True)
class RecordedOutcome(RecordedScorer):
    """Outcome `recorded`: the recorded score of the last step."""

    def build(self, task: Task, prompt: Prompt) -> Scorer:
        """Read the file. Raises ConfigError or ProblemError (file:line)."""
        return LastScore(RecordedScores(read(self.path)))


@lru_cache(maxsize=4)
def read(path: str) -> dict[Key, tuple[Step, ...]]:
    """All recorded children by problem and path. Raises ConfigError if there is no file, ProblemError for a bad line."""
    try:
        lines = Path(path).read_text("utf-8").split("\n")  # splitlines() would also cut at U+2028 inside a text
    except UnicodeDecodeError as error:
        raise ConfigError(f"recorded file {path}: {error}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"recorded file {path}: {error.strerror}; set its path to a file of recorded steps") from None
    found: dict[Key, tuple[Step, ...]] = {}
    first: dict[Key, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = (_problem(row["problem"]), _path(row["path"]))
            steps = tuple(_step(child) for child in _children(row["children"]))
        # a score of 400 digits overflows, a line of 100,000 brackets recurses: both are bad lines, not crashes
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ProblemError(f"{path}:{number}: not a recorded path with children: {error!r}") from None
        if key in found:
            raise ProblemError(f"{path}:{number}: problem {key[0]!r} has this path already in line {first[key]}")
        found[key], first[key] = steps, number
    return found


def _problem(problem: Any) -> str:
    if not isinstance(problem, str | int) or isinstance(problem, bool):
        raise ValueError(f"problem {problem!r} is not an id")
    return str(problem)


def _children(children: Any) -> list[Any]:
    if not isinstance(children, list):
        raise ValueError(f"children {children!r} is not a list")
    return children


def _path(path: Any) -> tuple[str, ...]:
    if not isinstance(path, list) or not all(isinstance(text, str) for text in path):
        raise ValueError(f"path {path!r} is not a list of strings")
    return tuple(path)


def _step(child: Any) -> Step:
    if not isinstance(child, dict):
        raise ValueError(f"child {child!r} is not an object with a text")
    finish: Finish = child.get("finish", "step")
    if finish not in get_args(Finish):
        raise ValueError(f"finish {finish!r} is not one of {', '.join(get_args(Finish))}")
    if unknown := set(child) - FIELDS:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r} in a child")
    text, score = child["text"], child.get("score")
    if not isinstance(text, str):
        raise ValueError(f"text {text!r} is not a string")
    for name in ("score", "logprob"):
        value = child.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and (not number or (type(value) is int and abs(value) > LARGEST)):
            raise ValueError(f"{name} {value!r} is not a finite number")
    tokens = child.get("tokens")
    if tokens is not None and (type(tokens) is not int or not 0 <= tokens <= LARGEST):
        raise ValueError(f"tokens {tokens!r} is not a count")
    return Step(text, tokens=tokens, logprob=child.get("logprob"), score=score, finish=finish)


class RecordedProposer:
    """Replays what was recorded."""

    max_jobs = 256

    def __init__(self, recorded: dict[Key, tuple[Step, ...]]) -> None:
        self.recorded = recorded

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...] | Exception]:
        return [self._chains(job) for job in jobs]

    def _chains(self, job: Job) -> tuple[Chain, ...] | Exception:
        path = tuple(step.text for step in job.path)
        children = self.recorded.get((job.problem.id, path), ())
        stop = len(children) if job.n is None else job.first + job.n
        if not children or stop > len(children):
            asked = "all" if job.n is None else f"{job.first} to {stop - 1}"
            return RequestError(f"problem {job.problem.id}: {len(children)} children are recorded after {list(path)}, "
                                f"asked were {asked}")  # fmt: skip
        try:
            return tuple(self._down(job, path, child) for child in children[job.first : stop])
        except RequestError as error:
            return error

    def _down(self, job: Job, path: tuple[str, ...], step: Step) -> Chain:
        """This child, and where the answer is asked for, the first children below it."""
        chain = [step]
        while job.until != "step" and chain[-1].finish == "step":
            path = (*path, chain[-1].text)
            children = self.recorded.get((job.problem.id, path))
            if not children:
                raise RequestError(f"problem {job.problem.id}: nothing is recorded after {list(path)}")
            chain.append(children[0])
        return tuple(chain)

    async def close(self) -> None: ...


class RecordedScores:
    """Scores by problem and path of texts."""

    max_jobs = 256

    def __init__(self, recorded: dict[Key, tuple[Step, ...]]) -> None:
        self.scores = {
            (problem, (*path, step.text)): step.score for (problem, path), steps in recorded.items() for step in steps
        }

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        return [self._scored(job, chains) for job, chains in items]

    def _scored(self, job: Job, chains: tuple[Chain, ...]) -> Scored | Exception:
        rows = []
        for chain in chains:
            texts = [step.text for step in (*job.path, *chain)]
            row = [self.scores.get((job.problem.id, tuple(texts[: k + 1]))) for k in range(len(job.path), len(texts))]
            if None in row:
                return RequestError(
                    f"problem {job.problem.id}: no score is recorded for {texts[len(job.path) + row.index(None)]!r}"
                )
            rows.append(tuple(float(value) for value in row if value is not None))
        return Scored(tuple(rows), 0)

    async def close(self) -> None: ...
