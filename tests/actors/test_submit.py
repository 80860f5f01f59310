"""`ray start --head`, `ray job submit`, `ray job stop`: as a user of a cluster would, with token authentication on."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.ray]
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Head:
    """A head node with its dashboard, and the command line of a user on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dashboard = folder, free_port()
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.env |= {"HOME": str(folder / "home"), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1",
                     "PATH": f"{BIN}:{os.environ['PATH']}"}  # fmt: skip
        (folder / "home").mkdir()
        self.call("get-auth-token", "--generate")
        self.log = open(folder / "head.log", "w")  # noqa: SIM115 (closed with the head)
        self.process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", f"--port={free_port()}", f"--dashboard-port={self.dashboard}",
             f"--dashboard-agent-listen-port={free_port()}",  # another Ray of this machine may have the usual one
             "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"],
            env=self.env, stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip
        for _ in range(120):
            if self.call("job", "list", "--address", self.url, check=False).returncode == 0:
                return
            time.sleep(0.5)
        raise AssertionError((folder / "head.log").read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / "ray", *arguments], env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def submit(self, name: str, *arguments: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        options = ["--submission-id", name, *([] if wait else ["--no-wait"])]
        job = ["treesearch", "run", "--ray", *arguments]
        return self.call(
            "job", "submit", "--address", self.url, "--working-dir", ".", *options, "--", *job, check=False
        )

    def status(self, name: str) -> str:
        """How the job ended."""
        for _ in range(240):
            said = self.call("job", "status", name, "--address", self.url, check=False)
            found = re.findall(r"(SUCCEEDED|FAILED|STOPPED)", said.stdout.upper() + said.stderr.upper())
            if found:
                return str(found[-1])
            time.sleep(0.5)
        return said.stdout + said.stderr

    def logs(self, name: str) -> str:
        """What the job printed, without what Ray's client says before."""
        said = self.call("job", "logs", name, "--address", self.url).stdout
        return said.split("Running entrypoint for job", 1)[-1].partition("\n")[2]

    def close(self) -> None:
        """End this Ray and no other: `ray stop` would end every Ray of this machine."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        subprocess.run(["pkill", "-KILL", "-f", str(self.folder)], check=False)
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(tmp_path_factory.mktemp("r", numbered=True))
    yield head
    head.close()


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_the_main_job_succeeds_with_readable_logs_and_results_where_asked(head, tmp_path):
    out = tmp_path / "out"
    done = head.submit("main", "--set", "limit=10", "--out", str(out))
    assert head.status("main") == "SUCCEEDED", done.stdout + done.stderr
    assert len(lines(out)) == 10 and sum(row["correct"] for row in lines(out)) >= 8
    log = head.logs("main")
    assert "accuracy" in log and log.count(str(out)) == 2 and "\x1b[" not in log and "Traceback" not in log


def test_a_bad_config_fails_with_the_message_in_the_log(head, tmp_path):
    head.submit("bad", "--set", "search.type=bean", "--out", str(tmp_path / "out"))
    assert head.status("bad") == "FAILED"
    log = head.logs("bad")
    assert "did you mean search.beam?" in log or "'bean'" in log, log
    assert "Traceback" not in log


def test_a_model_that_is_not_there_fails_with_the_reason_in_the_log(head, tmp_path):
    head.submit("gone", "--set", "proposer={type: transformers, model: /nowhere}",
                "--set", "cluster.gpus_per_proposer=0", "--out", str(tmp_path / "out"))  # fmt: skip
    assert head.status("gone") == "FAILED"
    assert "/nowhere" in head.logs("gone") and "Traceback" not in head.logs("gone")


def test_a_stopped_job_leaves_a_folder_that_a_second_job_completes(head, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    problems = tmp_path / "set.jsonl"
    rows = ({"id": f"p{k}", "question": f"question {k}", "answer": str(k)} for k in range(40))
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--set", f"problems={problems}", "--set", "task=plain", "--set", "scorer=simulated",
             "--set", "search={type: mcts, simulations: 24, rollouts: 1}", "--set", "engine.trees=4"]  # fmt: skip
    slow = ["--set", "proposer={type: simulated, steps: 5, base_ms: 100}", "--out", str(out)]
    head.submit("stopped", *given, *slow, wait=False)
    for _ in range(240):
        if (out / "results.jsonl").exists() and len(lines(out)) >= 3:
            break
        time.sleep(0.25)
    head.call("job", "stop", "stopped", "--address", head.url)
    assert head.status("stopped") == "STOPPED"
    done = len(lines(out))
    assert 3 <= done < 40
    assert f"go on with: treesearch run {out}/config.yaml --out {out} --ray" in head.logs("stopped")
    head.submit("again", str(out / "config.yaml"), "--out", str(out))
    assert head.status("again") == "SUCCEEDED"
    head.submit("whole", str(out / "config.yaml"), "--out", str(whole))
    strip = [{k: v for k, v in row.items() if k not in ("seconds", "tokens")} for row in lines(out)]
    assert strip == [{k: v for k, v in row.items() if k not in ("seconds", "tokens")} for row in lines(whole)]
    assert len(strip) == 40
