"""Processes that do what a module says: here, this one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from treesearch.errors import RunError
from treesearch.workers import Bounds, Operation, Worker, WorkerLost, Workers

OPERATIONS: dict[str, Operation] = {
    "load": lambda loaded, r: loaded.update({r["name"]: int(r["name"])}),
    "add": lambda loaded, r: loaded["3"] + r["x"],
    "sleep": lambda loaded, r: time.sleep(r["seconds"]),
    "unsayable": lambda loaded, r: object(),
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
