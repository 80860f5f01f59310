"""Metrics: what a sample sets, how totals grow, and that the dashboard shows exactly what is defined."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.metrics import KEYS, METRICS, TAGS, Metrics

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "actors" / "dashboard.json"


class FakeMetric:
    """As strict as ray.util.metrics: all tags, no others, and a counter never adds 0 or less."""

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] = ()) -> None:
        self.name, self.text, self.tag_keys = name, description, tag_keys
        self.values: dict[tuple[str, ...], float] = {}

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert set(tags) == set(self.tag_keys), f"{self.name}: {tags}"
        return tuple(tags[key] for key in self.tag_keys)


class FakeGauge(FakeMetric):
    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value


class FakeCounter(FakeMetric):
    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self.values[self._key(tags)] = self.values.get(self._key(tags), 0) + value


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.setitem(sys.modules, "ray.util.metrics", SimpleNamespace(Counter=FakeCounter, Gauge=FakeGauge))
    return Metrics("proposer", "3")


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return metrics._series[name].values


def test_a_gauge_shows_the_last_value(metrics: Metrics):
    metrics.record({"jobs_running": 7, "occupancy": 0.5})
    metrics.record({"jobs_running": 2})
    assert values(metrics, "treesearch_jobs_running") == {("proposer", "3"): 2}
    assert values(metrics, "treesearch_occupancy") == {("proposer", "3"): 0.5}


def test_a_counter_grows_by_the_difference_of_totals(metrics: Metrics):
    for total in (5, 5, 12):
        metrics.record({"retries": total})
    assert values(metrics, "treesearch_retries_total") == {("proposer", "3"): 12}


def test_a_replica_that_started_anew_counts_on_top(metrics: Metrics):
    for total in (100, 0, 4):
        metrics.record({"calls": total})
    assert values(metrics, "treesearch_calls_total") == {("proposer", "3"): 104}


def test_the_kinds_of_tokens_are_one_metric_with_a_tag(metrics: Metrics):
    metrics.record({"tokens_generated": 10, "tokens_scored": 20, "tokens_wasted": 0})
    found = values(metrics, "treesearch_tokens_total")
    assert found == {("proposer", "3", "generated"): 10, ("proposer", "3", "scored"): 20}


def test_an_unknown_value_is_left_out_and_an_unknown_key_is_an_error(metrics: Metrics):
    metrics.record({"tokens_scored": None, "jobs_waiting": None})
    assert values(metrics, "treesearch_tokens_total") == {} and values(metrics, "treesearch_jobs_waiting") == {}
    with pytest.raises(KeyError):
        metrics.record({"job_running": 1})


def test_ray_is_imported_only_where_metrics_are_made():
    source = (DASHBOARD.parent / "metrics.py").read_text()
    assert re.findall(r"^( *)from ray", source, re.MULTILINE) == [" " * 8]


def test_tags_are_few_and_never_a_problem():
    assert {tag for metric in METRICS for tag in metric.tags} == {*TAGS, "kind"}
    assert len(KEYS) == 14 and all(metric.text for metric in METRICS)


# The dashboard


def expressions(node: Any) -> list[str]:
    """All strings of the dashboard."""
    if isinstance(node, dict):
        return [text for value in node.values() for text in expressions(value)]
    if isinstance(node, list):
        return [text for value in node for text in expressions(value)]
    return [node] if isinstance(node, str) else []


def test_the_dashboard_shows_what_is_defined_and_nothing_else():
    shown = set(re.findall(r"\bray_(treesearch_[a-z_]+)", " ".join(expressions(json.loads(DASHBOARD.read_text())))))
    assert shown == {metric.name for metric in METRICS}


def test_counters_are_shown_as_rates_and_gauges_are_not():
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] == "timeseries"]
    for text in (target["expr"] for panel in panels for target in panel["targets"]):
        for name, rated in re.findall(r"ray_(treesearch_[a-z_]+)\{[^}]*\}(\[\$__rate_interval\])?", text):
            assert bool(rated) == name.endswith("_total"), text


def test_panels_have_ids_of_their_own_do_not_overlap_and_ask_one_prometheus():
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "session"]


RECORD = """
import sys, ray
from actors.metrics import KEYS, Metrics
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _metrics_export_port=int(sys.argv[1]))
Metrics("driver", "0").record(dict.fromkeys(KEYS, 1.0))
sys.stdin.read()  # until the test has seen it
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.ray
def test_ray_exports_the_names_and_tags_of_the_dashboard(tmp_path: Path):
    """Ray has changed the suffixes of counters before; the dashboard would be empty and nobody would know.

    In a process of its own: Ray keeps its token, and the switch to ask for it, as long as a process lives.
    """
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", RECORD, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}) as ray:
        wanted = {f"ray_{metric.name}" for metric in METRICS}
        found, text, until = set(), "", time.monotonic() + 90
        while not wanted <= found and time.monotonic() < until and ray.poll() is None:
            time.sleep(1)
            text = scrape(port)
            found = set(re.findall(r"^(ray_treesearch_\w+)\{", text, re.MULTILINE))
    assert ray.returncode == 0
    assert found == wanted
    assert re.search(r'^ray_treesearch_tokens_total\{.*kind="wasted".*role="driver".*\} 1\.0$', text, re.MULTILINE)
    assert 'SessionName="session_' in text  # the dashboard chooses by it


def scrape(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            return reply.read().decode()
    except OSError:  # it does not listen yet
        return ""
