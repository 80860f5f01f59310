"""What do search and learning contribute? All searches on the 100 test puzzles, with the bundled and a random proposer.

    python -m benchmarks.game24 --out runs/table [--limit 100]

Runs every entry of game24.yaml with the bundled models, and some of them with `legal` as proposer, which draws legal
moves uniformly, and the bundled PRM. Prints the README's table (Markdown) and writes sweep.csv. Distinct states are the
different multisets of numbers left after one and after two steps that a search wrote down (legal or not), counted from
its journal.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from treesearch import sweep
from treesearch.progress import Progress
from treesearch.results import read_rows
from treesearch.store import Store

LEFT = re.compile(r"\(left: ([\d ]+)\)")
PROPOSERS = ("bundled", "legal")
WITHOUT_LEARNING = ("best of 64", "beam 2x6", "beam 8x8", "dvts 8x8", "rebase 64", "particles 64", "mcts 64")


def states(folder: Path, identity: str) -> tuple[float, float]:
    """Mean number of distinct states per problem after one step and after two."""
    seen: dict[tuple[str, int], set[str]] = defaultdict(set)
    store = Store.open(folder / "run.db", identity)
    problems = [row["id"] for row in read_rows(folder)]
    for problem in problems:
        for reply in store.load(problem)[0]:
            for chain in reply.expansion.chains:
                for step in chain:
                    if left := LEFT.search(step.text):
                        seen[problem, 4 - len(left[1].split())].add(left[1])
    store.close()
    return tuple(sum(len(seen[p, depth]) for p in problems) / max(len(problems), 1) for depth in (1, 2))  # type: ignore[return-value]


def table(rows: list[dict[str, Any]], visited: dict[str, tuple[float, float]]) -> str:
    """The rows as Markdown; tokens and states are means per puzzle."""
    lines = [
        "| search | accuracy (95 %) | oracle | generated | scored | states 1 / 2 | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        one, two = visited[row["folder"]]
        accuracy = f"{row['accuracy']:.0%} ({row['ci_low'] * 100:.0f}-{row['ci_high'] * 100:.0f})"
        scored = f"{row['tokens_scored']:,.0f}" if row["tokens_scored"] else "-"
        cells = [row["name"], accuracy, f"{row['oracle_accuracy']:.0%}", f"{row['tokens_generated']:,.0f}", scored]
        lines.append("| " + " | ".join([*cells, f"{one:.1f} / {two:.1f}", f"{row['seconds']:.1f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--only", choices=PROPOSERS, default=None)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for proposer in PROPOSERS if args.only is None else (args.only,):
        data = yaml.safe_load((Path(__file__).parent / "game24.yaml").read_text("utf-8"))
        data["base"] |= {"proposer": {"type": proposer}, "limit": args.limit}
        if proposer == "legal":
            data["searches"] = [entry for entry in data["searches"] if entry["name"] in WITHOUT_LEARNING]
        file = args.out / f"{proposer}.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        entries = sweep.load(file)
        rows = asyncio.run(sweep.sweep(entries, args.out / proposer, lambda entry: Progress()))
        identities = {entry.folder: sweep.configs.digest(entry.config) for entry in entries}
        print(f"\nproposer {proposer}, bundled PRM\n")
        print(table(rows, {f: states(args.out / proposer / f, i) for f, i in identities.items()}), flush=True)


if __name__ == "__main__":
    main()
