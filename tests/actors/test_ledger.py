"""A manager whose problems were given to another: its rows are refused, its tree is dropped, nothing of it is published."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any

from actors.cluster import Cluster, _Manager
from actors.manager import Ledger, TreeManager
from tests.fakes import FakeProposer, FakeScorer, InlineChecker, problems
from treesearch.algorithms import SEARCHES
from treesearch.config import load
from treesearch.engine import Engine, Settings
from treesearch.manager import Close, Reply
from treesearch.store import Store, pack_reply, unpack_close, unpack_reply
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
            unpacked = [(p, k, unpack_reply(f) if reply else unpack_close(f, k), e) for p, k, reply, f, e in rows]
            refused = self.store.commit(unpacked)
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
