"""The bundled models: a small proposer and a small PRM as package data, and `train.py`, the recipe that makes them."""

from __future__ import annotations

from pathlib import Path

from treesearch.errors import ConfigError


def folder(name: str) -> Path:
    """Folder of the bundled `proposer` or `prm`. Raises ConfigError if its weights are missing."""
    path = Path(__file__).parent / name
    if not (path / "model.safetensors").exists():
        raise ConfigError(
            f"the bundled {name} is missing from {path}; make it with `python -m treesearch.models.train`"
        )
    return path
