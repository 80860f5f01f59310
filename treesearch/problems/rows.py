"""Rows of a file or of standard input, one at a time: JSON lines, CSV and Parquet, each also under gzip. Knows no problem."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, AnyStr, BinaryIO

from treesearch.errors import ConfigError, ProblemError

Row = tuple[int, Mapping[str, Any]]  # line number (from 1) and fields
SUFFIXES = (".jsonl", ".csv", ".parquet")
LONGEST = 1 << 24  # bytes of a line of JSON
BATCH = 1024  # rows of Parquet in memory at a time
FREE, RATIO = 1 << 26, 200  # bytes that gzip may give whatever it is; from there on, times the bytes that it took
_BOM = b"\xef\xbb\xbf"


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, `.gz` apart."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def of_file(path: Path) -> Iterator[Row]:
    """Rows of a file by its suffix. Raises ProblemError that names the file, and the line where there is one."""
    if not path.is_file():
        raise ProblemError(f"{path}: no such file (looked for {path.resolve()})")
    kind = kind_of(path)
    try:
        with open(path, "rb") as raw:
            file: BinaryIO = io.BufferedReader(Expanded(path, raw)) if path.suffix == ".gz" else raw
            if kind == ".parquet":
                yield from _parquet(path, file)
            elif kind == ".csv":
                yield from _csv(path, file)
            else:
                yield from _jsonl(str(path), file)
    except (OSError, EOFError, zlib.error) as error:
        raise ProblemError(f"{path}: cannot be read: {error}") from None


class Expanded(io.RawIOBase):
    """What gzip makes of a file. Raises ProblemError where it is far more than text can be packed into so few bytes."""

    def __init__(self, path: Path, packed: BinaryIO) -> None:
        self._path, self._packed, self._given = path, packed, 0
        self._file = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._given += count
        if self._given > max(FREE, RATIO * self._packed.tell()):
            raise ProblemError(
                f"{self._path}: expands to more than {RATIO} times its size, which no problem set does; unpack it first if it "
                "is one"
            )
        return count


def of_stdin() -> Iterator[Row]:
    """Rows of JSON lines on standard input, each as soon as it is there."""
    try:  # a file of our own: whoever waits in it holds no lock that the interpreter needs to end
        file: BinaryIO = open(os.dup(sys.stdin.fileno()), "rb")  # noqa: SIM115 (a generator that may never end)
    except io.UnsupportedOperation:
        file = sys.stdin.buffer
    yield from _jsonl("<stdin>", file)


def _jsonl(name: str, file: BinaryIO) -> Iterator[Row]:
    for number, line in _lines(name, file, "a line holds one object and no more"):
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.isspace() or not line:
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise ProblemError(f"{name}:{number}: not UTF-8: {error}") from None
        except (ValueError, RecursionError) as error:
            raise ProblemError(f"{name}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ProblemError(f"{name}:{number}: holds a {type(row).__name__}, not an object with a question")
        yield number, row


def _csv(path: Path, file: BinaryIO) -> Iterator[Row]:
    """An empty field is none."""
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    reader = csv.DictReader((line for _, line in _lines(str(path), text, "it is no table")), strict=True)
    try:
        for row in reader:
            if None in row:
                raise ProblemError(f"{path}:{reader.line_num}: more fields than the header has")
            yield reader.line_num, {key: value or None for key, value in row.items()}
    except csv.Error as error:
        raise ProblemError(f"{path}:{reader.line_num}: not CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path}: not UTF-8, somewhere after line {reader.line_num}: {error}") from None


def _lines(name: str, file: IO[AnyStr], why: str) -> Iterator[tuple[int, AnyStr]]:
    """Lines by number, from 1. Raises ProblemError at one that is too long, before the rest of it is read."""
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise ProblemError(f"{name}:{number}: longer than {LONGEST >> 20} MiB; {why}")
        yield number, line


def _parquet(path: Path, file: BinaryIO) -> Iterator[Row]:
    """Batch by batch. A row's number is its place in the file."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            f"problems = {str(path)!r}: parquet needs pyarrow; pip install 'treesearch[data]', or convert it to .jsonl"
        )
    import pyarrow
    from pyarrow import parquet

    with tempfile.TemporaryFile() as plain:
        if path.suffix == ".gz":  # Parquet is read from its end
            shutil.copyfileobj(file, plain)
            file = plain
        number = 0
        try:
            for batch in parquet.ParquetFile(file).iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise ProblemError(f"{path}: not parquet, or damaged after row {number}: {error}") from None
