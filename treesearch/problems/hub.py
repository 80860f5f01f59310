"""Rows of a data set of the Hugging Face Hub, streamed by the `datasets` library. Knows no problem."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from treesearch.errors import ConfigError, ProblemError
from treesearch.problems.rows import Row

PREFIX = "hf:"


def of_hub(source: str) -> Iterator[Row]:
    """Rows of `hf:ORG/NAME[:config][:split]`, numbered from 1. Split `test` by default, or the only one.

    Raises ConfigError if there is no such data set, config or split (and lists those there are) or `datasets` is missing;
    ProblemError if a row cannot be read.
    """
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            f"problems = {source!r}: the Hub is read with `datasets`; pip install 'treesearch[data]', or give a file"
        )
    import datasets

    name, *parts = source.removeprefix(PREFIX).split(":")
    if not name or not all(parts) or len(parts) > 2:
        raise ConfigError(f"problems = {source!r}: write hf:ORG/NAME, hf:ORG/NAME:SPLIT or hf:ORG/NAME:CONFIG:SPLIT")
    try:
        config, split = _choose(source, datasets, name, parts)
        rows = iter(datasets.load_dataset(name, config, split=split, streaming=True))
    except ConfigError:
        raise
    except Exception as error:  # of the network, of the Hub, of a file there: each library has its own
        raise ConfigError(f"problems = {source!r}: cannot be opened: {type(error).__name__}: {error}") from error
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise ProblemError(f"{source}:{number}: cannot be read: {type(error).__name__}: {error}") from error
        yield number, row


def _choose(source: str, datasets: Any, name: str, parts: Sequence[str]) -> tuple[str, str]:
    """(config, split). A single part is a config if there is one of this name, else a split."""
    configs = datasets.get_dataset_config_names(name)
    asked, split = (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0] if parts else None)
    if len(parts) == 1 and split in configs:
        asked, split = split, None
    config: str | None = asked or (
        configs[0] if len(configs) == 1 else next((c for c in configs if c == "default"), None)
    )
    if config is None or config not in configs:
        has = f"has no config {config!r}; there are" if config else "has several configs, name one of"
        raise ConfigError(f"problems = {source!r}: {has} {', '.join(configs)} (hf:{name}:CONFIG:SPLIT)")
    splits = datasets.get_dataset_split_names(name, config)
    chosen: str | None = split or ("test" if "test" in splits else splits[0] if len(splits) == 1 else None)
    if chosen is None or chosen not in splits:
        has = f"has no split {chosen!r}; there are" if chosen else "has no split test; name one of"
        raise ConfigError(f"problems = {source!r}: {has} {', '.join(splits)} (hf:{name}:{config}:SPLIT)")
    return config, chosen
