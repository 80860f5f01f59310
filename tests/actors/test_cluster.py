"""What the driver hands out, without a Ray."""

from __future__ import annotations

import asyncio
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from actors import cluster as clusters
from actors.cluster import LONG, REPLAYED, Cluster, Deaths, _Manager, connect
from actors.placement import plan
from benchmarks.virtual.actors import Proposes, Scores, driven, without_ray
from benchmarks.virtual.constants import SMALL, on
from benchmarks.virtual.loops import virtually
from benchmarks.virtual.models import Machine
from tests.fakes import problems
from treesearch.config import load
from treesearch.errors import RunError
from treesearch.tasks import load_task


@pytest.mark.parametrize("unread", [3, None])
@pytest.mark.parametrize("managers", [1, 2])
def test_the_source_is_asked_until_it_says_that_it_ends(unread: int | None, managers: int) -> None:
    """Where the number of problems is known, nobody asked for more after the last one, and no run on Ray ended."""
    nothing: Any = None
    cluster = Cluster(load(None, [f"cluster.managers={managers}"]), load_task("plain"), nothing, nothing)
    cluster._source, cluster._unread = iter(problems(3)), unread
    handed = [problem.id for _ in range(6) for problem in cluster._next(4)]
    assert handed == ["p0", "p1", "p2"] and cluster._ended
    assert not cluster._done(), "they are under way"


@pytest.mark.parametrize(("started", "starts", "said"), [
    (False, 3, "no proposer can start: CUDA error: out of memory"),
    (True, 8, "no proposer is left: .* died 4 times, the last time: cannot start: CUDA error: out of memory"),
])  # fmt: skip
def test_what_cannot_start_at_first_ends_the_run_at_once_and_what_could_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, started: bool, starts: int, said: str
) -> None:
    """A model that does not fit was loaded four times before anybody was told."""
    tries: list[int] = []

    async def ready() -> Any:
        raise RayTaskError("ready", "", RuntimeError("CUDA error: out of memory"), proctitle="", pid=1, ip="")

    def actor(*given: Any) -> Any:
        tries.append(given[2])
        return SimpleNamespace(ready=SimpleNamespace(remote=ready))

    monkeypatch.setattr(clusters, "_kill", lambda actor: None)
    config = load(None, ["cluster.proposers=2", "proposer=simulated", "scorer=none"])
    told: list[str] = []
    nothing: Any = None
    cluster = Cluster(config, load_task("plain"), nothing, told.append)
    monkeypatch.setattr(cluster, "_actor", lambda slot, group: SimpleNamespace(remote=actor))
    cluster._open["proposer"] = 2
    cluster._started |= {"proposer"} if started else set()

    async def main() -> list[Any]:
        places = [(bundle, slot) for bundle in plan(config) for slot in bundle.slots]
        kept = (cluster._keep(bundle, slot, asyncio.Lock()) for bundle, slot in places)
        return await asyncio.gather(*kept, return_exceptions=True)

    *_, error = sorted(asyncio.run(main()), key=lambda found: isinstance(found, RunError))
    assert isinstance(error, RunError)
    assert len(tries) == starts and {*tries} == {0, 1}
    with pytest.raises(RunError, match=said):
        raise error
    assert told[0].endswith("died (cannot start: CUDA error: out of memory); starting another (1 of 3)")


class Journals:
    """A store with so many replies of each problem."""

    def __init__(self, replies: int) -> None:
        self.replies = replies

    def lease(self, problem_id: str) -> int:
        return 1

    def frames(self, problem_id: str) -> tuple[list[bytes], None]:
        return [b"a frame"] * self.replies, None


@pytest.mark.parametrize(
    ("replies", "handed"), [(0, [4, 2]), (REPLAYED // 2, [2, 2, 2]), (REPLAYED + 1, [1, 1, 1, 1, 1, 1])]
)
def test_a_manager_is_given_no_more_to_replay_at_once_than_it_survives(replies: int, handed: list[int]) -> None:
    """One that replayed all journals of a dead manager before it spoke again was taken for dead itself, for ever."""
    store: Any = Journals(replies)
    cluster = Cluster(load(None, []), load_task("plain"), store, store)
    cluster._unread = None
    cluster._returned.extend(problems(6))

    async def all_handed() -> list[tuple[int, bool]]:
        manager = _Manager(None)
        found = [await cluster._handed(manager, 4) for _ in handed]
        assert len(manager.held) == 6
        return [(len(given), more) for given, more in found]

    assert asyncio.run(all_handed()) == [(count, replies > 0) for count in handed]


def test_only_deaths_of_its_own_in_a_row_count() -> None:
    deaths = Deaths(limit=2)
    assert deaths.borne(1.0, own=True) and deaths.borne(1.0, own=True)
    assert deaths.borne(1.0, own=False), "it went with its machine"
    assert deaths.borne(LONG, own=True) and deaths.count == 1, "a run of days outlives many deaths"
    deaths.excuse()
    assert deaths.borne(1.0, own=True), "a prompt was to blame for the one before"
    assert deaths.borne(1.0, own=True) and not deaths.borne(1.0, own=True)


def test_a_sigterm_while_ray_starts_interrupts_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler ended the process with code 15, and nobody was told how to go on."""
    monkeypatch.setattr("ray.init", lambda **_: sys.exit(15))
    with pytest.raises(KeyboardInterrupt):
        connect(None)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_a_cluster_that_is_not_there_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    asked: list[str] = []

    def refuses(address: str, **_: Any) -> None:
        asked.append(address)
        raise ConnectionError(f"Could not find any running Ray instance at {address}")

    monkeypatch.setattr(clusters.ray, "init", refuses)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # as in a job of a cluster
    with pytest.raises(
        RunError, match=r"no Ray cluster at .*: Could not find any .*; start one with `ray start --head`"
    ):
        clusters.connect(address)
    assert asked == [address or "auto"]


def test_a_ray_that_does_not_start_is_an_error_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with thirty programs on two cores Ray gives itself up with a bare Exception."""

    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", slow)
    with pytest.raises(RunError, match="no Ray cluster at 'local': The current node timed out during startup"):
        connect(None)


@dataclass(frozen=True)
class OnGPU(Proposes):
    device: str | None = None


@dataclass(frozen=True)
class PRMOnGPU(Scores):
    device: str | None = None


def cards() -> Machine:
    """Two cards; the PRM of the second has enough with 400 tokens, that of the first never."""
    machine = Machine(on(SMALL, 2))
    for prm, enough in zip(machine.scorers, (10**9, 400), strict=True):
        prm.serving = replace(prm.serving, max_num_batched_tokens=enough)
    return machine


def rests(machine: Machine, share: float, folder: Path) -> list[list[bool]]:
    """What each proposer is told in a run of two managers on the virtual clock, whose models take this share of a card."""
    told: list[list[bool]] = [[], []]
    for proposer, mine in zip(machine.proposers, told, strict=True):

        def rest(rests: bool, mine: list[bool] = mine, sent: Any = proposer.rest) -> None:
            mine.append(rests)
            sent(rests)

        proposer.rest = rest  # type: ignore[method-assign]
    Proposes.engines, Scores.engines = iter(machine.proposers), iter(machine.scorers)
    config = load(None, [
        "problems=-", "task=plain", "search={type: dvts, subtrees: 2, branch: 4}", "engine.trees=6",
        f"proposer={__name__}:OnGPU", f"scorer={__name__}:PRMOnGPU",
        f"cluster={{managers: 2, proposers: 2, scorers: 2, gpus_per_proposer: {share}, gpus_per_scorer: {share}}}",
    ])  # fmt: skip
    virtually(lambda: driven(config, folder, 24))
    return told


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_proposers_rest_on_shared_cards_alone_each_beside_its_own_scorer(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = itertools.count()

    def group(_: Any) -> Any:
        name = f"group {next(names)}"
        return SimpleNamespace(id=SimpleNamespace(hex=lambda: name))

    monkeypatch.setattr(clusters, "placement_group", group)
    monkeypatch.setattr(clusters, "remove_placement_group", lambda group: None)
    monkeypatch.setattr(clusters, "PlacementGroupSchedulingStrategy", lambda *_, **__: None)
    with without_ray():
        first, second = rests(cards(), share, tmp_path)
    assert first == [] and second == [True, False] * (len(second) // 2)
    assert bool(second) == (share == 0.5)
