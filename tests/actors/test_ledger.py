"""A manager whose problems were given to another: its rows are refused, its tree is dropped, nothing of it is published."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.cluster import Cluster, _Manager
from actors.manager import TOLD, Ledger, TreeManager
from tests.fakes import FakeProposer, FakeScorer, InlineChecker, problems
from treesearch.algorithms import SEARCHES
from treesearch.config import load
from treesearch.engine import Engine, Settings
from treesearch.errors import FrameError
from treesearch.manager import Close, Reply
from treesearch.store import Row, Store, pack_reply, packed
from treesearch.tasks import load_task
from treesearch.types import Answer, Expansion
from treesearch.wire import seal, unseal


def test_each_batch_is_told_which_of_its_own_problems_were_refused() -> None:
    ledger = Ledger(lambda: None)
    batches: list[Future[Any]] = [
        ledger.append([(p, 0, Close("finished", 1.0, 0), 1) for p in names])
        for names in (("p0", "p1"), ("p2",), ("p0",))
    ]
    number, rows = ledger.unsent()
    assert number == 3 and [(row[0], row[-1]) for row in rows] == [("p0", 1), ("p1", 1), ("p2", 1), ("p0", 1)]
    ledger.acknowledge(2, ["p0"])
    assert [batch.done() for batch in batches] == [True, True, False]
    assert [batch.result() for batch in batches[:2]] == [{"p0"}, set()]
    ledger.close()
    assert isinstance(batches[2].exception(), Exception)


def test_rows_that_travel_are_written_as_those_of_one_process(tmp_path: Path) -> None:
    """Byte for byte: one journal whoever wrote it."""
    rows: list[Row] = [("p0", k, Reply(k, 7 * k, 0.5, Expansion(k, error="none")), 1) for k in range(3)]
    rows.append(("p0", 3, Close("finished", 1.0, 0), 1))
    found = []
    for name, travel in (("here", False), ("there", True)):
        store = Store.open(tmp_path / name / "run.db", "a")
        store.lease("p0")
        if travel:
            ledger = Ledger(lambda: None)
            ledger.append(rows)
            store.commit(unseal(seal(ledger.unsent()[1])))
        else:
            store.append(rows)
        found.append([store._db.execute(f"SELECT * FROM {table}").fetchall() for table in ("replies", "closes")])
        store.close()
    assert found[0] == found[1] and [len(table) for table in found[0]] == [3, 1]


class Driver:
    """Carries rows from a ledger to a store, as the driver's polls do."""

    def __init__(self, store: Store) -> None:
        self.store, self.ledger, self.refused = store, Ledger(lambda: None), set[str]()

    def give(self, problem_id: str) -> None:
        epoch = self.store.lease(problem_id)
        self.ledger.given[problem_id] = epoch, *self.store.load(problem_id)

    async def carry(self) -> None:
        while True:
            number, rows = self.ledger.unsent()
            refused = self.store.commit(rows)
            self.refused |= refused
            self.ledger.acknowledge(number, refused)
            await asyncio.sleep(0.002)


def test_a_manager_that_was_given_up_drops_what_another_has(tmp_path: Path) -> None:
    asked = problems(6)
    store = Store.open(tmp_path / "run.db", "a")
    older = Driver(store)

    def engine(ledger: Ledger) -> Engine:
        return Engine(SEARCHES["beam"](beams=3, branch=3), load_task("plain"), [FakeProposer()], [FakeScorer()],
                      checker=InlineChecker(), store=ledger, settings=Settings(trees=6))  # type: ignore[arg-type]  # fmt: skip

    async def first() -> list[Answer]:
        carrying = asyncio.create_task(older.carry())
        found = []
        running = engine(older.ledger)
        async with aclosing(running.answers(asked)) as answers:
            async for answer in answers:
                found.append(answer)
        carrying.cancel()
        assert not running._dropped and not running._unpublished and not running._running and not running._epochs
        return found

    async def second(driver: Driver, ids: list[str]) -> list[Answer]:
        carrying = asyncio.create_task(driver.carry())
        found = [answer async for answer in engine(driver.ledger).answers([p for p in asked if p.id in ids])]
        carrying.cancel()
        return found

    for problem in asked:
        older.give(problem.id)
    newer = Driver(store)
    for name in ("p1", "p4"):  # the driver has given up the first manager, which does not know
        newer.give(name)
    answers = asyncio.run(first())
    assert sorted(answer.problem.id for answer in answers) == ["p0", "p2", "p3", "p5"]
    assert older.refused == {"p1", "p4"} and store.refused > 0
    assert store.load("p1") == ([], None), "nothing of the older manager was written"
    taken_over = asyncio.run(second(newer, ["p1", "p4"]))
    assert sorted(answer.problem.id for answer in taken_over) == ["p1", "p4"]
    assert all(store.load(problem.id)[1] is not None for problem in asked)
    store.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_damaged_row_of_a_manager_ends_the_run_and_is_not_written(tmp_path: Path, damaged: bool) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    cluster = Cluster(
        load(None, ["proposer=simulated", "scorer=simulated"]), load_task("plain"), store, lambda text: None
    )
    cluster._returned.extend(problems(1))
    cluster._unread, cluster._under_way = 0, 1
    journal = [Reply(k, k, 0.5, Expansion(0, error="none")) for k in range(2)]
    rows = [packed(("p0", k, reply, 1)) for k, reply in enumerate(journal)]
    if damaged:
        problem, k, is_reply, frame, epoch = rows[1]
        rows[1] = problem, k, is_reply, frame[:-1] + b"?", epoch

    async def poll(frame: bytes) -> bytes:
        cluster._under_way = 0  # this is the last
        return seal([1, rows, [], 0, {"usage": []}, [], [], [], None])

    serving = cluster._serve(_Manager(SimpleNamespace(poll=SimpleNamespace(remote=poll))))
    if damaged:
        with pytest.raises(FrameError, match="problem p0, row 1, which is not written: a frame fails its checksum"):
            asyncio.run(serving)
    else:
        asyncio.run(serving)
    assert store.load("p0") == ([] if damaged else journal, None) and not store.notes
    store.close()


def test_counters_of_many_replicas_come_in_turn() -> None:
    manager = TreeManager(load(None, ["proposer=simulated", "scorer=simulated"]).resolved(), "m", 1)
    for count, polls in ((3, 1), (TOLD, 1), (2 * TOLD + 1, 3)):
        manager.links = {("proposer", epoch): SimpleNamespace(usage={"prompt_tokens": epoch + 1}, calls=0)  # type: ignore[misc]
                         for epoch in range(count)}  # fmt: skip
        for _ in range(2):
            told = [usage for _ in range(polls) for usage in manager.stats()["usage"]]
            assert told == [("proposer", epoch, {"prompt_tokens": epoch + 1}) for epoch in range(count)]


def test_a_journal_with_a_frame_that_is_no_reply_is_cut_there_and_handed_out_again(tmp_path: Path) -> None:
    """Its checksum is right, so the driver, which unpacks nothing, does not see it."""
    config, said = load(None, ["proposer=simulated", "scorer=simulated"]), list[str]()
    store = Store.open(tmp_path / "run.db", "a")
    journal = [Reply(k, k, 0.5, Expansion(0, error="none")) for k in range(3)]
    epoch = store.lease("p0")
    store.append([("p0", k, reply, epoch) for k, reply in enumerate(journal)])
    store._db.execute("UPDATE replies SET body = ? WHERE k = 1", (seal(["no reply"]),))
    cluster, manager = Cluster(config, load_task("plain"), store, said.append), TreeManager(config.resolved(), "m", 1)
    cluster._unread = None
    cluster._returned.extend(problems(1))
    held = _Manager(None)

    async def served() -> list[list[bytes]]:
        found = []
        for _ in range(2):
            (given,), _ = await cluster._handed(held, 1)
            found.append(list(given[2]))
            manager._take(unseal(seal([given])))
            garbled, manager.garbled = manager.garbled, []
            await cluster._cut(held, garbled)
        return found

    whole, cut = asyncio.run(served())
    assert len(whole) == 3 and cut == [pack_reply(journal[0])]
    assert list(manager.ledger.given) == ["p0"] == list(held.held) and manager.ledger.load("p0") == (journal[:1], None)
    assert "no reply" in store.notes[0]
    store.close()
