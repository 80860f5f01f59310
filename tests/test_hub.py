"""The sets that have a name, streamed over HTTP by the real `datasets` library from a stand-in for the Hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets"),
]
SHA = "a" * 40  # of the one commit there is


def card(**configs: dict[str, str]) -> str:
    """A data set card: config -> split -> file."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for split, path in splits.items() for line in (f"  - split: {split}", f"    path: {path}")]
    return "\n".join([*lines, "---", ""])


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# Laid out, and with the columns, as published; the problems are not theirs.
HUB = {
    "openai/gsm8k": {
        "README.md": card(
            main={"train": "main-train.jsonl", "test": "main-test.jsonl"}, socratic={"test": "socratic.jsonl"}
        ),
        "main-train.jsonl": jsonl({"question": "of train", "answer": "#### 1"}),
        "main-test.jsonl": jsonl(*({"question": f"How many is {k}?", "answer": f"It is.\n#### {k}"} for k in range(500))),
        "socratic.jsonl": jsonl({"question": "socratic", "answer": "#### 1"}),
    },
    "HuggingFaceH4/MATH-500": {
        "README.md": card(default={"test": "test.jsonl"}),
        "test.jsonl": jsonl(
            {"problem": "Root of 8?", "solution": r"\boxed{2\sqrt{2}}", "answer": r"2\sqrt{2}", "subject": "Algebra",
             "level": 1, "unique_id": "test/algebra/1.json"}
        ),
    },
    "HuggingFaceH4/aime_2024": {
        "README.md": card(default={"train": "train.jsonl"}),
        "train.jsonl": jsonl(
            {"id": 60, "problem": "A walk?", "solution": "", "answer": "025", "url": "", "year": "2024"}
        ),
    },
    "math-ai/aime25": {
        "README.md": card(default={"test": "test.jsonl"}),
        "test.jsonl": jsonl({"problem": "A base?", "answer": "70", "id": "0"}),
    },
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's protocol that reading a public data set needs: revision, tree, and files by ranges."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:1] == ["api"]
        name, rest = "/".join(parts[1 + api : 3 + api]), parts[3 + api :]
        files = HUB.get(name)
        if files is None or parts[api] != "datasets":
            self.send(b"", 404, X_Error_Code="RepoNotFound")
        elif not api and rest[-1] in files:
            self.send_file(files[rest[-1]].encode())
        elif not api:
            self.send(b"", 404, X_Error_Code="EntryNotFound")
        elif rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": path, "size": len(text), "oid": oid(text.encode())}
                       for path, text in files.items()]  # fmt: skip
            self.send(json.dumps(entries).encode(), Content_Type="application/json")
        else:
            self.send(json.dumps({"_id": "1", "id": name, "sha": SHA, "private": False, "tags": [], "downloads": 0,
                                  "siblings": [{"rfilename": path} for path in files]}).encode(),
                      Content_Type="application/json")  # fmt: skip

    do_HEAD = do_GET

    def send_file(self, data: bytes) -> None:
        headers = {"ETag": f'"{oid(data)}"', "X_Repo_Commit": SHA, "Accept_Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
            self.send(data[start : end + 1], 206, **headers)
        else:
            self.send(data, **headers)

    def send(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def search(endpoint: str, folder: Path, *sets: str) -> subprocess.CompletedProcess[str]:
    """`treesearch run` with simulated models, in a process of its own: the library reads its address once."""
    sets = ("proposer=simulated", "scorer=simulated", "search={type: sample, n: 2}", *sets)
    command = [sys.executable, "-m", "treesearch", "run", "--out", str(folder / "out")]
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
    return subprocess.run([*command, *(part for given in sets for part in ("--set", given))], env=environment,
                          capture_output=True, text=True)  # fmt: skip


@pytest.mark.parametrize(
    ("problems", "task", "first"),
    [
        ("gsm8k", "gsm8k", ("line-1", "How many is 0?", "It is.\n#### 0")),
        ("math500", "math", ("line-1", "Root of 8?", r"2\sqrt{2}")),
        ("aime24", "aime", ("60", "A walk?", "025")),
        ("aime25", "aime", ("0", "A base?", "70")),
    ],
)
def test_a_named_set_is_searched_under_its_task(
    endpoint: str, tmp_path: Path, problems: str, task: str, first: tuple[str, str, str]
) -> None:
    done = search(endpoint, tmp_path, f"problems={problems}", "limit=40")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert (rows[0]["id"], rows[0]["question"], rows[0]["reference"]) == first
    assert len(rows) == (40 if problems == "gsm8k" else 1)
    assert f"\ntask: {task}\n" in (tmp_path / "out" / "config.yaml").read_text()


def test_what_the_hub_does_not_have_is_bad_usage(endpoint: str, tmp_path: Path) -> None:
    for problems, said in (
        ("hf:openai/gsm8k", "has several configs, name one of main, socratic"),
        ("hf:openai/gsm8k:main:validation", "has no split 'validation'; there are train, test"),
        ("hf:openai/none", "cannot be opened"),
    ):
        done = search(endpoint, tmp_path, f"problems={problems}")
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
