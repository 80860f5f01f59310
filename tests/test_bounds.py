"""Odd and hostile sizes: what is refused, by which message, and that nothing large is read into memory for it."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import job, save
from treesearch import config as configs
from treesearch.backends import endpoint
from treesearch.backends.base import Limits
from treesearch.backends.endpoint import Endpoint
from treesearch.backends.transformers import Transformers
from treesearch.errors import ConfigError, ProblemError, RequestError, RunError
from treesearch.problems import LONGEST_ID, read, rows
from treesearch.results import Results
from treesearch.run import _read_summary, run
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt

PLAIN = load_task("plain")


@contextmanager
def within(megabytes: float) -> Iterator[None]:
    """Python allocates no more than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Problem sets


def bomb(path: Path, line: bytes, megabytes: int) -> Path:
    """A gzip file that repeats one line."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with open(path, "wb") as file:
        block = line * ((1 << 20) // len(line))
        for _ in range(megabytes):
            file.write(packer.compress(block))
        file.write(packer.flush())
    return path


@pytest.mark.parametrize(("name", "line"), [("set.jsonl.gz", b" " * 1023 + b"\n"), ("set.csv.gz", b"\n")])
def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: bytes) -> None:
    monkeypatch.setattr(rows, "FREE", 1 << 18)
    path = bomb(tmp_path / name, line, 2)
    assert path.stat().st_size < 10_000
    with pytest.raises(ProblemError, match="expands to more than 200 times its size"):
        read(str(path), PLAIN)


def test_a_gzip_bomb_of_a_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FREE", 1 << 22)
    with pytest.raises(ProblemError, match="expands to more than 200 times its size"):
        read(str(bomb(tmp_path / "set.parquet.gz", b"\0", 16)), PLAIN)


def test_a_set_that_packs_well_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FREE", 1)
    lines = [json.dumps({"question": f"what is {k}?", "answer": str(k)}) for k in range(2000)]
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert len(read(str(tmp_path / "set.jsonl.gz"), PLAIN)) == 2000


def test_a_table_without_line_ends_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST", 1 << 16)
    (tmp_path / "set.csv").write_bytes(b"question\n" + b"x" * (1 << 23))
    with within(4), pytest.raises(ProblemError, match=r"set.csv:2: longer than"):
        read(str(tmp_path / "set.csv"), PLAIN)


def test_an_id_is_a_name_and_no_text(tmp_path: Path) -> None:
    for size, fine in ((LONGEST_ID, True), (LONGEST_ID + 1, False), (10_000_000, False)):
        (tmp_path / "set.jsonl").write_text(json.dumps({"id": "x" * size, "question": "q"}))
        if fine:
            assert len(read(str(tmp_path / "set.jsonl"), PLAIN)[0].id) == size
        else:
            with pytest.raises(ProblemError, match=rf"set.jsonl:1: an id of {size:,} characters, at most 1,000"):
                read(str(tmp_path / "set.jsonl"), PLAIN)


# Prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With a context of 128 tokens."""
    return Transformers(str(save(tmp_path_factory.mktemp("m"), "causal"))).build(PLAIN, Prompt(), Limits(8, 16, 4))


@pytest.mark.parametrize(("left", "fits"), [(1, True), (0, False), (-1, False), (-1000, False)])
def test_a_prompt_fits_if_a_token_is_left_for_the_answer(model: Any, left: int, fits: bool) -> None:
    """A byte of this text is a token, and the task adds a line end."""
    question = "z" * (model.context - left)
    while len(model.prompt_ids(question)) > model.context - left:
        question = question[:-1]
    while len(model.prompt_ids(question)) < model.context - left:
        question += "z"
    (reply,) = asyncio.run(model.propose([job(question, n=1, until="answer")]))
    if fits:
        (chain,) = reply
        assert chain[-1].finish in ("length", "answer") and sum(step.tokens for step in chain) == 1
    else:
        assert isinstance(reply, RequestError) and f"{128 - left} tokens do not fit the context of 128" in str(reply)


@pytest.mark.slow
def test_a_question_of_a_megabyte_fails_alone(tmp_path: Path) -> None:
    lines = [{"id": "long", "question": "7 " * 500_000}, {"id": "short", "question": "4 5 6 10"}]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(line | {"answer": "24"}) + "\n" for line in lines))
    asked = configs.build(
        [{"problems": str(tmp_path / "set.jsonl"), "task": "game24", "search": {"type": "sample", "n": 2}}]
    )
    asyncio.run(run(asked, tmp_path / "o"))
    long, short = [json.loads(line) for line in (tmp_path / "o" / "results.jsonl").read_text().splitlines()]
    assert long["stopped"] == "error" and "do not fit the context" in long["error"] and len(long["error"]) < 500
    assert short["error"] is None and len(short["candidates"]) == 2


# Configs

LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "nested more than"),
        ("a: &a {b: *a}", "nested more than"),
        (LAUGHS, "more than 10,000 values"),
        ("limit: " + "[" * 500, "nested too deeply"),
        ("limit: !!int ''", "not YAML"),
        ("limit: 2026-13-45", "not YAML"),
        ("task: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ('task: "\\ud800"', "half of a character"),
        ("problems: |\n" + "  x\n" * 400_000, "longer than 1,000,000 characters"),
    ],
)  # fmt: skip
def test_a_config_that_grows_or_holds_itself_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        configs.load(tmp_path / "c.yaml")


# A run's folder


LINES = ["{}", '{"id": 1}', '{"id": "p"}', '{"id": "p", "question": "q", "stopped": "finished"}', "[" * 100_000]


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_lacks_what_is_read_of_it_is_made_anew(tmp_path: Path, line: str) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n")
    assert len(Results(tmp_path)) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", "[" * 100_000, '{"problems": 1}', "\udcff"])
def test_a_damaged_summary_is_made_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert _read_summary(tmp_path) is None


# Servers


@contextmanager
def server(reply: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answers each request with what `reply` writes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with line:
                try:
                    line.recv(65536)
                    reply(line)
                    line.shutdown(socket.SHUT_WR)
                    while line.recv(65536):
                        pass
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def flood(status: str, body: bytes, times: int, headers: str = "") -> Callable[[socket.socket], None]:
    def reply(line: socket.socket) -> None:
        line.sendall(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}\r\n".encode()
        )
        for _ in range(times):
            line.sendall(body)

    return reply


def ask(url: str) -> Any:
    async def once() -> Any:
        to = Endpoint(url, "none", connections=1, timeout=20.0, retries=0)
        try:
            return await to.complete({"model": "m", "prompt": "q"}, lambda data: data["choices"])
        finally:
            await to.close()

    return asyncio.run(once())


PACKED = gzip.compress(b" " * (1 << 24), 9)


@pytest.mark.parametrize(
    "reply",
    [
        flood("200 OK", b" " * (1 << 16), 64),
        flood("400 Bad Request", b" " * (1 << 16), 64),
        flood("200 OK", PACKED, 64, "Content-Encoding: gzip\r\n"),
    ],
    ids=["reply", "refusal", "packed reply"],
)
def test_a_flood_of_a_reply_is_cut_off(monkeypatch: pytest.MonkeyPatch, reply: Callable[[socket.socket], None]) -> None:
    import openai  # apart: what importing it takes is no part of the reply

    assert openai.AsyncOpenAI
    monkeypatch.setattr(endpoint, "LONGEST_REPLY", 1 << 20)
    with server(reply) as url, within(60), pytest.raises(RequestError, match="longer than"):
        ask(url)


def test_a_packed_refusal_is_not_unpacked() -> None:
    with (
        server(flood("400 Bad Request", PACKED, 1, "Content-Encoding: gzip\r\n")) as url,
        within(10),
        pytest.raises(RequestError, match=r"\(400\)"),
    ):
        ask(url)


def test_a_reply_that_breaks_off_is_asked_for_again() -> None:
    """In the middle of its body, which is read after the client has done its part."""
    times: list[int] = []

    def reply(line: socket.socket) -> None:
        times.append(1)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")

    async def twice(url: str) -> Any:
        to = Endpoint(url, "none", connections=1, timeout=20.0, retries=1)
        try:
            return await to.complete({"model": "m", "prompt": "q"}, lambda data: data)
        finally:
            await to.close()

    with server(reply) as url, pytest.raises(RunError, match=r"does not answer \(2 tries\): the connection broke off"):
        asyncio.run(twice(url))
    assert len(times) == 2


def test_a_redirect_is_not_followed() -> None:
    asked: list[bytes] = []

    def inner(line: socket.socket) -> None:
        asked.append(b"asked")

    with server(inner) as elsewhere:
        reply = flood("307 Temporary Redirect", b"", 1, f"Location: {elsewhere}/completions\r\n")
        with server(reply) as url, pytest.raises(RequestError, match="307"):
            ask(url)
    assert not asked


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a": ' * 100_000, b"9" * 10_000, b"\xff\xfe", b"NaN", b"", b"null"]
)
def test_a_reply_that_is_no_json_is_a_malformed_one(body: bytes) -> None:
    with server(flood("200 OK", body, 1)) as url, pytest.raises(RequestError, match="a malformed reply"):
        ask(url)
