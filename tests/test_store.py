"""The journal: what is written comes back, what is damaged is named, what is foreign is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes import World, problems
from treesearch.algorithms import SEARCHES
from treesearch.errors import ConfigError, FrameError, JournalError, RunError
from treesearch.manager import Close, Manager, Reply
from treesearch.store import Store, pack_reply, unpack_reply
from treesearch.types import Expansion, Step


@pytest.fixture
def journal() -> list[Reply]:
    return (
        World(Manager(SEARCHES["beam"](beams=2, branch=2), seed=1), 4, 0, failures=0.1).run(problems(1)).journal["p0"]
    )


def write(store: Store, journal: Sequence[Reply], close: Close | None = None, problem: str = "p0") -> None:
    epoch = store.lease(problem)
    store.append([(problem, k, reply, epoch) for k, reply in enumerate(journal)])
    if close is not None:
        store.append([(problem, len(journal), close, epoch)])


def test_a_reply_survives_the_round_trip_bit_for_bit(journal: list[Reply]) -> None:
    assert [unpack_reply(pack_reply(reply)) for reply in journal] == journal


def test_lone_surrogates_and_nulls_survive() -> None:
    step = Step("a\ud800\x00\x1b[2J", (1, 151651), 2, -0.1, 0.5, "answer", "x\udfff", None, 0.25)
    reply = Reply(0, 2**64 - 1, 0.5, Expansion(0, ((step,),), scored=None))
    assert unpack_reply(pack_reply(reply)) == reply


def test_every_flipped_bit_is_noticed(journal: list[Reply]) -> None:
    body = pack_reply(journal[0])
    for bit in range(len(body) * 8):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            unpack_reply(bytes(damaged))


def test_what_was_appended_is_loaded_in_order(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal, Close("finished", 1.5, None))
    store.close()
    again = Store.open(tmp_path / "run.db", "a")
    assert again.load("p0") == (journal, Close("finished", 1.5, None))
    assert again.load("other") == ([], None)
    again.close()


def test_a_damaged_reply_ends_the_journal_there_and_is_named(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal, Close("finished", 1.5, 0))
    store.close()
    db = sqlite3.connect(tmp_path / "run.db")
    db.execute("UPDATE replies SET body = substr(body, 1, length(body) - 1) WHERE k = 2")
    db.commit()
    db.close()
    again = Store.open(tmp_path / "run.db", "a")
    assert again.load("p0") == (journal[:2], None)
    assert "problem p0" in again.notes[0] and "2 replies" in again.notes[0]
    again.close()


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "run.db", "a").close()
    with pytest.raises(ConfigError, match="another identity"):
        Store.open(tmp_path / "run.db", "b")


def test_a_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "run.db", "a")
    with pytest.raises(RunError, match=r"in use by another run \(pid \d+ on"):
        Store.open(tmp_path / "run.db", "a")
    first.close()
    Store.open(tmp_path / "run.db", "a").close()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_text("not a database" * 100)
    with pytest.raises(JournalError, match="not a journal"):
        Store.open(tmp_path / "run.db", "a")


def test_on_a_network_file_system_there_is_no_write_ahead_log(
    tmp_path: Path, journal: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treesearch.store.read_mounts", lambda: f"server:/x {tmp_path} nfs4 rw 0 0\n")
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal)
    assert "nfs4" in store.notes[0] and not (tmp_path / "run.db-wal").exists()
    assert store.load("p0") == (journal, None)
    store.close()
