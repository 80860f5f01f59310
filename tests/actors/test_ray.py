"""Whole runs on a real Ray: equal results however many processes, and whatever dies in the middle."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treesearch.config import Config, load
from treesearch.run import run

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.ray]
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500,
          "health_check_failure_threshold": 3}  # fmt: skip
PROBLEMS = 40
ROOM = {"room": 1, "desk": 1}  # of a node: whichever is lost, another has both roles
SILENCE = 4  # seconds; on a machine that starts several processes at once, one that is well may say nothing for two


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head and two further nodes, each with room for a proposer and a scorer; the driver on the head."""
    home, before = tmp_path_factory.mktemp("home"), os.environ.get("HOME")
    os.environ["HOME"] = str(home)  # Ray writes a token there
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": HEALTH, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, resources=ROOM)
    ray.init(address=cluster.address, logging_level="WARNING")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ["HOME"] = before or ""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    rows = ({"id": f"p{k}", "question": f"question {k}", "answer": str(k)} for k in range(PROBLEMS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(asked: Path, *more: str) -> Config:
    return load(None, [
        f"problems={asked}", "task=plain", "search={type: mcts, simulations: 24, rollouts: 1, parallel: 4}",
        "proposer={type: simulated, accuracy: 0.3, steps: 5, base_ms: 40}", "scorer=simulated",
        f"cluster={{proposers: 2, scorers: 2, silence: {SILENCE}, linger: 0, proposer_resources: {{room: 1}}, "
        "scorer_resources: {desk: 1}}",
            "engine.trees=8",  # searches end one after another: something is under way whenever something dies
        *more,
    ])  # fmt: skip


def results(out: Path) -> dict[str, Any]:
    """Lines by problem, without what may differ: seconds and wasted."""
    found = {}
    for line in (out / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        del row["seconds"], row["tokens"]["wasted"]
        found[row["id"]] = row
    return found


class Watched:
    """A run on Ray, disturbed once a fifth is done and mended once work is sent again; what was said, in seconds since then."""

    def __init__(
        self,
        config: Config,
        out: Path,
        disturb: Callable[[Any], Any] | None = None,
        mend: Callable[[], Any] | None = None,
    ) -> None:
        self.said: list[tuple[float, str]] = []
        self.resent: float | None = None
        self.driver: Any = None
        self.struck = math.inf
        asyncio.run(self.main(config, out, disturb, mend))
        self.results = results(out)

    async def main(self, config: Config, out: Path, disturb: Any, mend: Any) -> None:
        work = asyncio.create_task(asyncio.wait_for(run(config, out, drive=self.drive), 120))
        while not work.done():
            await asyncio.sleep(0.02)
            if (
                disturb is not None
                and self.driver is not None
                and self.driver._unread + self.driver._under_way < 0.8 * PROBLEMS
            ):
                self.struck = time.monotonic()
                disturb(self.driver)
                disturb = None
            if mend is not None and self.resent is not None:  # not before: it keeps the driver from its work
                mend()
                mend = None
            managers = self.driver.managers.values() if self.driver is not None else ()
            if self.resent is None and any(manager.stats.get("retries") for manager in managers):
                self.resent = time.monotonic() - self.struck
        await work

    def drive(self, config: Config, task: Any, store: Any) -> Any:
        from actors.cluster import Cluster

        self.driver = Cluster(config, task, store, self.say)
        return self.driver

    def say(self, text: str) -> None:
        self.said.append((time.monotonic() - self.struck, text))

    def check(self, calm: dict[str, Any], part: str, busy: bool = True) -> None:
        """Something was lost and said, sent again within 3 s of being noticed, and the results are the same.

        `busy`: something was under way there for certain; a scorer that answers at once may have had nothing.
        """
        noticed = min(when for when, text in self.said if part in text and when >= 0)
        print(f"{part!r} noticed after {noticed:.2f} s, work sent again after {self.resent} s: {self.said}")
        assert (self.resent is None and not busy) or self.resent - noticed < 3
        assert self.results == calm


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a run in one process that nothing disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    path = folder / "set.jsonl"
    rows = ({"id": f"p{k}", "question": f"question {k}", "answer": str(k)} for k in range(PROBLEMS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asyncio.run(run(config(path), folder / "out"))
    return results(folder / "out")


@pytest.mark.parametrize("managers", [1, 2, 3])
def test_any_number_of_managers_gives_the_results_of_one_process(nodes, asked, calm, tmp_path, managers):
    watched = Watched(config(asked, f"cluster.managers={managers}"), tmp_path / "out")
    assert watched.results == calm
    assert all(row["stopped"] == "finished" for row in calm.values())


def signalled(sign: signal.Signals, role: str) -> Callable[[Any], None]:
    """Send a signal to the process of the first replica of a role."""

    def strike(driver: Any) -> None:
        os.kill(next(life for life in driver.lives.values() if life.slot.role == role).pid, sign)

    return strike


@pytest.mark.parametrize("role", ["proposer", "scorer"])
def test_a_killed_replica_loses_nothing(nodes, asked, calm, tmp_path, role):
    Watched(config(asked), tmp_path / "out", signalled(signal.SIGKILL, role)).check(
        calm, f"{role} ", role == "proposer"
    )


def test_a_frozen_replica_is_replaced_and_its_late_answers_are_not_heard(nodes, asked, calm, tmp_path):
    Watched(config(asked), tmp_path / "out", signalled(signal.SIGSTOP, "proposer")).check(
        calm, f"no word for {SILENCE} s"
    )


def test_a_removed_node_loses_nothing_and_a_new_one_gets_work(nodes, asked, calm, tmp_path):
    def remove(driver: Any) -> None:
        nodes.remove_node(min(nodes.worker_nodes, key=str), allow_graceful=False)

    def add() -> None:
        nodes.add_node(num_cpus=1, resources=ROOM)

    slow = config(asked, "proposer.base_ms=300")  # its processes work on for a while: they must be seen to die
    watched = Watched(slow, tmp_path / "out", remove, mend=add)
    watched.check(calm, "died")
    lost = [text for _, text in watched.said if text.startswith("manager") and "no word" not in text]  # silent: starved
    assert not lost, "managers live beside the driver"
    assert max(watched.driver.lives) > 4, "no replica came to life on the new node"


def test_a_killed_manager_goes_on_from_the_journal(nodes, asked, calm, tmp_path):
    def strike(driver: Any) -> None:
        import ray

        ray.kill(driver.managers[0].handle)

    watched = Watched(config(asked, "cluster.managers=2"), tmp_path / "out", strike)
    assert any("manager 0 died" in text for _, text in watched.said), watched.said
    assert watched.results == calm


def test_a_frozen_manager_is_replaced(nodes, asked, calm, tmp_path):
    def freeze(driver: Any) -> None:
        import ray

        os.kill(ray.get(driver.managers[0].handle.pid.remote()), signal.SIGSTOP)

    watched = Watched(config(asked), tmp_path / "out", freeze)
    assert any(f"manager 0 died (no word for {SILENCE} s)" in text for _, text in watched.said), watched.said
    assert watched.results == calm


def test_without_any_replica_left_the_run_ends_resumable(nodes, asked, calm, tmp_path):
    from treesearch.errors import RunError

    one = config(asked, "cluster.restarts=0", "cluster.proposers=1")
    with pytest.raises(RunError, match="no proposer is left"):
        Watched(one, tmp_path / "out", signalled(signal.SIGKILL, "proposer"))
    assert Watched(config(asked), tmp_path / "out").results == calm
