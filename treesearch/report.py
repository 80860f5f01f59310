"""Tables about finished runs: a summary, summaries side by side. Knows no search and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treesearch.terminal import shown

if TYPE_CHECKING:
    from rich.table import Table


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """A number for people; unknown is "?", never 0."""
    return "?" if value is None else f"{value:,.0f}"


def summary_table(summary: Mapping[str, Any], title: str) -> Table:
    """The final table of one run."""
    from rich.table import Table
    from rich.text import Text

    low, high = summary["accuracy_ci95"]
    labels = f" [{', '.join(summary['labels'])}]" if summary["labels"] else ""
    table = Table(title=Text(shown(title + labels), "table.title"), show_header=False)
    rows = {
        "problems": count(summary["problems"]),
        "correct": count(summary["correct"]),
        "accuracy": f"{percent(summary['accuracy'])} (95 %: {percent(low)} to {percent(high)})",
        "oracle accuracy": percent(summary["oracle_accuracy"]),
        "tokens generated": count(summary["tokens_generated"]),
        "tokens scored": count(summary["tokens_scored"]),
        "tokens wasted": count(summary["tokens_wasted"]),
        "expansions": count(summary["expansions"]),
        "seconds": f"{summary['seconds']:.1f}",
        "tokens per second": count(summary["tokens_per_second"]),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Runs side by side, as written to sweep.csv; tokens are means per problem."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="accuracy at equal generated tokens (per problem)")
    for name in ("search", "budget", "seed", "accuracy", "95 %", "oracle", "generated", "scored", "seconds", "labels"):
        table.add_column(name, justify="left" if name in ("search", "labels") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(shown(row["name"])),
            "-" if row["budget"] is None else count(row["budget"]),
            str(row["seed"]),
            percent(row["accuracy"]),
            f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}",
            percent(row["oracle_accuracy"]),
            count(row["tokens_generated"]),
            count(row["tokens_scored"]),
            f"{row['seconds']:.1f}",
            Text(shown(row["labels"])),
        )
    return table
