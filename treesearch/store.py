"""run.db: the journal of delivered replies, SQLite holding MessagePack. Knows no search and no loop; synchronous.

The journal is the checkpoint: a prefix of the replies in delivery order, so a lost tail is lost work, never a wrong
answer. Each row carries a checksum; what follows a damaged row is dropped by name (`Store.notes`).
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treesearch.errors import ConfigError, FrameError, JournalError, RunError
from treesearch.manager import Close, Reply
from treesearch.mounts import file_system, on_network, read_mounts
from treesearch.wire import VERSION, expansion_of, expansion_row, seal, unseal

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (problem TEXT, k INTEGER, body BLOB, PRIMARY KEY (problem, k)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS closes (problem TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID;
"""
Row = tuple[str, int, Reply | Close]  # problem id, k-th delivered reply of it (ignored for a Close), what


class Store:
    """The one writer of a run's journal. Raises ConfigError if the folder belongs to another run, RunError if it is in use."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.notes: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path.with_suffix(".lock"))
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._choose_journal(file_system(path.parent, read_mounts()))
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            self._identify(identity)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise JournalError(
                f"{path}: {error}; it is damaged or not a journal: move it away to start anew"
            ) from error
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def open(cls, path: Path, identity: str) -> Store:
        """`identity` is a digest of all that changes replies: search, models, sampling, seed, version."""
        return cls(path, identity)

    def _choose_journal(self, kind: str) -> None:
        """A write-ahead log where there is shared memory for it; on a network file system SQLite's rollback journal."""
        if not on_network(kind):
            mode = self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode == "wal":
                return
        self._db.execute("PRAGMA journal_mode=DELETE")
        self.notes.append(f"{self.path} lies on {kind}: written without a write-ahead log, which is slower")

    def _identify(self, identity: str) -> None:
        mine = {"version": str(VERSION), "identity": identity}
        for key, value in mine.items():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]
            if found != value:
                raise ConfigError(
                    f"{self.path.parent} holds a run with another {key} ({found}, not {value}); use another --out, "
                    "or the config.yaml in that folder"
                )

    def append(self, rows: Iterable[Row]) -> None:
        """Commit rows in one transaction."""
        replies, closes = [], []
        for problem, k, what in rows:
            if isinstance(what, Reply):
                replies.append((problem, k, pack_reply(what)))
            else:
                closes.append((problem, pack_close(what)))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", replies)
            self._db.executemany("INSERT OR REPLACE INTO closes VALUES (?, ?)", closes)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise RunError(
                f"cannot write {self.path}: {error}; what was committed is safe, run again to go on"
            ) from error

    def load(self, problem: str) -> tuple[list[Reply], Close | None]:
        """The journal of one problem: its replies in delivery order, and how it ended if it did."""
        replies: list[Reply] = []
        query = "SELECT k, body FROM replies WHERE problem = ? ORDER BY k"
        row = self._db.execute("SELECT body FROM closes WHERE problem = ?", (problem,)).fetchone()
        try:
            for k, body in self._db.execute(query, (problem,)).fetchall():
                if k != len(replies):
                    raise FrameError(f"reply {len(replies)} is missing")
                replies.append(unpack_reply(body))
            return replies, unpack_close(row[0]) if row else None
        except FrameError as error:
            self.notes.append(f"problem {problem}: {error}; going on from the {len(replies)} replies before it")
            self._db.execute("DELETE FROM replies WHERE problem = ? AND k >= ?", (problem, len(replies)))
            self._db.execute("DELETE FROM closes WHERE problem = ?", (problem,))
            return replies, None

    def close(self) -> None:
        self._db.close()
        self._lock.close()


def _lock(path: Path) -> Any:
    """An exclusive lock on the run's folder, naming its owner to whoever comes second."""
    handle = open(path, "a+")  # noqa: SIM115 (held as long as the store lives)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise RunError(f"{path.parent} is in use by another run ({owner}); wait for it or use another --out") from error
    handle.truncate(0)
    handle.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    return handle


def pack_reply(reply: Reply) -> bytes:
    """A reply as a frame."""
    return seal([reply.seq, reply.wish, reply.at, expansion_row(reply.expansion)])


def unpack_reply(frame: bytes) -> Reply:
    """Inverse of `pack_reply`; raises FrameError if a bit is wrong."""
    seq, wish, at, expansion = unseal(frame)
    return Reply(seq, wish, at, expansion_of(expansion))


def pack_close(close: Close) -> bytes:
    return seal([close.stopped, close.seconds, close.wasted, close.error])


def unpack_close(frame: bytes) -> Close:
    """Inverse of `pack_close`; raises FrameError if a bit is wrong."""
    return Close(*unseal(frame))
