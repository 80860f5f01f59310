"""Searches x budgets x seeds, each a run in its own folder, compared in one table. Knows no search and no model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treesearch import config as configs
from treesearch.config import Config, Data
from treesearch.errors import ConfigError
from treesearch.progress import Progress
from treesearch.results import Summary, replace_file
from treesearch.run import Models, run

LONGEST_NAME = 120  # characters of a folder's name that say which search it is
KEYS = ("base", "searches", "budgets", "seeds")


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a sweep."""

    name: str
    budget: int | None  # generated tokens per problem
    seed: int
    config: Config

    @property
    def folder(self) -> str:
        """Sub-folder of the sweep; the same entry finds its folder again."""
        budget = "" if self.budget is None else f"-tokens{self.budget}"
        return f"{_slug(self.name)}{budget}-seed{self.seed}"


def load(path: Path) -> list[Entry]:
    """All runs of a sweep file, each config checked. Raises ConfigError."""
    data = configs.read(path)
    configs.check_keys(data, KEYS, "")
    base = data.get("base") or {}
    if isinstance(base, str):
        base = configs.read(path.parent / base)
    if not isinstance(base, dict):
        raise ConfigError(f"base = {base!r}: must be a mapping as in a config file, or the path of one")
    entries = list(_entries(base, data))
    if len(entries) > 1 and any(entry.config.problems == "-" for entry in entries):
        raise ConfigError(
            "problems = '-': standard input can be read once, and this sweep has several runs; use a file"
        )
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.folder in seen:
            raise ConfigError(f"searches: two runs are named {entry.folder!r}; give each search its own `name`")
        seen[entry.folder] = entry
    return entries


async def sweep(entries: list[Entry], out: Path, progress: Callable[[Entry], Progress]) -> list[Data]:
    """Run them all, models built once and shared; returns the rows of sweep.csv, which grows run by run."""
    models, rows = Models(), list[Data]()
    try:
        for entry in entries:
            summary = await run(entry.config, out / entry.folder, progress(entry), models)
            rows = sorted([*rows, _row(entry, summary)], key=_by_tokens)
            replace_file(out / "sweep.csv", _csv(rows))
    finally:
        await models.close()
    return rows


def _entries(base: Data, data: Data) -> Iterator[Entry]:
    for given in _list(data, "searches"):
        name, layer = _search(given)
        for budget in _list(data, "budgets") if "budgets" in data else [None]:
            for seed in _list(data, "seeds") if "seeds" in data else [None]:
                layers = [base, layer]
                if "budgets" in data:
                    layers.append({"budget": {"tokens": budget}})
                if "seeds" in data:
                    layers.append({"engine": {"seed": seed}})
                try:
                    config = configs.build(layers)
                except ConfigError as error:
                    raise type(error)(f"sweep, search {name!r}: {error}") from None
                yield Entry(name, config.budget.tokens, config.engine.seed, config)


def _list(data: Data, key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{key} = {value!r}: must be a list of at least one, such as {key}: {_EXAMPLES[key]}")
    return value


_EXAMPLES = {"searches": "[beam, {type: sample, n: 16}]", "budgets": "[null, 500]", "seeds": "[0, 1]"}


def _search(given: Any) -> tuple[str, Data]:
    """Name and config layer of an entry: a type, a search with its keys, or sections to lay over the base."""
    if isinstance(given, str):
        return given, {"search": {"type": given}}
    if not isinstance(given, dict):
        raise ConfigError(
            f"searches: {given!r} must be a type such as beam, or a mapping such as {{type: sample, n: 16}}"
        )
    keys = {key: value for key, value in given.items() if key != "name"}
    layer = {"search": keys} if "type" in keys else keys
    search = layer.get("search", {})
    name = given.get("name") or (_spelled(search) if isinstance(search, dict) else search) or "base"
    return str(name), layer


def _spelled(search: Data) -> str:
    """`sample n=16`"""
    return " ".join([str(search.get("type", "")), *(f"{k}={v}" for k, v in search.items() if k != "type")]).strip()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", name).strip("-.")[:LONGEST_NAME] or "run"


def _row(entry: Entry, summary: Summary) -> Data:
    problems = max(summary["problems"], 1)
    low, high = summary["accuracy_ci95"]

    def mean(key: str) -> float | None:
        return None if summary[key] is None else summary[key] / problems

    return {
        "name": entry.name,
        "search": configs.type_name("search", entry.config.search),
        "budget": entry.budget,
        "seed": entry.seed,
        "problems": summary["problems"],
        "correct": summary["correct"],
        "accuracy": summary["accuracy"],
        "ci_low": low,
        "ci_high": high,
        "oracle_accuracy": summary["oracle_accuracy"],
        "tokens_generated": mean("tokens_generated"),
        "tokens_scored": mean("tokens_scored"),
        "tokens_wasted": mean("tokens_wasted"),
        "seconds": summary["seconds"],
        "labels": " ".join(summary["labels"]),
        "folder": entry.folder,
    }


def _by_tokens(row: Data) -> tuple[bool, float]:
    """Unknown counts come last."""
    return row["tokens_generated"] is None, row["tokens_generated"] or 0.0


def _csv(rows: list[Data]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
