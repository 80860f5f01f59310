"""Models in use, so that two backends that want the same weights in one process load them once; and what is loaded at
all: weights as safetensors, code never. Knows no library."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from treesearch.errors import ConfigError

BLOCK, BLOCKS = 4096, 256  # bytes of a file in its fingerprint: blocks of so many, and so many of them
NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # said, not left out: transformers would ask whoever sits there
SAFE_ONLY = (
    "weights are loaded as safetensors only, for .bin and .pt files are pickles; download the model and run "
    "`python -m treesearch.models.convert FOLDER`"
)

_in_use: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], Any]) -> Any:
    """The model that was loaded with this key and is in use, else a new one."""
    model = _in_use.get(key)
    if model is None:
        model = _in_use[key] = load()
    return model


def check(name: str) -> None:
    """Raises ConfigError for a folder with weights in no other form than pickles."""
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    found = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
    if found:
        raise ConfigError(f"model {name!r} has {found[0]} and no *.safetensors: {SAFE_ONLY}")


def stamp(name: str) -> int | None:
    """When a model's folder was last written, in nanoseconds: weights written anew are others. None for a hub name."""
    folder = Path(name)
    return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else None


def fingerprint(folder: Path) -> str:
    """A digest of a model's files: names, sizes, small files whole, of the others blocks spread over all their length.

    Files written anew with the same bytes are the same; the last writing (`stamp`) does not count.
    """
    found = blake2b(digest_size=8)
    for file in sorted(
        f for f in folder.iterdir() if f.suffix in (".safetensors", ".json", ".bin", ".model", ".jinja")
    ):
        size = file.stat().st_size
        found.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as bytes_:
            for at in range(0, size, max(BLOCK, size // BLOCKS)):
                bytes_.seek(at)
                found.update(bytes_.read(BLOCK))
    return found.hexdigest()
