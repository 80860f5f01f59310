"""results.jsonl: a line a problem, and what they sum up to. Knows no search and no model.

Lines are appended as problems end and put in the order of the problems when a run ends, by copying from file to file: in
memory is a digest of each id, of its question, and where its line begins.
"""

from __future__ import annotations

import io
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import IO, Any

from treesearch import __version__
from treesearch.errors import ConfigError
from treesearch.manager import add
from treesearch.types import Problem, digest

Row = dict[str, Any]  # a line of results.jsonl
KEYS = {"id", "question", "reference", "answer", "correct", "score", "text", "candidates", "tokens", "expansions",
        "seconds", "stopped", "error", "seed"}  # fmt: skip
Summary = dict[str, Any]  # summary.json
COUNTS = ("generated", "scored", "wasted")


@dataclass(slots=True)
class Tally:
    """Sums over lines; an unknown count makes its sum unknown."""

    problems: int = 0
    correct: int = 0
    oracle: int = 0  # any candidate is right
    generated: int | None = 0
    scored: int | None = 0
    wasted: int | None = 0
    expansions: int = 0

    def add(self, row: Row) -> None:
        """Count one more line."""
        right, tokens = row["correct"] is True, row["tokens"]
        self.problems += 1
        self.correct += right
        self.oracle += right or any(c["correct"] is True for c in row["candidates"])
        self.generated = add(self.generated, tokens["generated"])
        self.scored = add(self.scored, tokens["scored"])
        self.wasted = add(self.wasted, tokens["wasted"])
        self.expansions += row["expansions"]

    def summary(self, seconds: float, labels: list[str], prefix_hit_rate: float | None = None) -> Summary:
        """summary.json of these lines: errors and nulls are wrong."""
        n, generated = self.problems, self.generated
        return {
            "problems": n,
            "correct": self.correct,
            "accuracy": self.correct / n if n else 0.0,
            "accuracy_ci95": list(wilson(self.correct, n)),
            "oracle_accuracy": self.oracle / n if n else 0.0,
            "tokens_generated": generated,
            "tokens_scored": self.scored,
            "tokens_wasted": self.wasted,
            "expansions": self.expansions,
            "seconds": round(seconds, 3),
            "tokens_per_second": None if generated is None or seconds <= 0 else round(generated / seconds, 3),
            "prefix_hit_rate": prefix_hit_rate,
            "version": __version__,
            "labels": labels,
        }


class Results:
    """The lines of results.jsonl in `folder`: those from before, and what is appended. `tally` sums them up.

    A line that is damaged, or cut short by a kill, is made anew from run.db, and one of a cancelled search is searched
    again: neither counts. `notes` tells of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "results.jsonl"
        self.tally = Tally()
        self._place: dict[int, int] = {}  # digest of an id -> number of its line
        self._start = array("q")  # where each line begins
        self._question = array("Q")  # digest of each line's question
        self._clean = True  # the file holds these lines and nothing else
        self._end = 0
        self._file: io.FileIO | None = None
        self.notes: list[str] = []
        damaged = 0
        for start, row in _lines(self.path):
            damaged += row is None
            if row is not None and row["stopped"] != "cancelled" and row["id"] not in self:
                self._note(start, row)
                self.tally.add(row)
            else:
                self._clean = False
        if damaged:
            self.notes.append(f"{self.path}: {damaged} lines are damaged or cut short: they are made anew from run.db")

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, problem_id: str) -> bool:
        return digest(problem_id) in self._place

    def has(self, problem: Problem) -> bool:
        """Whether the problem has its line; raises ConfigError if that is about another question."""
        place = self._place.get(digest(problem.id)) if self._place else None
        if place is not None and self._question[place] != digest(problem.question):
            raise ConfigError(
                f"{self.folder} has problem {problem.id!r} with another question: the problem set changed; use another --out"
            )
        return place is not None

    def keep(self, ids: Mapping[int, int]) -> None:
        """Forget the lines of all problems but these (digests of ids): a lower limit asks for fewer."""
        if len(unasked := self._place.keys() - ids.keys()):
            for key in unasked:
                del self._place[key]
            self._clean = False
            wanted = {self._start[place] for place in self._place.values()}
            self.tally = Tally()
            for start, row in _lines(self.path):
                if row is not None and start in wanted:
                    self.tally.add(row)

    def open(self) -> None:
        """Begin to append."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rewrite(sorted(self._place.values(), key=self._start.__getitem__))
        self._file = open(self.path, "ab", buffering=0, opener=no_link)  # noqa: SIM115 (closed by `close`)
        self._end = self._file.tell()

    def append(self, row: Row) -> None:
        """Write the line of a problem that ended: all of it, or nothing and an OSError."""
        assert self._file is not None, "not open"
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._note(self._end, row)
        self._end += len(line)
        self.tally.add(row)

    def close(self, order: Mapping[int, int]) -> None:
        """End, with the lines in order: those of the problems in `order` (digest of an id -> line of it), then others."""
        if self._file is not None:
            self._file.close()
            self._file = None
        last = len(order) and max(order.values()) + 1
        ordered = sorted(self._place.items(), key=lambda item: (order.get(item[0], last), self._start[item[1]]))
        self._rewrite([place for _, place in ordered])

    def _note(self, start: int, row: Row) -> None:
        self._start.append(start)
        self._question.append(digest(row["question"]))
        self._place[digest(row["id"])] = len(self._start) - 1  # last: a stream is read in another thread

    def _rewrite(self, places: Sequence[int]) -> None:
        """Put these lines in this order, if the file is not so already."""
        starts = [self._start[place] for place in places]
        if self._clean and all(a < b for a, b in pairwise(starts)):
            return
        with open(self.path, "rb") as old:

            def copy(new: IO[bytes]) -> None:
                for place, start in zip(places, starts, strict=True):
                    old.seek(start)
                    self._start[place] = new.tell()
                    new.write(old.readline())

            replace(self.path, copy)
        self._clean = True


def read_rows(out: Path) -> Iterator[Row]:
    """The lines of a folder's results.jsonl that are whole."""
    return (row for _, row in _lines(out / "results.jsonl") if row is not None)


def _lines(path: Path) -> Iterator[tuple[int, Row | None]]:
    """(where it begins, the row) of each line; None where it is not whole."""
    if not path.exists():
        return
    start = 0
    with open(path, "rb") as lines:
        for line in lines:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            yield start, row if is_row(row) else None
            start += len(line)


def is_row(row: Any) -> bool:
    """Whether it has what is read of a line again, each of its type."""
    if not isinstance(row, dict) or not row.keys() >= KEYS:
        return False
    if not all(isinstance(row[name], str) for name in ("id", "question", "stopped")):
        return False
    tokens, candidates = row.get("tokens"), row.get("candidates")
    if not isinstance(tokens, dict) or not isinstance(candidates, list):
        return False
    return (
        type(row["expansions"]) is int
        and all(name in tokens and (tokens[name] is None or type(tokens[name]) is int) for name in COUNTS)
        and all(isinstance(candidate, dict) and "correct" in candidate for candidate in candidates)
    )


def is_summary(found: Any) -> bool:
    """Whether it has the keys of a summary, and numbers where tables and resumed runs need them."""
    if not isinstance(found, dict) or found.keys() != Tally().summary(0.0, []).keys():
        return False
    ends, labels = found["accuracy_ci95"], found["labels"]
    numbers = [found[name] for name in ("problems", "correct", "accuracy", "oracle_accuracy", "expansions", "seconds")]
    known = [found[name] for name in ("tokens_generated", "tokens_scored", "tokens_wasted", "tokens_per_second")]
    numbers += [value for value in known if value is not None]
    return (
        isinstance(ends, list) and len(ends) == 2 and isinstance(labels, list) and all(type(label) is str for label in labels)
        and all(type(value) in (int, float) and math.isfinite(value) for value in [*numbers, *ends])
    )  # fmt: skip


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf(0.975), correct / total  # scipy's takes a second to import, while Ctrl-C waits for it
    middle, scale = p + z * z / (2 * total), 1 + z * z / total
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def no_link(path: str, flags: int) -> int:
    """An opener that follows no symbolic link: what is written stays in the folder. Raises OSError for one."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, never finds half of it."""
    replace(path, lambda file: file.write(text.encode()))


def replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """`replace_file` by pieces: `write` is given the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=no_link) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
