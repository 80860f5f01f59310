"""A problem set as a stream: a built-in name, a file, standard input or a data set of the Hub, one problem at a time.

What is kept of a problem that has gone by is a digest of its id and its line, some 110 bytes. Knows no search and no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from treesearch.errors import ConfigError, ProblemError
from treesearch.problems import hub, rows
from treesearch.problems.rows import Row
from treesearch.tasks.base import Task
from treesearch.tasks.sets import SOURCES
from treesearch.terminal import encodable
from treesearch.types import Problem, digest

QUESTION, REFERENCE = ("question", "problem"), ("answer", "reference")  # columns after the task's own; the first found


LONGEST_ID = 1000  # characters: it is in each request and each row of the journal


@dataclass(frozen=True, slots=True)
class Fields:
    """Columns that hold a problem; a dotted name reaches into an object.

    None: `id` (the line number where a row has none); the names of the task's published files, then question or problem,
    and answer or reference.
    """

    id: str | None = None
    question: str | None = None
    answer: str | None = None


class ProblemSet:
    """The problems of `source`, at most the first `limit`: iterate for a pass over them.

    `lines`: digest of each id that has gone by -> its line. `count`: how many there are, None before the end of the first
    pass. `once`: a second pass is not possible, and a next problem may be long in coming. A pass raises ProblemError
    ("FILE:LINE: ...") at a malformed row, ConfigError for a source that cannot be read at all.
    """

    def __init__(self, source: str, task: Task, limit: int | None = None, fields: Fields | None = None) -> None:
        self.limit = limit
        self.count: int | None = None
        self.lines: dict[int, int] = {}
        source = SOURCES.get(source, source)
        self.name = "<stdin>" if source == "-" else source
        self.once = source == "-" or source.startswith(hub.PREFIX)
        self._pass = _opened(source, self.name, task, fields or Fields())

    def __iter__(self) -> Iterator[Problem]:
        count = 0
        for line, problem in islice(self._pass(), self.limit):
            known = self.lines.setdefault(digest(problem.id), line)
            if known != line:
                raise ProblemError(f"{self.name}:{line}: id {problem.id!r} was used on line {known}; ids must differ")
            count += 1
            yield problem
        if not count:
            raise ProblemError(
                f"{self.name}: no problems in it; each line is an object with a question, and an answer to check against"
            )
        self.count = count


def read(source: str, task: Task, limit: int | None = None, fields: Fields | None = None) -> list[Problem]:
    """All problems of a small set at once. Raises what a pass over a ProblemSet raises."""
    return list(ProblemSet(source, task, limit, fields))


def _opened(source: str, name: str, task: Task, fields: Fields) -> Callable[[], Iterable[tuple[int, Problem]]]:
    """What begins a pass over (line, problem)."""
    path = Path(source)
    if source == "-":
        return lambda: _problems(name, rows.of_stdin(), task, fields)
    if source.startswith(hub.PREFIX):
        return lambda: _problems(name, hub.of_hub(source), task, fields)
    if rows.kind_of(path) in rows.SUFFIXES:
        return lambda: _problems(name, rows.of_file(path), task, fields)
    if path.suffix or "/" in source:
        raise ConfigError(
            f"problems = {source!r}: not a known format; use {', '.join(rows.SUFFIXES)} (also .gz), - for stdin, or "
            "hf:ORG/NAME for the Hub"
        )
    built_in = task.problems(source)
    if fields != Fields():
        raise ConfigError(f"problems = {source!r}: a packaged set has no columns to name; leave fields out")
    return lambda: enumerate(built_in, 1)


def _problems(name: str, found: Iterable[Row], task: Task, fields: Fields) -> Iterator[tuple[int, Problem]]:
    own: tuple[str, ...] = getattr(task, "fields", ())  # (question, reference) in the published files of a task
    questions, references = (*own[:1], *QUESTION), (*own[1:], *REFERENCE)
    for line, row in found:
        yield line, _problem(f"{name}:{line}", line, row, task, fields, questions, references)


def _problem(where: str, line: int, row: Mapping[str, Any], task: Task, fields: Fields, questions: tuple[str, ...],
             references: tuple[str, ...]) -> Problem:  # fmt: skip
    question, reference = (
        _field(where, row, fields, "question", questions),
        _field(where, row, fields, "answer", references),
    )
    if question is None and isinstance(row.get("numbers"), list):
        question, reference = _puzzle(row, task)
    if not isinstance(question, str) or not question.strip():
        kind = "an empty one" if isinstance(question, str) else f"one of type {type(question).__name__}"
        found = kind if question is not None else f"only {', '.join(map(str, row)) or 'no fields'}"
        named = repr(fields.question) if fields.question else "(or problem; or name the column in fields.question)"
        raise ProblemError(f"{where}: a row needs a question {named} of text, this one has {found}")
    given = _field(where, row, fields, "id", ("id",))
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int) or given == ""):
        raise ProblemError(f"{where}: id {given!r} must be text or a whole number")
    if reference is not None and not isinstance(reference, str):
        reference = json.dumps(reference, default=str)
    name = str(given) if given is not None else f"line-{line}"
    if len(name) > LONGEST_ID:
        raise ProblemError(
            f"{where}: an id of {len(name):,} characters, at most {LONGEST_ID:,}; name another column in fields.id"
        )
    if not (name.isascii() and question.isascii() and (reference is None or reference.isascii())):
        for what, text in (("id", name), ("question", question), ("answer", reference or "")):
            _encodable(where, what, text)
    return Problem(name, question, reference)


def _field(where: str, row: Mapping[str, Any], fields: Fields, key: str, names: Iterable[str]) -> Any:
    """The value of the column that `fields` names, else of the first of `names` that has one."""
    name: str | None = getattr(fields, key)
    if name is None:
        for name in names:
            if (found := row.get(name)) is not None:
                return found
        return None
    value: Any = row
    for part in (name,) if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ProblemError(
                f"{where}: fields.{key} = {name!r}: there is no such column; there are {', '.join(map(str, row)) or 'none'}"
            )
        value = value[part]
    return value


def _encodable(where: str, what: str, text: str) -> None:
    """Refuse lone surrogates, which JSON can write and no tokenizer, file or database takes."""
    if not encodable(text):
        at, half = next((k, c) for k, c in enumerate(text) if not encodable(c))
        raise ProblemError(f"{where}: the {what} is not text: {half!r} at character {at} is half of a character")


def _puzzle(row: Mapping[str, Any], task: Task) -> tuple[str, str | None]:
    """Question and reference of a row {"numbers": [4, 5, 6, 10], "target": 24}."""
    numbers = " ".join(str(n) for n in row["numbers"])
    target = row.get("target")
    if target is None:
        return numbers, None
    return (f"{numbers} -> {target}" if task.name == "countdown" else numbers), str(target)
