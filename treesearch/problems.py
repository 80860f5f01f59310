"""Reads a problem set: built-in name, .jsonl, .csv, .parquet (each also .gz) or "-". Knows no search and no model."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from treesearch.errors import ConfigError, ProblemError
from treesearch.tasks.base import Task
from treesearch.types import Problem

QUESTION, REFERENCE = ("question", "problem"), ("answer", "reference")  # columns after the task's own; the first found
SUFFIXES = (".jsonl", ".csv", ".parquet")
Row = tuple[int, Mapping[str, Any]]  # line number (from 1) and fields


def read(source: str, task: Task, limit: int | None = None) -> list[Problem]:
    """The problems of `source`, at most the first `limit`.

    Raises ProblemError ("FILE:LINE: ...") for a malformed row, ConfigError for a source that cannot be read at all.
    """
    if source.startswith("hf:"):
        raise ConfigError(
            f"problems = {source!r}: Hub data sets cannot be read yet; download it and give the .jsonl or .parquet"
        )
    if source == "-":
        return _problems("<stdin>", _jsonl("<stdin>", sys.stdin), task, limit)
    path = Path(source)
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind in SUFFIXES:
        return _problems(source, _rows(path, kind), task, limit)
    if path.suffix or "/" in source:
        raise ConfigError(
            f"problems = {source!r}: not a known format; use {', '.join(SUFFIXES)} (also .gz), or - for stdin"
        )
    problems = task.problems(source)
    return problems if limit is None else problems[:limit]


def _rows(path: Path, kind: str) -> Iterator[Row]:
    if not path.is_file():
        raise ProblemError(f"{path}: no such file (looked for {path.resolve()})")
    if kind == ".parquet":
        yield from _parquet(path)
        return
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="" if kind == ".csv" else None) as file:
            yield from _csv(str(path), file) if kind == ".csv" else _jsonl(str(path), file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: cannot be read: {error}") from None


def _jsonl(name: str, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProblemError(f"{name}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ProblemError(f"{name}:{number}: holds a {type(row).__name__}, not an object with a question")
        yield number, row


def _csv(name: str, file: TextIO) -> Iterator[Row]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise ProblemError(f"{name}:{reader.line_num}: more fields than the header has")
            yield reader.line_num, {key: value for key, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        raise ProblemError(f"{name}:{reader.line_num}: not CSV: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            f"problems = {str(path)!r}: parquet needs pyarrow; pip install pyarrow, or convert it to .jsonl"
        )
    from pyarrow import parquet

    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        rows = parquet.read_table(io.BytesIO(raw)).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are children of these
        raise ProblemError(f"{path}: not parquet: {error}") from None
    yield from enumerate(rows, 1)


def _problems(name: str, rows: Iterable[Row], task: Task, limit: int | None) -> list[Problem]:
    """Rows as problems; ids are unique, and the line number where a row has none."""
    out: list[Problem] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        if limit is not None and len(out) >= limit:
            break
        problem = _problem(f"{name}:{number}", number, row, task)
        if problem.id in lines:
            raise ProblemError(
                f"{name}:{number}: id {problem.id!r} was used on line {lines[problem.id]}; ids must differ"
            )
        lines[problem.id] = number
        out.append(problem)
    if not out:
        raise ProblemError(
            f"{name}: no problems in it; each line is an object with a question, and an answer to check against"
        )
    return out


def _problem(where: str, number: int, row: Mapping[str, Any], task: Task) -> Problem:
    own: tuple[str, ...] = getattr(
        task, "fields", ()
    )  # (question, reference) as the published files of a task name them
    question, reference = _field(row, (*own[:1], *QUESTION)), _field(row, (*own[1:], *REFERENCE))
    if question is None and isinstance(row.get("numbers"), list):
        question, reference = _puzzle(row, task)
    if not isinstance(question, str) or not question.strip():
        found = (
            "an empty or non-text one" if question is not None else f"only {', '.join(map(str, row)) or 'no fields'}"
        )
        raise ProblemError(f"{where}: a row needs a question (or problem) of text, this one has {found}")
    given = row.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int) or given == ""):
        raise ProblemError(f"{where}: id {given!r} must be text or a whole number")
    if reference is not None and not isinstance(reference, str):
        reference = json.dumps(reference)
    return Problem(str(given) if given is not None else f"line-{number}", question, reference)


def _puzzle(row: Mapping[str, Any], task: Task) -> tuple[str, str | None]:
    """Question and reference of a row {"numbers": [4, 5, 6, 10], "target": 24}."""
    numbers = " ".join(str(n) for n in row["numbers"])
    target = row.get("target")
    if target is None:
        return numbers, None
    return (f"{numbers} -> {target}" if task.name == "countdown" else numbers), str(target)


def _field(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
