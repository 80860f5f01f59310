"""What a run tells Prometheus through Ray. Tags are role, replica and kind, never a problem: the series stay few.

Ray writes `ray_` before each name and adds the node and the process itself. `dashboard.json` beside this file shows all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAGS = ("role", "replica")
EVERY = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Metric:
    """One name in Prometheus. `keys`: what of a sample it shows, each with the value of its tag `kind` ("": no such tag)."""

    name: str
    text: str
    keys: Mapping[str, str]

    @property
    def counts(self) -> bool:
        """Whether it only grows; a gauge otherwise."""
        return self.name.endswith("_total")

    @property
    def tags(self) -> tuple[str, ...]:
        return (*TAGS, "kind") if any(self.keys.values()) else TAGS


def _metric(key: str, text: str, suffix: str = "") -> Metric:
    return Metric(f"treesearch_{key}{suffix}", text, {key: ""})


TOKENS = {"tokens_generated": "generated", "tokens_scored": "scored", "tokens_wasted": "wasted"}
METRICS = (
    _metric("jobs_running", "Jobs that a replica works on"),
    _metric("jobs_waiting", "Jobs that wait for a slot"),
    _metric("occupancy", "Jobs running / credits, 0 to 1"),
    _metric("trees_live", "Searches that have started and not ended"),
    Metric("treesearch_tokens_total", "Tokens sampled into trees, computed by scorers, sampled in vain", TOKENS),
    _metric("prefix_queries", "Tokens looked up in the prefix cache", "_total"),
    _metric("prefix_hits", "Tokens found in the prefix cache", "_total"),
    _metric("scores", "Steps scored", "_total"),
    _metric("retries", "Jobs sent again after a failure", "_total"),
    _metric("trees_done", "Searches that have ended", "_total"),
    _metric("calls", "Messages to replicas; each may carry many jobs", "_total"),
    _metric("expansions", "Replies delivered to searches", "_total"),
)
KEYS = {key: metric for metric in METRICS for key in metric.keys}


class Metrics:
    """The metrics of one process. Needs a process that Ray knows: a driver after `ray.init`, or an actor."""

    def __init__(self, role: str, replica: str = "") -> None:
        """`role`: proposer, scorer, outcome, manager or driver; `replica`: which one of that role."""
        from ray.util.metrics import Counter, Gauge

        self._tags = {"role": role, "replica": replica}
        self._series: dict[str, Any] = {
            m.name: (Counter if m.counts else Gauge)(m.name, description=m.text, tag_keys=m.tags) for m in METRICS
        }
        self._totals: dict[str, float] = {}
        self._due = 0.0

    def due(self) -> bool:
        """Whether it is time to record again: once a second, however often it is asked."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + EVERY
        return True

    def record(self, sample: Mapping[str, float | None]) -> None:
        """Set what is in the sample, by the keys of KEYS: gauges as they are now, counters as totals so far.

        A total that is lower than before comes from a replica that started anew, and counts from 0. None is unknown and
        left out. Raises KeyError for a key that is no metric.
        """
        for key, value in sample.items():
            metric = KEYS[key]
            if value is None:
                continue
            tags = self._tags | ({"kind": metric.keys[key]} if metric.keys[key] else {})
            if not metric.counts:
                self._series[metric.name].set(value, tags=tags)
                continue
            before = self._totals.get(key, 0)
            grown = value - before if value >= before else value
            self._totals[key] = value
            if grown > 0:  # Ray refuses to add nothing
                self._series[metric.name].inc(grown, tags=tags)
