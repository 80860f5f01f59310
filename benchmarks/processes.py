"""The processes of a run as Linux's /proc shows them: who they are, and what memory, descriptors and threads they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TITLES = {"ray::Proposer": "proposer", "ray::Scorer": "scorer", "ray::TreeManager": "manager"}
LOADING = ("__init__", ".ready")
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process holds: MB of memory (RSS), open descriptors, threads; and processor seconds since it began."""

    megabytes: float
    descriptors: int
    threads: int
    processor: float


def family(pid: int) -> list[int]:
    """All living descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = _stat(int(entry))
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(entry))
    return list(_below(pid, children))


def _below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    for child in children.get(pid, []):
        yield child
        yield from _below(child, children)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def role(pid: int) -> str | None:
    """Which part of a run an actor's process is; None for other processes, and for those that load or are gone."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        if title.endswith(LOADING):
            return None
        return next((name for start, name in TITLES.items() if title.startswith(start)), None)
    return None


def usage(pid: int) -> Usage | None:
    """None for a process that is gone."""
    with suppress(OSError):
        fields, descriptors = _stat(pid), len(os.listdir(f"/proc/{pid}/fd"))
        if fields[0] != "Z":
            processor = (int(fields[11]) + int(fields[12])) / TICK
            return Usage(int(fields[21]) * PAGE / 1e6, descriptors, int(fields[17]), processor)
    return None
