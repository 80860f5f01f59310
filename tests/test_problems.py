"""Problem sets: formats, fields, ids, and each way in which a file can be wrong."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from treesearch.config import load
from treesearch.errors import ConfigError, ProblemError
from treesearch.problems import Fields, ProblemSet, read, rows
from treesearch.problems.ahead import MOST, Ahead
from treesearch.tasks import TASKS
from treesearch.tasks.sets import SOURCES, TASK_OF
from treesearch.types import Problem, digest

PLAIN = TASKS["plain"]
needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")


def wrong(path: Path, text: str | bytes, fields: Fields | None = None) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ProblemError) as caught:
        read(str(path), PLAIN, fields=fields)
    return str(caught.value)


def stdin(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


def test_jsonl_takes_either_name_of_a_field_and_counts_lines_where_ids_are_missing(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "1", "id": 7}\n\n{"problem": "p", "reference": 2}\n')
    assert read(str(path), PLAIN) == [Problem("7", "q", "1"), Problem("line-3", "p", "2")]
    assert read(str(path), PLAIN, limit=1) == [Problem("7", "q", "1")]


def test_gzip_and_csv_and_stdin_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    line, expected = '{"id": "a", "question": "x, y", "answer": "1"}\n', [Problem("a", "x, y", "1")]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "a.csv").write_text('id,question,answer\na,"x, y",1\n')
    stdin(monkeypatch, line.encode())
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
    whole = gzip.compress(b'{"question": "q"}\n' * 1000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-9])
    (tmp_path / "c.jsonl.gz").write_bytes(whole[:10] + b"\xff" * 8 + whole[18:])
    for name in ("a.jsonl.gz", "b.jsonl.gz", "c.jsonl.gz"):
        with pytest.raises(ProblemError, match=f"{name}: cannot be read"):
            list(rows.of_file(tmp_path / name))


@pytest.mark.parametrize(
    "source, part",
    [
        ("a.txt", "not a known format"),
        ("org/name", "hf:ORG/NAME"),
        ("nothing", "nothing"),
        pytest.param("hf:", "write hf:ORG/NAME", marks=needs_datasets),
        pytest.param("hf:a/b:c:d:e", "write hf:ORG/NAME", marks=needs_datasets),
    ],
)
def test_a_source_that_cannot_be_is_refused(source: str, part: str):
    with pytest.raises(ConfigError, match=part):
        read(source, TASKS["game24"])


# What a line may be


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'\xff\xfe{"question": "q"}\n', ":1: not UTF-8"),
        (b'{"question": "q"}\n{"question": "\xe4"}\n', ":2: not UTF-8"),
        (b'{"question": "a\0b"}\n', ":1: not JSON"),
        (b'{"question": "q"}\n\0\0\0\n', ":2: not JSON"),
        (rb'{"question": "half \ud83d of it"}', ":1: the question is not text: '\\ud83d' at character 5"),
        (rb'{"question": "q", "answer": "\udc00"}', ":1: the answer is not text"),
        (rb'{"question": "q", "id": "\udc00"}', ":1: the id is not text"),
        (b"[" * 100_000, ":1: not JSON"),
        (b'{"question": 7}', ":1: a row needs a question (or problem; or name the column in fields.question) of text, this"),
        (b'{"question": "a"}\n{"question": "b", "id": "line-1"}\n', ":2: id 'line-1' was used on line 1"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_problem_is_named(tmp_path: Path, text: bytes, said: str):
    assert said in wrong(tmp_path / "a.jsonl", text)


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.truncate(100 << 20)  # 100 MB of NUL without a line end, which take no room on the disk
    tracemalloc.start()
    with pytest.raises(ProblemError, match=r"a\.jsonl:1: longer than 16 MiB"):
        read(str(path), PLAIN)
    assert tracemalloc.get_traced_memory()[1] < 80 << 20
    tracemalloc.stop()


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path):
    path, expected = tmp_path / "a.jsonl", [Problem("line-1", "p\u2028q", "1"), Problem("line-3", "é\0", None)]
    text = '{"question": "p\u2028q", "answer": "1"}\r\n\r\n{"question": "é\\u0000"}'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(str(path), PLAIN) == expected
    path.write_bytes(b"\xef\xbb\xbf\r\n")
    assert "no problems in it" in wrong(path, path.read_bytes())
    table = tmp_path / "a.csv"
    table.write_bytes(b'\xef\xbb\xbfquestion,answer\r\n"p\r\nq",1\r\nr,\r\n')
    assert read(str(table), PLAIN) == [Problem("line-3", "p\r\nq", "1"), Problem("line-4", "r", None)]


def test_a_damaged_table_is_named_by_line(tmp_path: Path):
    table = tmp_path / "a.csv"
    assert "not CSV: unexpected end" in wrong(table, 'question\n"q')
    assert "not UTF-8, somewhere after line" in wrong(table, b"question\nq\n" + b"\xe4\n")
    assert "not CSV: field larger" in wrong(table, "question\n" + "q" * 200_000)
    assert "no problems in it" in wrong(table, "")


# Fields


def test_columns_may_be_named_and_reach_into_objects(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    row = {"uid": 3, "prompt": {"text": "q", "a.b": 1}, "a.b": "literal", "answer": "not this", "gold": None}
    path.write_text(json.dumps(row) + "\n")
    assert read(str(path), PLAIN, fields=Fields("uid", "prompt.text", "a.b")) == [Problem("3", "q", "literal")]
    assert read(str(path), PLAIN, fields=Fields(question="prompt.text", answer="gold")) == [Problem("line-1", "q")]
    config = load(None, ["fields={id: uid, question: prompt.text}"])
    assert config.fields == Fields("uid", "prompt.text")


@pytest.mark.parametrize("name", ["prompts", "prompt.txt", "answer.text"])
def test_an_unknown_column_lists_those_there_are(tmp_path: Path, name: str):
    said = wrong(tmp_path / "a.jsonl", '{"prompt": {"text": "q"}, "answer": "1"}\n', Fields(question=name))
    assert said.endswith(f":1: fields.question = '{name}': there is no such column; there are prompt, answer")
    said = wrong(tmp_path / "a.csv", "a,b\n1,\n", Fields(question="a", answer="c"))
    assert said.endswith("there is no such column; there are a, b")
    (tmp_path / "a.csv").write_text("a,b\n1,\n")
    assert read(str(tmp_path / "a.csv"), PLAIN, fields=Fields("a", "a", "b")) == [Problem("1", "1")]


def test_a_packaged_set_has_no_columns():
    with pytest.raises(ConfigError, match="leave fields out"):
        read("game24", TASKS["game24"], fields=Fields(id="numbers"))


# Parquet


@needs_pyarrow
def test_parquet_is_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import pyarrow
    from pyarrow import parquet

    count, path = 5000, tmp_path / "a.parquet"
    columns = {"question": [f"q{k}" for k in range(count)], "answer": [{"gold": [k]} for k in range(count)]}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=700)
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    expected = [Problem(f"line-{k + 1}", f"q{k}", f"[{k}]") for k in range(count)]
    monkeypatch.setattr(rows, "BATCH", 256)
    for name in ("a.parquet", "b.parquet.gz"):
        found = read(str(tmp_path / name), PLAIN, fields=Fields(answer="answer.gold"))
        assert found == expected
    assert read(str(path), PLAIN, limit=3, fields=Fields(answer="answer.gold")) == expected[:3]
    read_ = rows.of_file(path)
    next(read_)
    held = pyarrow.total_allocated_bytes()
    read_.close()
    assert held < path.stat().st_size * 4, "not the whole table"


@needs_pyarrow
def test_a_file_that_is_no_parquet_or_cut_short_is_refused(tmp_path: Path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    assert "not parquet" in wrong(path, b"PAR1")
    assert "not parquet" in wrong(path, b"")
    parquet.write_table(pyarrow.table({"question": ["q" * 100] * 1000}), path)
    assert "not parquet" in wrong(path, path.read_bytes()[:-100])


def test_what_is_not_installed_is_named_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for source in (str(tmp_path / "a.parquet"), "hf:org/name"):
        with pytest.raises(ConfigError, match=r"pip install 'treesearch\[data\]'"):
            read(source, PLAIN)


# The Hub, by the real library on folders that are laid out as data sets, and by a stand-in


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which `datasets` finds data sets by the names that they would have on the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))

    def write(path: str, questions: list[str]) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"question": q, "answer": q.upper(), "more": {"level": 1}}) + "\n" for q in questions)
        (tmp_path / path).write_text("".join(lines))

    write("org/plain/train.jsonl", ["t"])
    write("org/plain/test.jsonl", ["a", "b", "c"])
    write("org/single/train.jsonl", ["only"])
    write("org/splits/train.jsonl", ["t"])
    write("org/splits/validation.jsonl", ["v"])
    card = "---\nconfigs:\n"
    for config in ("main", "other"):
        write(f"org/configs/{config}.jsonl", [f"of {config}"])
        card += f"- config_name: {config}\n  data_files:\n  - split: test\n    path: {config}.jsonl\n"
    (tmp_path / "org/configs/README.md").write_text(card + "---\n")
    return tmp_path


@needs_datasets
def test_a_data_set_is_streamed_from_its_test_split_or_the_only_one_or_the_named_one(hub: Path):
    def questions(source: str, **more: Any) -> list[str]:
        return [p.question for p in read(source, PLAIN, **more)]

    assert read("hf:org/plain", PLAIN, limit=2) == [Problem("line-1", "a", "A"), Problem("line-2", "b", "B")]
    assert read("hf:org/plain", PLAIN, 1, Fields(answer="more.level")) == [Problem("line-1", "a", "1")]
    assert questions("hf:org/plain:train") == questions("hf:org/plain:default:train") == ["t"]
    assert questions("hf:org/single") == ["only"]
    assert questions("hf:org/configs:main") == questions("hf:org/configs:main:test") == ["of main"]


@needs_datasets
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf:org/splits", "has no split test; name one of train, validation"),
        ("hf:org/plain:validation", "has no split 'validation'; there are train, test"),
        ("hf:org/configs", "has several configs, name one of main, other"),
        ("hf:org/configs:test", "has several configs, name one of main, other"),
        ("hf:org/configs:third:test", "has no config 'third'; there are main, other"),
        ("hf:org/none", "'hf:org/none': cannot be opened"),
    ],
)  # fmt: skip
def test_what_a_data_set_does_not_have_is_said_with_what_it_has(hub: Path, source: str, said: str):
    with pytest.raises(ConfigError) as caught:
        read(source, PLAIN)
    assert said in str(caught.value)


@needs_datasets
def test_an_unknown_column_of_a_data_set_lists_those_there_are(hub: Path):
    with pytest.raises(ProblemError, match="there are question, answer, more"):
        read("hf:org/plain", PLAIN, fields=Fields(question="prompt"))


class Library:
    """Stands in for `datasets`: what is asked of it, and rows that end in an error of the network."""

    def __init__(self, rows: list[dict[str, Any]], broken: bool = False) -> None:
        self.rows, self.broken, self.opened = rows, broken, []  # type: ignore[var-annotated]

    def get_dataset_config_names(self, name: str) -> list[str]:
        return ["main", "socratic"] if name == "openai/gsm8k" else ["default"]

    def get_dataset_split_names(self, name: str, config: str) -> list[str]:
        return ["train"] if name == "HuggingFaceH4/aime_2024" else ["train", "test"]

    def load_dataset(self, name: str, config: str, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        self.opened.append((name, config, split, streaming))
        yield from self.rows
        if self.broken:
            raise ConnectionError("reset by peer")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library([{"id": 60, "question": "q", "problem": "q", "answer": "025"}])
    monkeypatch.setitem(sys.modules, "datasets", found)
    monkeypatch.setattr("treesearch.problems.hub.importlib", SimpleNamespace(util=SimpleNamespace(find_spec=bool)))
    return found


@pytest.mark.parametrize(
    ("name", "task", "opened"),
    [
        ("gsm8k", "gsm8k", ("openai/gsm8k", "main", "test", True)),
        ("math500", "math", ("HuggingFaceH4/MATH-500", "default", "test", True)),
        ("aime24", "aime", ("HuggingFaceH4/aime_2024", "default", "train", True)),
        ("aime25", "aime", ("math-ai/aime25", "default", "test", True)),
    ],
)
def test_a_named_set_of_the_hub_is_streamed_under_the_task_that_fits(
    library: Library, name: str, task: str, opened: tuple[Any, ...]
):
    config = load(None, [f"problems={name}"])
    assert config.task == task
    (problem,) = read(name, TASKS[task])
    assert problem == Problem("60", "q", "025") and library.opened == [opened]
    assert load(None, [f"problems={name}", "task=plain"]).task == "plain", "an explicit task wins"


def test_named_sets_have_tasks_and_nothing_else_changes_the_task():
    assert set(TASK_OF.values()) <= set(TASKS) and set(SOURCES) <= set(TASK_OF)
    assert load(None, ["problems=game24:train"]).task == load(None, ["problems=a.jsonl"]).task == "game24"
    assert load(None, ["problems=countdown"]).resolved()["task"] == "countdown"
    assert all(read(name, TASKS[TASK_OF[name]]) for name in set(TASK_OF) - set(SOURCES))


def test_a_stream_of_the_hub_that_breaks_is_named_by_row(library: Library):
    library.broken = True
    with pytest.raises(ProblemError, match=r"hf:org/name:2: cannot be read: ConnectionError: reset by peer"):
        read("hf:org/name", PLAIN)


# Streams


def test_a_set_is_read_as_it_is_asked_for_and_knows_its_lines(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "id": "x"}\n{"question": "b"}\n{oops\n')
    asked = ProblemSet(str(path), PLAIN)
    found = iter(asked)
    assert (next(found).id, next(found).id, asked.count) == ("x", "line-2", None)
    with pytest.raises(ProblemError, match=":3: not JSON"):
        next(found)
    few = ProblemSet(str(path), PLAIN, limit=2)
    assert [len(list(few)) for _ in range(2)] == [2, 2], "a second pass finds no id used twice"
    assert few.count == 2 and few.lines == {digest("x"): 1, digest("line-2"): 2}


def test_standard_input_is_not_read_further_than_asked(monkeypatch: pytest.MonkeyPatch):
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(reading))
    asked = ProblemSet("-", PLAIN, limit=2)
    found = iter(asked)
    for k in range(2):  # the other end stays open
        os.write(writing, b'{"question": "q%d"}\n' % k)
        assert next(found).question == f"q{k}"
    assert next(found, None) is None and asked.count == 2 and asked.once
    os.close(writing)


def test_problems_are_read_ahead_in_a_thread_and_whoever_waits_is_rung():
    gate, rung = threading.Semaphore(0), threading.Semaphore(0)
    made: list[int] = []

    def slow() -> Iterator[Problem]:
        for k in range(3):
            gate.acquire()
            made.append(k)
            yield Problem(str(k), "q")

    ahead = Ahead(slow(), rung.release)
    assert next(ahead) is None
    for k in range(3):
        gate.release()
        assert rung.acquire(timeout=10)
        found = next(ahead)
        assert found is not None and found.id == str(k)
        if k < 2:
            assert next(ahead) is None
    assert made == [0, 1, 2]
    with pytest.raises(StopIteration):
        while next(ahead) is None:
            assert rung.acquire(timeout=10)
    with pytest.raises(StopIteration):
        next(ahead)


def test_reading_ahead_is_bounded_ends_when_closed_and_hands_errors_on():
    made: list[int] = []

    def endless() -> Iterator[Problem]:
        for k in range(10_000):
            made.append(k)
            yield Problem(str(k), "q")

    before = threading.active_count()
    ahead = Ahead(endless(), lambda: None)
    deadline = time.monotonic() + 10
    while len(made) < MOST + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) <= MOST + 1
    ahead.close()
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before and len(made) <= MOST + 2

    def broken() -> Iterator[Problem]:
        yield Problem("0", "q")
        raise ProblemError("a.jsonl:2: not JSON")

    ahead = Ahead(broken(), lambda: None)
    with pytest.raises(ProblemError, match=":2"):
        while time.monotonic() < deadline:
            next(ahead)


def test_a_hundred_thousand_lines_are_checked_in_little_memory(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    question = "".join(random.Random(0).choices("abcdefgh ", k=200))
    path.write_text("".join(f'{{"question": "{k} {question}", "answer": "1"}}\n' for k in range(100_000)))
    asked = ProblemSet(str(path), PLAIN)
    begun = time.process_time()
    assert sum(1 for _ in asked) == asked.count == 100_000
    spent = time.process_time() - begun
    print(f"{spent:.2f} s of processor time")
    assert spent < 3  # 1 s where this was written
    assert sys.getsizeof(asked.lines) < 12 << 20, "and two numbers of 32 bytes each"
