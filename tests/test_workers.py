"""Processes that do what a module says: here, this one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from treesearch import workers as module
from treesearch.errors import RunError
from treesearch.workers import Bounds, Operation, Worker, WorkerLost, Workers, harmless, keep_private


def _leave_a_child(left: Any, request: dict[str, Any]) -> int:
    """A process of its own group that outlives the operation."""
    return subprocess.Popen(["sleep", "1000"]).pid


def _bomb(left: Any, request: dict[str, Any]) -> None:
    """Forks that fork, 64 in all so that the test itself is harmless, and none of them ends."""
    for _ in range(6):
        os.fork()
    time.sleep(1000)


def _say(left: Any, request: dict[str, Any]) -> None:
    """Speak on the line out of turn: raw bytes, then silence."""
    (line,) = [int(fd) for fd in os.listdir("/proc/self/fd") if _is_socket(fd)]
    os.write(line, bytes.fromhex(request["raw"]))
    time.sleep(1000)


def _target(fd: str) -> str:
    """What a descriptor is; "" for the one that lists them, which is closed by now."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _is_socket(fd: str) -> bool:
    return _target(fd).startswith("socket:")


OPERATIONS: dict[str, Operation] = {
    "load": lambda loaded, r: loaded.update({r["name"]: int(r["name"])}),
    "add": lambda loaded, r: loaded["3"] + r["x"],
    "sleep": lambda loaded, r: time.sleep(r["seconds"]),
    "unsayable": lambda loaded, r: object(),
    "environment": lambda loaded, r: dict(os.environ),
    "files": lambda loaded, r: [t for fd in os.listdir("/proc/self/fd") if (t := _target(fd))],
    "limits": lambda loaded, r: {name: resource.getrlimit(getattr(resource, name)) for name in r["names"]},
    "child": _leave_a_child,
    "bomb": _bomb,
    "say": _say,
    "long": lambda loaded, r: "x" * r["size"],
    "end": lambda loaded, r: os._exit(0),
}


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers(__name__, Bounds(seconds=5.0))
    yield found
    found.kill()


def test_an_operation_finds_what_was_loaded_and_a_process_serves_many(workers: Workers) -> None:
    assert [workers.exchange({"op": "add", "x": x}, "3") for x in (1, 2)] == [{"value": 4}, {"value": 5}]
    assert len(workers.all) == 1


def test_what_cannot_be_said_in_json_is_an_error_and_the_process_lives(workers: Workers) -> None:
    assert "not JSON serializable" in workers.exchange({"op": "unsayable"}, "3")["error"]
    assert workers.exchange({"op": "add", "x": 1}, "3") == {"value": 4} and len(workers.all) == 1


def test_what_cannot_be_loaded_is_no_fault_of_the_request(workers: Workers) -> None:
    with pytest.raises(RunError, match="cannot load 'x': ValueError"):
        workers.exchange({"op": "add", "x": 1}, "x")
    assert not workers.all, "a process in an unknown state is not used again"


def test_a_process_whose_parent_is_gone_ends_even_if_it_sleeps() -> None:
    """Its parent would have killed it after `seconds`; processor time alone would never end it."""
    worker = Worker(__name__, Bounds(seconds=0.1))
    began = time.monotonic()
    with pytest.raises(WorkerLost, match="ended"):
        worker.ask({"op": "sleep", "seconds": 1000}, 60.0)
    assert time.monotonic() - began < 30
    worker.kill()


def test_a_process_that_waits_longer_than_an_operation_may_take_goes_on(workers: Workers) -> None:
    workers.bounds = Bounds(seconds=0.1)
    workers.exchange({"op": "add", "x": 1}, "3")
    (worker,) = workers.all
    time.sleep(2.2)  # past the alarm of an operation
    assert worker.alive() and workers.exchange({"op": "add", "x": 1}, "3") == {"value": 4}
    assert workers.all == {worker}


def test_killing_twice_and_what_is_dead_is_harmless(workers: Workers) -> None:
    workers.start("3")
    (worker,) = workers.all
    os.kill(worker.pid, signal.SIGKILL)
    threads = [threading.Thread(target=worker.kill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not worker.alive()
    workers.kill()
    with pytest.raises(RunError, match="closed"):
        workers.exchange({"op": "add", "x": 1}, "3")


def test_many_at_once_have_a_process_each(workers: Workers) -> None:
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda: replies.append(workers.exchange({"op": "sleep", "seconds": 0.3}, "3")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [{"value": None}] * 2 and len(workers.all) == 2


def gone(pid: int) -> bool:
    """Whether the process ends soon; a zombie whose parent does not look is gone too."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                state, _, pgrp = stat.read().rpartition(")")[2].split()[:3]
            found += [int(entry)] if int(pgrp) == group and state not in "ZX" else []
        except (OSError, ValueError):
            continue
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_no_secret_reaches_a_process(monkeypatch: pytest.MonkeyPatch, workers: Workers) -> None:
    secrets = {"OPENAI_API_KEY": "S3CRET", "HF_TOKEN": "S3CRET", "AWS_SECRET_ACCESS_KEY": "S3CRET", "PGPASSWORD": "S3CRET",
               "SSH_AUTH_SOCK": "S3CRET", "STORE_URL": "redis://user:S3CRET@host:1/0", "MY_SERVER": "S3CRET"}  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(module, "_private", set())
    keep_private("MY_SERVER")
    found = workers.exchange({"op": "environment"}, "3")["value"]
    assert "S3CRET" not in repr(found) and not secrets.keys() & found.keys()
    assert found["PATH"] == os.environ["PATH"] and found["TOKENIZERS_PARALLELISM"] == "false"
    assert harmless({"A": "http://host/a:b@c", "B": "http://u:p@host"}) == {"A": "http://host/a:b@c"}


@linux
def test_a_process_has_no_open_file_but_its_line(workers: Workers, tmp_path: Any) -> None:
    with open(tmp_path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        found = workers.exchange({"op": "files"}, "3")["value"]
    assert sorted(what.partition(":")[0] for what in found) == ["/dev/null"] * 3 + ["socket"]


def test_limits_hold_in_the_process() -> None:
    names = ["RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_CORE"]
    found = Workers(__name__, Bounds(5.0, 1 << 30, 1 << 20))
    try:
        limits = found.exchange({"op": "limits", "names": [*names, "RLIMIT_CPU"]}, "3")["value"]
    finally:
        found.kill()
    assert [limits[name][0] for name in names] == [1 << 30, 1 << 20, 0] and 5 <= limits["RLIMIT_CPU"][0] <= 8


@linux
@pytest.mark.parametrize("ends", [False, True])
def test_what_an_operation_started_ends_with_its_process(workers: Workers, ends: bool) -> None:
    """Also if the process itself has ended before, by itself."""
    child = workers.exchange({"op": "child"}, "3")["value"]
    os.kill(child, 0)
    (worker,) = workers.all
    if ends:
        with pytest.raises(WorkerLost):
            worker.ask({"op": "end"}, 5.0)
    worker.kill()
    assert gone(child)


@linux
def test_a_fork_bomb_is_ended_with_its_group(workers: Workers) -> None:
    workers.start("3")
    (worker,) = workers.all
    workers.bounds = Bounds(seconds=1.5)
    with pytest.raises(WorkerLost, match=r"no reply within 1\.5 s"):
        workers.exchange({"op": "bomb"}, "3")
    until = time.monotonic() + 10
    while (left := members(worker.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left and not workers.all


@linux
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("64000000aa", "no reply within"),  # 100 bytes are promised, one comes
        ("ffffffff", "the most is"),
        ("0100000041", "ended"),  # no JSON
        ("020000005b5d", "no reply"),  # a list
        ("01000000", "no reply within"),
    ],
)
def test_what_is_no_reply_costs_its_time_and_no_more(workers: Workers, raw: str, reason: str) -> None:
    workers.start("3")
    workers.bounds = Bounds(seconds=0.5)
    began = time.monotonic()
    with pytest.raises(WorkerLost, match=reason):
        workers.exchange({"op": "say", "raw": raw}, "3")
    assert time.monotonic() - began < 5 and not workers.all


def test_a_flood_of_a_reply_is_refused_and_a_long_one_comes(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(workers.exchange({"op": "long", "size": 5_000_000}, "3")["value"]) == 5_000_000
    monkeypatch.setattr(module, "LONGEST_REPLY", 1000)
    with pytest.raises(WorkerLost, match="a reply of 1013 bytes: the most is 1000"):
        workers.exchange({"op": "long", "size": 1000}, "3")


@linux
def test_a_process_that_does_not_listen_is_given_up(workers: Workers) -> None:
    """A long request fills the line of a frozen process: sending it must end too."""
    workers.start("3")
    (worker,) = workers.all
    os.kill(worker.pid, signal.SIGSTOP)
    workers.bounds = Bounds(seconds=0.5)
    with pytest.raises(WorkerLost, match=r"no reply within 0\.5 s"):
        workers.exchange({"op": "add", "x": "x" * 5_000_000}, "3")
    assert gone(worker.pid)


def test_the_variable_of_a_servers_key_is_private_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from treesearch.backends.endpoint import key

    monkeypatch.setattr(module, "_private", set())
    assert key("MY_SERVER", "http://localhost/v1", {"MY_SERVER": "S3CRET"}) == "S3CRET"
    assert harmless({"MY_SERVER": "S3CRET", "HOME": "/"}) == {"HOME": "/"}
