"""run.db: the journal of delivered replies, SQLite holding MessagePack. Knows no search and no loop; synchronous.

The journal is the checkpoint: a prefix of the replies in delivery order, so a lost tail is lost work, never a wrong
answer. Each row carries a checksum and each end the number of replies before it; what does not fit is dropped by name
(`Store.notes`). Whoever is given a problem takes its lease, and rows under an older lease are refused: a manager or a
process that was given up, and goes on all the same, cannot write.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from treesearch.errors import ConfigError, FrameError, JournalError, RunError
from treesearch.manager import Close, Reply
from treesearch.mounts import file_system, on_network, read_mounts
from treesearch.salvage import connect, damage, salvage
from treesearch.wire import close_of, expansion_row, fields, is_count, reply_of, seal, unseal, whole, wrong

VERSION = "3"
OLD = ("2",)  # had no leases, and ends that did not say how many replies came before them
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (problem TEXT, k INTEGER, body BLOB, PRIMARY KEY (problem, k)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS closes (problem TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (problem TEXT PRIMARY KEY, epoch INTEGER) WITHOUT ROWID;
"""
PATIENCE = 60.0  # seconds for another connection's commit
CHECKED = 256 << 20  # bytes; a larger journal is checked before use only if its last run was killed
OWNER, DAMAGED = (
    "pid",
    "damaged\n",
)  # what the lock's file begins with: a run that lives or was killed; one that saw damage
Row = tuple[str, int, Reply | Close, int]  # problem id, replies of it before this, what, epoch of the writer's lease
Packed = tuple[str, int, bool, bytes, int]  # the same with a frame: of a reply (true), or of an end
Read = TypeVar("Read")


class Store:
    """The one writer of a run's journal. Raises ConfigError if the folder belongs to another run, RunError if it is in use.

    A damaged journal is replaced by what can be read of it, and kept under another name.
    """

    def __init__(self, path: Path, identity: str, models: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.notes: list[str] = []
        self.refused = 0  # rows of older leases
        self._suspect = True  # until it is open, and where damage was met: the next run looks closer
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            self._lock, left = _lock(path.with_suffix(".lock"))
            files.callback(self._unlock)
            try:
                self._check(left)
                # one commits, in a thread; the other is asked meanwhile
                self._db, self._front = (files.enter_context(closing(self._connect())) for _ in range(2))
                self._choose_journal()
                self._db.executescript(SCHEMA)
                self._identify(identity, models or {})
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise _cannot_open(path, error) from error
            self._suspect, self._files = False, files.pop_all()

    @classmethod
    def open(cls, path: Path, identity: str, models: Mapping[str, str] | None = None) -> Store:
        """`identity` is a digest of all that changes replies: search, sampling, seed; `models`: of weights, by name."""
        return cls(path, identity, models)

    def _check(self, left: str) -> None:
        """Mend what is there, if it is damaged. `left`: what the last run left in the lock's file."""
        if not self.path.exists():
            return
        wal = self.path.with_name(self.path.name + "-wal")
        if left.startswith(OWNER) and not self._on_network() and not wal.exists():
            self.notes.append(f"{wal} is gone, and the last run was killed: replies that it held are asked again")
        if (left or self.path.stat().st_size <= CHECKED) and (found := damage(self.path)) is not None:
            self.notes.append(salvage(self.path, found, SCHEMA))

    def _on_network(self) -> bool:
        return on_network(file_system(self.path.parent, read_mounts()))

    def _connect(self) -> sqlite3.Connection:
        db = connect(self.path, timeout=PATIENCE, check_same_thread=False, isolation_level=None)
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    def _choose_journal(self) -> None:
        """A write-ahead log where there is shared memory for it; on a network file system SQLite's rollback journal."""
        if not self._on_network() and self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
            return
        self._db.execute("PRAGMA journal_mode=DELETE")
        kind = file_system(self.path.parent, read_mounts())
        self.notes.append(f"{self.path} lies on {kind}: written without a write-ahead log, which is slower")

    def _identify(self, identity: str, models: Mapping[str, str]) -> None:
        folder = self.path.parent
        version = self._meta("version", VERSION)
        if version in OLD:
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'version'", (VERSION,))
            self.notes.append(f"{self.path} was of journal version {version}: it is of version {VERSION} now")
        elif version != VERSION:
            raise ConfigError(
                f"{self.path} is of journal version {version}, this treesearch writes {VERSION}: go on with the treesearch "
                f"that {folder / 'summary.json'} names, or use another --out"
            )
        if (found := self._meta("identity", identity)) != identity:
            raise ConfigError(
                f"{folder} holds a run with another identity ({found}, not {identity}); use another --out, or the "
                "config.yaml in that folder"
            )
        for name, weights in models.items():
            if self._meta(f"model {name}", weights) != weights:
                raise ConfigError(
                    f"{folder} holds a run with other weights of {name}: replies of two models must not mix; use another "
                    "--out, or put the old weights back"
                )

    def _meta(self, key: str, value: str) -> str:
        """What is written under the key; `value`, from now on, if nothing is."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        found: str = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]
        return found

    # Writing

    def lease(self, problem: str) -> int:
        """A new epoch for whoever is given the problem: from now on rows of an older one are refused."""
        query = "INSERT INTO leases VALUES (?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch"
        with self._errors(self._front):
            ((epoch,),) = self._front.execute(query, (problem,)).fetchall()
        return int(epoch)

    def commit(self, rows: Iterable[Packed]) -> frozenset[str]:
        """Commit rows in one transaction; returns the problems of which rows were refused, for they have a newer lease.

        Frames are written as they come, maybe from another process, if all are as `checked` wants them. Raises FrameError
        if one is not, RunError if they cannot be written; either way nothing of these rows is.
        """
        rows = [checked(row) for row in rows]
        with self._errors(self._db):
            self._db.execute("BEGIN IMMEDIATE")
            stale = {(p, epoch) for p, epoch in {(row[0], row[-1]) for row in rows} if self._epoch(p) != epoch}
            good = [row for row in rows if (row[0], row[-1]) not in stale]
            self._db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)",
                                 [(p, k, frame) for p, k, is_reply, frame, _ in good if is_reply])  # fmt: skip
            self._db.executemany("INSERT OR REPLACE INTO closes VALUES (?, ?)",
                                 [(p, frame) for p, _, is_reply, frame, _ in good if not is_reply])  # fmt: skip
            self._db.execute("COMMIT")
        self.refused += len(rows) - len(good)
        return frozenset(problem for problem, _ in stale)

    def append(self, rows: Iterable[Row]) -> None:
        """`commit` for a run in one process, which nobody may have taken over. Raises RunError if somebody has."""
        if refused := self.commit([packed(row) for row in rows]):
            raise RunError(
                f"another process has gone on with {self.path} (problem {min(refused)!r}): this one ends, and has written "
                "nothing since; let the other run end"
            )

    def _epoch(self, problem: str) -> int | None:
        row = self._db.execute("SELECT epoch FROM leases WHERE problem = ?", (problem,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _errors(self, db: sqlite3.Connection) -> Iterator[None]:
        """What SQLite cannot write as a RunError, with nothing half written."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:  # a number beyond 64 bits, text that is no UTF-8
            self._note_damage(error)
            with suppress(sqlite3.Error):  # some errors have rolled back already, and a dead disk refuses
                db.execute("ROLLBACK")
            raise RunError(
                f"cannot write {self.path}: {error}; what was committed is safe, run again to go on"
            ) from error

    def _note_damage(self, error: Exception) -> None:
        self._suspect |= isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.OperationalError)

    # Reading

    def load(self, problem: str) -> tuple[list[Reply], Close | None]:
        """The journal of one problem: its replies in delivery order, and how it ended if it did."""
        return self._journal(problem, unpack_reply)

    def frames(self, problem: str) -> tuple[list[bytes], Close | None]:
        """As `load`, each reply still packed: whole by its checksum, which is not yet to say that it holds a reply."""
        return self._journal(problem, whole)

    def _journal(self, problem: str, read: Callable[[bytes], Read]) -> tuple[list[Read], Close | None]:
        """What `read` makes of each reply, up to the first that is damaged or missing: there the journal is cut, by name."""
        query = "SELECT k, body FROM replies WHERE problem = ? ORDER BY k"
        try:
            rows = self._front.execute(query, (problem,)).fetchall()
            end = self._front.execute("SELECT body FROM closes WHERE problem = ?", (problem,)).fetchone()
        except sqlite3.Error as error:
            self._note_damage(error)
            raise JournalError(
                f"{self.path} cannot be read: {error}; run again, what can be read of it is kept"
            ) from error
        replies: list[Read] = []
        try:
            for k, body in rows:
                if k != len(replies):
                    raise FrameError(f"reply {len(replies)} is missing")
                replies.append(read(body))
            return replies, None if end is None else unpack_close(end[0], len(replies))
        except FrameError as error:
            self.notes.append(f"problem {problem}: {error}; going on from the {len(replies)} replies before it")
            with self._errors(self._front):
                self._front.execute("DELETE FROM replies WHERE problem = ? AND k >= ?", (problem, len(replies)))
                self._front.execute("DELETE FROM closes WHERE problem = ?", (problem,))
            return replies, None

    def close(self) -> None:
        self._files.close()

    def _unlock(self) -> None:
        """Give the folder free, and let the next run know of damage. A kill leaves the owner's name."""
        with suppress(OSError), self._lock:  # on a full disk the name stays, which is as good
            self._lock.truncate(0)
            self._lock.write(DAMAGED if self._suspect else "")


def _lock(path: Path) -> tuple[IO[str], str]:
    """An exclusive lock on the run's folder, naming its owner to whoever comes second; and what was left in its file."""
    handle = open(path, "a+")  # noqa: SIM115 (held as long as the store lives)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise RunError(f"{path.parent} is in use by another run ({owner}); wait for it or use another --out") from error
    except OSError as error:
        handle.close()
        raise RunError(f"{path} cannot be locked ({error.strerror}): use an --out on a local disk") from error
    handle.seek(0)
    left = handle.read()
    handle.truncate(0)
    handle.write(f"{OWNER} {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    return handle, left


def _cannot_open(path: Path, error: Exception) -> RunError:
    if isinstance(error, sqlite3.OperationalError):
        return RunError(f"cannot write {path}: {error}; nothing was changed, run again once it can be written")
    return JournalError(f"{path}: {error}; it is damaged or not a journal: move it away to start anew")


def packed(row: Row) -> Packed:
    """A row as it is written, and as it travels to whoever writes it."""
    problem, k, what, epoch = row
    if isinstance(what, Reply):
        return problem, k, True, pack_reply(what), epoch
    return problem, k, False, pack_close(what, k), epoch


def checked(row: Any) -> Packed:
    """The row, if its fields are of their types, its frame is whole, and an end is one of so many replies.

    What a reply holds is looked at by whoever loads it: to unpack each here would take a driver ten times as long, and
    would not find more damage than the checksum does. A whole frame that is no reply cuts its journal there, by name.
    Raises FrameError that says which row is wrong.
    """
    problem, k, is_reply, frame, epoch = fields(row, 5, "row")
    if not (type(problem) is str and is_count(k) and type(is_reply) is bool and is_count(epoch)):
        wrong("row", row)
    try:
        whole(frame) if is_reply else unpack_close(frame, k)
    except FrameError as error:
        raise FrameError(f"problem {problem}, row {k}, which is not written: {error}") from None
    return row  # type: ignore[no-any-return]


def pack_reply(reply: Reply) -> bytes:
    """A reply as a frame."""
    return seal([reply.seq, reply.wish, reply.at, expansion_row(reply.expansion)])


def unpack_reply(frame: bytes) -> Reply:
    """Inverse of `pack_reply`; raises FrameError if a bit is wrong."""
    return Reply(*reply_of(unseal(frame)))


def pack_close(close: Close, replies: int) -> bytes:
    """An end as a frame, with the number of replies before it."""
    return seal([close.stopped, close.seconds, close.wasted, close.error, replies])


def unpack_close(frame: bytes, replies: int) -> Close:
    """Inverse of `pack_close`; raises FrameError if a bit is wrong, or other than `replies` replies came before it."""
    value = unseal(frame)
    *close, before = fields(
        (*value, replies)[:5] if type(value) is tuple else value, 5, "close"
    )  # old ones do not say it
    if before != replies:
        raise FrameError(f"it ended after {before} replies, of which {replies} are here")
    return Close(*close_of(tuple(close)))
