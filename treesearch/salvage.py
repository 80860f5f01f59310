"""A damaged run.db: what is wrong with it, and what can still be read of it. Knows no search; synchronous."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from treesearch.errors import FrameError, JournalError
from treesearch.wire import unseal

TABLES = {"meta": "key", "replies": "problem, k", "closes": "problem", "leases": "problem"}  # and their keys

UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)  # its messages quote what they found, which may be no text


def connect(path: Path, **given: Any) -> sqlite3.Connection:
    """A database that may come from elsewhere: nothing in its schema may call what reaches beyond it."""
    db = sqlite3.connect(path, **given)
    db.execute("PRAGMA trusted_schema=OFF")
    return db


def damage(path: Path) -> str | None:
    """What SQLite finds wrong with the structure of a database; None if nothing. Rows are checked when they are read."""
    try:
        with closing(connect(path)) as db:
            found: str = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:  # it cannot be read or written here: said by whoever opens it
        return None
    except UNREADABLE as error:
        return str(error)
    return None if found == "ok" else " ".join(found.removeprefix("*** in database main ***").split())


def salvage(path: Path, found: str, schema: str) -> str:
    """Put in place of a damaged journal one with all rows that are whole; keep the damaged one. Returns what to say of it.

    Raises JournalError if not even its head can be read, OSError or sqlite3.Error if there is no room for a second file.
    """
    kept = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.damaged-{n}")).exists())
    for suffix in ("", "-wal"):
        if (part := path.with_name(path.name + suffix)).exists():
            shutil.copyfile(part, kept.with_name(kept.name + suffix))
    with closing(connect(kept, isolation_level=None)) as db:
        db.text_factory = lambda raw: raw.decode(errors="replace")
        rows = {table: _readable(db, table, key) for table, key in TABLES.items()}
    replies = [(problem, k, body) for problem, k, body in rows["replies"] if _whole(body)]
    closes = [(problem, body) for problem, body in rows["closes"] if _whole(body)]
    if not {"version", "identity"} <= {key for key, _ in rows["meta"]}:
        for suffix in ("", "-wal", "-shm"):
            kept.with_name(kept.name + suffix).unlink(missing_ok=True)
        raise JournalError(
            f"{path}: {found}; it is damaged or not a journal, and nothing can be read of it: move it away to start anew; "
            "problems that have their line in results.jsonl are not searched again"
        )
    new = path.with_name(path.name + ".part")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new)) as db, db:
        db.executescript(schema)
        for table, found_rows in {**rows, "replies": replies, "closes": closes}.items():
            marks = ", ".join("?" * len(TABLES[table].split(", "))) + ", ?"
            db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", found_rows)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)
    return (
        f"{path} was damaged ({found}): {len(replies)} replies of {len({row[0] for row in replies})} problems could be read "
        f"and are used, what is missing is searched again; the damaged file is kept as {kept.name}"
    )


def _readable(db: sqlite3.Connection, table: str, key: str) -> list[tuple[Any, ...]]:
    """Rows of a table up to the first page that cannot be read, from its beginning and from its end."""
    last = ", ".join(f"{column} DESC" for column in key.split(", "))
    rows = dict.fromkeys(_until_error(db, f"SELECT * FROM {table} ORDER BY {key}"))
    return list(rows | dict.fromkeys(_until_error(db, f"SELECT * FROM {table} ORDER BY {last}")))


def _until_error(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    try:
        yield from db.execute(query)
    except UNREADABLE:
        return


def _whole(body: Any) -> bool:
    try:
        unseal(body)
    except FrameError:
        return False
    return True
