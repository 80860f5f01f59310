"""What kind of file system a path lies on. Pure: reads the text of Linux's /proc/self/mounts."""

from __future__ import annotations

from pathlib import Path

NETWORK = ("nfs", "lustre", "fuse.", "cifs", "smb", "ceph", "gpfs", "beegfs", "9p", "afs")  # starts of kinds


def read_mounts() -> str:
    """The text; empty on other systems."""
    try:
        return Path("/proc/self/mounts").read_text()
    except OSError:
        return ""


def file_system(path: Path, mounts: str) -> str:
    """Kind of the file system that holds a path; a later mount hides an earlier."""
    longest, kind = -1, "unknown"
    for line in mounts.splitlines():
        at, of = line.split(" ")[1:3]
        if path.resolve().is_relative_to(at.replace(r"\040", " ")) and len(at) >= longest:
            longest, kind = len(at), of
    return kind


def on_network(kind: str) -> bool:
    """Whether other machines may hold the file too, so that SQLite's shared memory cannot be relied on."""
    return kind.startswith(NETWORK)
