"""Problem sets: formats, fields, ids, and each way in which a file can be wrong."""

from __future__ import annotations

import gzip
import importlib.util
import io
from pathlib import Path

import pytest

from treesearch.errors import ConfigError, ProblemError
from treesearch.problems import read
from treesearch.tasks import TASKS
from treesearch.types import Problem

PLAIN = TASKS["plain"]


def wrong(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ProblemError) as caught:
        read(str(path), PLAIN)
    return str(caught.value)


def test_jsonl_takes_either_name_of_a_field_and_counts_lines_where_ids_are_missing(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "1", "id": 7}\n\n{"problem": "p", "reference": 2}\n')
    assert read(str(path), PLAIN) == [Problem("7", "q", "1"), Problem("line-3", "p", "2")]
    assert read(str(path), PLAIN, limit=1) == [Problem("7", "q", "1")]


def test_gzip_and_csv_and_stdin_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    line, expected = '{"id": "a", "question": "x, y", "answer": "1"}\n', [Problem("a", "x, y", "1")]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "a.csv").write_text('id,question,answer\na,"x, y",1\n')
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    assert read(str(tmp_path / "a.jsonl.gz"), PLAIN) == expected
    assert read(str(tmp_path / "a.csv"), PLAIN) == expected
    assert read("-", PLAIN) == expected


def test_built_in_sets_come_from_the_task():
    assert len(read("game24", TASKS["game24"])) == 100
    assert [p.id for p in read("game24", TASKS["game24"], limit=2)] == ["game24-900", "game24-901"]


def test_the_published_puzzles_are_the_built_in_ones(data: Path):
    published = {p.id: p for p in read(str(data / "game24.jsonl"), TASKS["game24"])}
    assert len(published) == 1362
    assert all(published[p.id] == p for p in read("game24", TASKS["game24"]))


def test_a_puzzle_row_of_countdown_keeps_its_target(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"numbers": [4, 5, 6, 10], "target": 24}\n')
    assert read(str(path), TASKS["countdown"]) == [Problem("line-1", "4 5 6 10 -> 24", "24")]


def test_malformed_rows_are_named_by_file_and_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    good = '{"id": "a", "question": "q"}\n'
    assert wrong(path, good + "{oops\n").startswith(f"{path}:2: not JSON")
    assert wrong(path, good + "[1]\n").startswith(f"{path}:2: holds a list")
    assert wrong(path, good + '{"text": "q"}\n').startswith(f"{path}:2: a row needs a question")
    assert wrong(path, good + '{"question": "  "}\n').startswith(f"{path}:2: a row needs a question")
    assert "used on line 1" in wrong(path, good + good)
    assert wrong(path, '{"question": "q", "id": [1]}\n').startswith(f"{path}:1: id [1]")
    assert wrong(tmp_path / "a.csv", "question\nq,1\n").endswith("more fields than the header has")


def test_an_empty_set_is_refused(tmp_path: Path):
    assert "no problems in it" in wrong(tmp_path / "a.jsonl", "\n\n")


def test_a_missing_file_is_named_with_the_path_looked_for(tmp_path: Path):
    with pytest.raises(ProblemError, match=f"looked for {tmp_path}"):
        read(str(tmp_path / "none.jsonl"), PLAIN)


def test_a_damaged_file_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("a.jsonl.gz", "b.jsonl"):
        with pytest.raises(ProblemError, match="cannot be read"):
            read(str(tmp_path / name), PLAIN)


@pytest.mark.parametrize(
    "source, part", [("hf:org/name", "Hub"), ("a.txt", "not a known format"), ("nothing", "nothing")]
)
def test_a_source_that_cannot_be_is_refused(source: str, part: str):
    with pytest.raises(ConfigError, match=part):
        read(source, TASKS["game24"])


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        read(str(tmp_path / "a.parquet"), PLAIN)
