"""Laws of the SIMULATED cluster, and that it does what the real actors do where both can be run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cluster
from benchmarks.scale_model import CHANGES, against, changed, different, free, rows, together
from benchmarks.virtual import costs, sample
from benchmarks.virtual.actors import driven, middle, on_cards, without_ray
from benchmarks.virtual.constants import SMALL, on
from benchmarks.virtual.costs import Costs, Kept
from benchmarks.virtual.fluid import PARALLEL, Cluster, Fluid
from benchmarks.virtual.loops import virtually
from benchmarks.virtual.models import Machine
from benchmarks.virtual.sample import SEARCH, Typical
from treesearch.config import load

KEPT = Kept.read()
SLOTS = KEPT.credits // PARALLEL  # problems that keep all slots of a GPU
BRIEF = 60.0  # s of the virtual clock in which small clusters come to rest
LOADS = ("manager", "replica", "driver", "store", "network")


def rates(clusters: list[Cluster], c: Costs = KEPT.typical) -> np.ndarray:
    return Fluid(clusters, KEPT, c).run(BRIEF)["expansions"]


def but(**dear: float) -> Costs:
    """Costs of nothing but these."""
    return replace(free(KEPT.typical), **dear)  # type: ignore[arg-type]


def test_where_messages_are_free_the_engines_alone_set_the_rate() -> None:
    clusters = [Cluster(g, m, n, gap=1e-6) for g in (8, 512) for m in (1, 64) for n in (1_000, 100_000)]
    fluid = Fluid(clusters, KEPT, but())
    assert fluid.run(BRIEF)["expansions"] == pytest.approx(fluid.alone(), rel=0.02)
    alone = Fluid([Cluster(512, 1, 100_000)], KEPT, but()).alone()
    assert alone == pytest.approx(512 * KEPT.card[-1][1]), "so many cards at their full rate"


def test_every_cost_makes_it_slower() -> None:
    names = ("manager", "manager_call", "checking", "store")
    one = [Cluster(128, 4, 1_000)]
    found = [rates(one, but(**{name: 40 * getattr(KEPT.typical, name)}))[0] for name in names]
    assert max(found) < rates(one, but())[0] < Fluid(one, KEPT, but()).alone()[0], "and lines take time by themselves"


def test_where_managers_are_the_bottleneck_twice_as_many_do_nearly_twice_as_much() -> None:
    found = rates([Cluster(512, m, 2_000) for m in (2, 4, 8)], but(manager=1e-3))
    assert found == pytest.approx([2_000, 4_000, 8_000], rel=0.02)
    real = rates([Cluster(512, m, 2_000) for m in (1, 2)], replace(KEPT.typical, store=0.0))
    assert 1.8 < real[1] / real[0] <= 2.02


def test_one_store_bounds_all_however_many_managers_there_are() -> None:
    found = rates([Cluster(512, m, 100_000) for m in (4, 64)], but(store=1e-3))
    assert found == pytest.approx([1_000, 1_000], rel=0.02)
    assert rates([Cluster(512, 4, 100_000, stores=4)], but(store=1e-3))[0] == pytest.approx(4_000, rel=0.02)


def test_no_part_is_busy_for_more_than_all_the_time() -> None:
    clusters = [Cluster(g, m, n) for g in (8, 128, 512) for m in (1, 16, 64) for n in (1_000, 100_000)]
    found = Fluid(clusters, KEPT, KEPT.typical).run(BRIEF)
    for part in LOADS:
        assert (found[part] >= 0).all() and (found[part] <= 1 + 1e-9).all(), part
    assert (found["calling"] <= found["manager"] + 1e-9).all()
    assert (found["manager"] > 0.99).any() and (found["expansions"] > 0).all()


def test_more_live_problems_than_slots_add_nothing() -> None:
    found = rates([Cluster(32, 4, n) for n in (100, 32 * SLOTS, 320 * SLOTS)])
    assert found[0] < 0.9 * found[1] and found[2] == pytest.approx(found[1])
    listed = different([32], [4], [1_000, 10_000, 100_000], KEPT.credits)
    assert [one.problems for one in listed] == [1_000, 10_000]


def test_the_bottleneck_is_the_part_that_gains_most_by_being_faster() -> None:
    kept = replace(KEPT, typical=but(store=1e-3))
    starved, stored, engine = rows([Cluster(512, 1, 10), Cluster(8, 1, 1_000), Cluster(1, 1, 100)], kept, BRIEF)
    assert (starved["bottleneck"], stored["bottleneck"], engine["bottleneck"]) == ("problems", "engine", "engine")
    (stored,) = rows([Cluster(128, 1, 10_000)], kept, BRIEF)
    assert stored["bottleneck"] == "store" and stored["gain"] == pytest.approx(1.0, rel=0.05)


def test_each_change_costs_nothing_and_all_together_help() -> None:
    table = changed(KEPT, 512, [16], 10_000, BRIEF)
    assert [row["change"] for row in table] == list(CHANGES)
    assert table[-1]["expansions/s"] > 1.2 * table[0]["expansions/s"]
    with pytest.raises(ValueError, match="do not reach all 512"):
        Cluster(512, 4, 1_000, reach=64)


@pytest.mark.parametrize(("gpus", "managers", "trees"), [(1, 1, 2), (2, 2, 2)])
def test_the_real_actors_over_simulated_cards_are_as_fast(tmp_path: Path, gpus: int, managers: int, trees: int) -> None:
    """Lines, polls and engines on the virtual clock: within a tenth; calls within a fifth."""
    seen = on_cards(Machine(on(SMALL, gpus)), managers, trees, 4 * trees * managers, tmp_path)
    found = Fluid([Cluster(gpus, managers, trees * managers)], KEPT, but()).run(BRIEF)
    assert found["expansions"][0] == pytest.approx(seen.expansions / seen.now, rel=0.1)
    assert found["calls"][0] + 10 * managers == pytest.approx(seen.calls / seen.now, rel=0.2)


def test_one_machine_shares_its_cores_among_all_processes() -> None:
    one = together(KEPT.null, 1, 1, 1.0, 256)[0]
    two = together(KEPT.null, 1, 1, 2.0, 256)[0]
    assert one < two <= 2.001 * one and two < 1 / KEPT.null.manager
    assert one < together(KEPT.null, 1, 1, 1.0, 256, ray=False)[0]
    found = {
        "pace": None,
        "managers": 1,
        "replicas": 1,
        "rate": one,
        "calls": 0.02,
        "us": {"manager": 400.0, "ray": 50.0},
    }
    (row,) = against(KEPT, [{"pace": 1000}, found], 1)
    assert row["error"] == pytest.approx(0.0) and row["calls measured"] == pytest.approx(0.02)
    assert row["us measured"] == 450 and row["us predicted"] == pytest.approx(1e6 / one), "a full core"


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_replica_of_weak_scaling_does_what_its_slots_allow_and_no_more(tmp_path: Path, replicas: int) -> None:
    """The real actors on the virtual clock: 64 slots of 1.28 s are 50 expansions/s, but for the way there and back."""
    delay, more = cluster.asked("weak", 50.0, replicas, 0)
    given = cluster.config(tmp_path / "none", replicas, delay, *more)
    with without_ray():
        seen = middle(virtually(lambda: driven(given, tmp_path, 24 * replicas)))
    assert 42 < seen.expansions / seen.now / replicas < 50


def test_costs_are_those_of_the_cluster_benchmarks_search() -> None:
    search = load(None, ["problems=-", cluster.SEARCH]).search
    assert {name: getattr(search, name) for name in SEARCH} == SEARCH
    kept = json.loads(costs.KEPT.read_text())
    assert {"date", "processor", "cores", "load", "python"} <= kept["where"].keys()
    assert [trees for trees, _ in kept["card"]] == list(costs.TREES)


def test_costs_are_measured_on_the_real_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small runs: every cost is there, and what is longer costs more to send."""
    monkeypatch.setattr(costs, "TIMES", 1)
    monkeypatch.setattr(sample, "SOME", 4)
    found = costs.measure(Typical(), 8)
    assert all(value > 0 for key, value in asdict(found).items() if key not in ("ray", "manager_call", "replica_call"))
    assert found.wire > 3 * KEPT.null.wire and found.row > 3 * KEPT.null.row
    assert found.wire == pytest.approx(KEPT.typical.wire, rel=0.2) and found.expansions == 64


def test_the_actors_run_without_ray_and_commit_what_they_find(tmp_path: Path) -> None:
    with without_ray():
        *_, end = asyncio.run(driven(cluster.config(tmp_path / "none", 1), tmp_path, 24))
    assert end.expansions == 24 * 64 and 0 < end.calls < end.expansions
    assert not (set(tmp_path.iterdir()) - set(tmp_path.glob("run.*"))), "nothing but the journal"
