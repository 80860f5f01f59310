"""Bugs planted in the product, one at a time: the simulation must find each of them within some seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from actors.cluster import Cluster
from actors.link import Link
from tests.simulation.runner import run
from tests.simulation.seeds import KEPT
from treesearch.blame import Blame
from treesearch.dispatch import Dispatch
from treesearch.engine import Engine
from treesearch.manager import Live, Manager, Outcome
from treesearch.pool import Pool
from treesearch.store import Packed, Store
from treesearch.types import Expansion

SEEDS = 300
Plant = Callable[[pytest.MonkeyPatch], None]


def the_manager_applies_a_reply_again(patch: pytest.MonkeyPatch) -> None:
    feed, deliver = Manager._feed, Manager.deliver
    answered: dict[str, Any] = {}

    def remembering(self: Manager, live: Live, seq: int, reply: Expansion) -> None:
        answered[f"{live.problem.id}/{seq}"] = live.outstanding[seq]
        feed(self, live, seq, reply)

    def forgetting(self: Manager, job_id: str, expansion: Expansion, now: float) -> Outcome:
        problem_id, _, number = job_id.rpartition("/")
        live = self.live.get(problem_id)
        if live is not None and live.stopped is None and int(number) not in live.outstanding and job_id in answered:
            live.outstanding = {int(number): answered[job_id], **live.outstanding}
            live.oldest = int(number)
        return deliver(self, job_id, expansion, now)

    patch.setattr(Manager, "_feed", remembering)
    patch.setattr(Manager, "deliver", forgetting)


def the_manager_delivers_as_they_come(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Manager, "_turn", lambda self, live, arrived: arrived if arrived in live.ready else None)


def the_pool_keeps_the_slot_of_a_failure(patch: pytest.MonkeyPatch) -> None:
    async def call(self: Pool, number: int, item_id: str, item: Any, *how: Any) -> Any:
        self._running[item_id] = number
        try:
            (reply,) = await self.replicas[number].call([item])
        except Exception as error:
            del self._running[item_id]
            return error
        del self._running[item_id]
        self.dispatch.done(number, item_id)
        self._send()
        return reply

    patch.setattr(Pool, "_call", call)


def the_pool_gives_up_at_the_second_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("treesearch.pool.TRIES", 2)


def the_pool_blames_whoever_is_tried(patch: pytest.MonkeyPatch) -> None:
    died = Blame.died

    def convicted(self: Blame, replica: int, kin: Any, tried: bool = False, *how: bool) -> None:
        died(self, replica, kin, tried, *how)
        if tried:
            self.answered(kin)
            self.poison.add(kin)

    patch.setattr(Blame, "died", convicted)


def the_store_acknowledges_before_it_commits(patch: pytest.MonkeyPatch) -> None:
    commit = Store.commit
    waiting: dict[int, list[Packed]] = {}

    def late(self: Store, rows: Iterable[Packed]) -> frozenset[str]:
        before, waiting[id(self)] = waiting.get(id(self), []), list(rows)
        return commit(self, before)

    patch.setattr(Store, "commit", late)


def the_store_keeps_the_close_of_a_damaged_journal(patch: pytest.MonkeyPatch) -> None:
    journal = Store._journal

    def loaded(self: Store, problem: str, read: Any) -> Any:
        row = self._db.execute("SELECT body FROM closes WHERE problem = ?", (problem,)).fetchone()
        replies, close = journal(self, problem, read)
        from treesearch.manager import Close
        from treesearch.wire import unseal

        return replies, Close(*unseal(row[0])[:4]) if row else close

    patch.setattr(Store, "_journal", loaded)


def dispatch_loses_what_waits_for_a_replica_that_leaves(patch: pytest.MonkeyPatch) -> None:
    def leave(self: Dispatch, replica: int) -> None:
        if self.credits.pop(replica, None) is not None:
            self._slack -= self.free.pop(replica)
            self._count -= len(self._queues.pop(replica))

    patch.setattr(Dispatch, "leave", leave)


def dispatch_forgets_a_credit_now_and_then(patch: pytest.MonkeyPatch) -> None:
    done = Dispatch.done

    def sometimes(self: Dispatch, replica: int, job_id: str) -> None:
        if not job_id.endswith("/5"):
            done(self, replica, job_id)

    patch.setattr(Dispatch, "done", sometimes)


def an_engine_publishes_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    async def publish(self: Engine, problem_id: str) -> None:
        live = self.manager.live.get(problem_id)
        if live is not None and live.stopped is not None:
            self._finish(self.manager.answer(problem_id, self.clock()))

    patch.setattr(Engine, "_publish", publish)


def the_driver_hands_out_problems_without_their_journal(patch: pytest.MonkeyPatch) -> None:
    given = Cluster._given

    async def bare(self: Cluster, manager: Any, problem: Any) -> Any:
        row, epoch, _, _ = await given(self, manager, problem)
        return row, epoch, [], None

    patch.setattr(Cluster, "_given", bare)


def a_link_forgets_whoever_waits_for_a_dead_replica(patch: pytest.MonkeyPatch) -> None:
    def lose(self: Link, error: Any) -> None:
        if self.closed is None:
            self.closed = error
            self.lost(error)
            self.close()

    patch.setattr(Link, "lose", lose)
    call = Pool._call

    async def patient(self: Pool, number: int, item_id: str, item: Any, *how: Any) -> Any:
        self.timeout = None  # with one, the pool asks another replica in the end
        return await call(self, number, item_id, item, *how)

    patch.setattr(Pool, "_call", patient)


PLANTS: dict[Plant, set[str]] = {  # what each must show at least
    the_manager_applies_a_reply_again: {"I1", "I6"},
    the_manager_delivers_as_they_come: {"I6"},
    the_pool_keeps_the_slot_of_a_failure: {"I4"},
    the_pool_gives_up_at_the_second_failure: {"I9"},
    the_pool_blames_whoever_is_tried: {"I9"},
    the_store_acknowledges_before_it_commits: {"I3"},
    the_store_keeps_the_close_of_a_damaged_journal: {"I3", "I6"},
    dispatch_loses_what_waits_for_a_replica_that_leaves: {"I4"},
    dispatch_forgets_a_credit_now_and_then: {"I4"},
    an_engine_publishes_before_the_commit: {"I3"},
    the_driver_hands_out_problems_without_their_journal: {"I3"},
    a_link_forgets_whoever_waits_for_a_dead_replica: {"I4"},
}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in (*KEPT, *range(SEEDS)):
        found = run([seed]).violations.get(seed, [])
        if {text.split("s: ")[1][:2] for text in found} & PLANTS[plant]:
            print(f"{plant.__name__}: found with seed {seed}: {found[0]}")
            return
    raise AssertionError(f"{SEEDS} seeds, and nobody has noticed that {plant.__name__}")
