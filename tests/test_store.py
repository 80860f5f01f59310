"""The journal: what is written comes back, what is damaged is named, what is foreign is refused."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import World, problems
from treesearch.algorithms import SEARCHES
from treesearch.errors import ConfigError, FrameError, JournalError, RunError
from treesearch.manager import Close, Manager, Reply
from treesearch.salvage import damage
from treesearch.store import Store, pack_close, pack_reply, packed, unpack_reply
from treesearch.types import Expansion, Step
from treesearch.wire import seal


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


@pytest.mark.parametrize("damaged", [None, "substr(body, 2)", "'text'", "NULL"])
def test_frames_are_those_of_the_replies_that_are_loaded(
    tmp_path: Path, journal: list[Reply], damaged: str | None
) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    end = Close("finished", 1.5, 0)
    for problem in ("p0", "p1"):
        write(store, journal, end, problem)
    if damaged:
        store._db.execute(f"UPDATE replies SET body = {damaged} WHERE k = 2")
    kept, close = (journal[:2], None) if damaged else (journal, end)
    assert store.frames("p0") == ([pack_reply(reply) for reply in kept], close) and store.load("p1") == (kept, close)
    assert [note.replace("p1", "p0") for note in store.notes] == store.notes[:1] * (2 if damaged else 0)
    assert store.load("p0") == (kept, close), "what was dropped is gone"
    store.close()


def test_a_frame_that_is_whole_and_no_reply_is_cut_off_by_whoever_unpacks_it(
    tmp_path: Path, journal: list[Reply]
) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal)
    store._db.execute("UPDATE replies SET body = ? WHERE k = 2", (seal([2]),))
    assert len(store.frames("p0")[0]) == len(journal) and not store.notes
    assert store.load("p0") == (journal[:2], None) and "no reply" in store.notes[0]
    assert store.frames("p0") == ([pack_reply(reply) for reply in journal[:2]], None)
    store.close()


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


def test_rows_of_an_older_lease_are_refused_and_counted(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    old, other = store.lease("p0"), store.lease("p1")
    new = store.lease("p0")
    assert new > old
    rows = [("p0", 0, journal[0], old), ("p1", 0, journal[0], other), ("p0", 1, Close("finished", 1.0, 0), old)]
    assert store.commit(map(packed, rows)) == {"p0"} and store.refused == 2
    assert store.load("p0") == ([], None) and store.load("p1") == (journal[:1], None)
    assert store.commit([packed(("p0", 0, journal[0], new))]) == frozenset()
    assert store.commit([packed(("p2", 0, journal[0], 1))]) == {"p2"}, "nobody took this lease"
    with pytest.raises(RunError, match=r"another process has gone on with .*'p0'"):
        store.append([("p0", 1, journal[1], old)])
    store.close()


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 4])


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda p, k, reply, frame, epoch: (p, k, reply, flipped(frame), epoch), "p0, row 1, .*: a frame fails its checksum"),
    (lambda p, k, reply, frame, epoch: (p, k, reply, frame[:-1], epoch), "p0, row 1, .*: a frame fails its checksum"),
    (lambda p, k, reply, frame, epoch: (p, k, reply, "text", epoch), "p0, row 1, .*: a frame is bytes, not str"),
    (lambda p, k, reply, frame, epoch: (p, k, False, frame, epoch), "p0, row 1, .*: no close: 4 fields"),
    (lambda p, k, reply, frame, epoch: (p, 1.5, reply, frame, epoch), "no row: 5 fields"),
    (lambda p, k, reply, frame, epoch: (p, -1, reply, frame, epoch), "no row: 5 fields"),
    (lambda p, k, reply, frame, epoch: (b"p0", k, reply, frame, epoch), "no row: 5 fields"),
    (lambda p, k, reply, frame, epoch: (p, k, 1, frame, epoch), "no row: 5 fields"),
    (lambda p, k, reply, frame, epoch: (p, k, reply, frame, True), "no row: 5 fields"),
    (lambda *row: row[:4], "no row: 4 fields"),
    (lambda *row: None, "no row: NoneType"),
    (lambda p, *_: (p, 3, False, pack_close(Close("finished", 1.0, 0), 2), 1), "row 3, .*: it ended after 2 replies, of"),
])  # fmt: skip
def test_a_row_that_is_damaged_is_named_and_nothing_of_its_batch_is_written(
    tmp_path: Path, journal: list[Reply], spoil: Any, said: str
) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    epoch = store.lease("p0")
    rows = [packed(("p0", k, reply, epoch)) for k, reply in enumerate(journal[:3])]
    with pytest.raises(FrameError, match=said):
        store.commit([rows[0], spoil(*rows[1]), rows[2]])
    assert store.load("p0") == ([], None)
    assert store.commit(rows) == frozenset() and store.load("p0") == (journal[:3], None)
    store.close()


@pytest.mark.parametrize(("problem", "k"), [("p0", 1 << 63), ("\ud800", 0)])
def test_what_sqlite_cannot_hold_is_a_clear_error_and_leaves_nothing_open(
    tmp_path: Path, journal: list[Reply], problem: str, k: int
) -> None:
    """A frame can hold both."""
    store = Store.open(tmp_path / "run.db", "a")
    good = packed(("p0", 0, journal[0], store.lease("p0")))
    with pytest.raises(RunError, match="cannot write"):
        store.commit([good, (problem, k, *good[2:])])
    assert store.load("p0") == ([], None) and store.commit([good]) == frozenset()
    store.close()


def test_epochs_go_on_over_restarts(tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        store = Store.open(tmp_path / "run.db", "a")
        found.append(store.lease("p0"))
        store.close()
    assert found == [1, 2, 3]


def test_an_end_that_says_more_replies_than_there_are_does_not_count(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal[:3], None)
    store.append([("p0", 5, Close("finished", 1.0, 0), 1)])
    assert store.load("p0") == (journal[:3], None)
    assert store.notes == [
        "problem p0: it ended after 5 replies, of which 3 are here; going on from the 3 replies before it"
    ]
    store.close()


def test_a_lost_reply_in_the_middle_is_named(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    epoch = store.lease("p0")
    store.append([("p0", k, journal[k], epoch) for k in (0, 1, 3)])
    assert store.load("p0") == (journal[:2], None) and "reply 2 is missing" in store.notes[0]
    assert store.load("p0") == (journal[:2], None) and len(store.notes) == 1, "what was dropped is gone"
    store.close()


def test_a_body_that_is_no_bytes_is_damage(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal)
    store._db.execute("UPDATE replies SET body = 'text' WHERE k = 1")
    assert store.load("p0") == (journal[:1], None) and "bytes, not str" in store.notes[0]
    store.close()


def test_a_schema_from_elsewhere_calls_nothing_that_reaches_beyond_it(tmp_path: Path, journal: list[Reply]) -> None:
    """A function that is not known to be harmless, in a trigger that came with the file."""
    store = Store.open(tmp_path / "run.db", "a")
    called: list[int] = []
    for db in (store._db, store._front):
        db.create_function("reach", 0, lambda: called.append(1))
    store._db.execute("CREATE TRIGGER evil AFTER INSERT ON replies BEGIN SELECT reach(); END")
    with pytest.raises(RunError, match="unsafe use of reach"):
        write(store, journal)
    store.close()
    assert not called and damage(tmp_path / "run.db") is None


def test_a_journal_that_goes_bad_under_way_is_looked_at_by_the_next_run(
    tmp_path: Path, journal: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treesearch.store.CHECKED", 0)  # as if it were too large to be checked each time
    store = Store.open(tmp_path / "run.db", "a")
    for k in range(40):
        write(store, journal, None, f"p{k}")
    store.close()
    assert (tmp_path / "run.lock").read_text() == ""
    data = (tmp_path / "run.db").read_bytes()
    page = 4096 * (len(data) // 4096 // 2)
    (tmp_path / "run.db").write_bytes(data[:page] + b"\xff" * 4096 + data[page + 4096 :])
    store = Store.open(tmp_path / "run.db", "a")
    with pytest.raises(JournalError, match="cannot be read: database disk image is malformed; run again"):
        for k in range(40):
            store.load(f"p{k}")
    store.close()
    assert (tmp_path / "run.lock").read_text() == "damaged\n"
    store = Store.open(tmp_path / "run.db", "a")
    assert "was damaged" in store.notes[0]
    found = [store.load(f"p{k}")[0] for k in range(40)]
    assert all(replies == journal[: len(replies)] for replies in found) and sum(map(len, found)) > 20 * len(journal)
    store.close()


def test_a_folder_that_cannot_be_locked_says_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match=r"cannot be locked \(No locks available\): use an --out on a local disk"):
        Store.open(tmp_path / "run.db", "a")


def test_a_journal_that_cannot_be_opened_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "run.db").mkdir()
    with pytest.raises(RunError, match="unable to open database file; nothing was changed") as found:
        Store.open(tmp_path / "run.db", "a")
    assert not isinstance(found.value, JournalError)


def test_a_disk_that_refuses_the_rollback_too_is_told_as_it_was(tmp_path: Path, journal: list[Reply]) -> None:
    store = Store.open(tmp_path / "run.db", "a")
    epoch = store.lease("p0")
    store._db.execute("DROP TABLE replies")
    with pytest.raises(RunError, match="no such table: replies; what was committed is safe"):
        store.append([("p0", 0, journal[0], epoch)])
    assert not store._db.in_transaction
    store.close()


def test_where_no_write_ahead_log_can_be_the_journal_is_slower_and_says_so(
    tmp_path: Path, journal: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect

    class NoShared(sqlite3.Connection):
        def execute(self, sql: str, *given: object):
            return super().execute("PRAGMA journal_mode" if sql.endswith("=WAL") else sql, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **b: real(*a, **b, factory=NoShared))
    store = Store.open(tmp_path / "run.db", "a")
    write(store, journal)
    assert "without a write-ahead log" in store.notes[0] and store.load("p0") == (journal, None)
    store.close()


def test_a_large_file_that_is_no_journal_is_refused_without_being_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treesearch.store.CHECKED", 0)
    (tmp_path / "run.db").write_text("not a database" * 1000)
    with pytest.raises(JournalError, match="not a journal: move it away"):
        Store.open(tmp_path / "run.db", "a")
