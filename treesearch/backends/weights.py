"""Models in use, so that two backends that want the same weights in one process load them once. Knows no library."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

_in_use: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], Any]) -> Any:
    """The model that was loaded with this key and is in use, else a new one."""
    model = _in_use.get(key)
    if model is None:
        model = _in_use[key] = load()
    return model


def stamp(name: str) -> int | None:
    """When a model's folder was last written, in nanoseconds: weights written anew are others. None for a hub name."""
    folder = Path(name)
    return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else None
