"""cluster.yaml is what `ray up` accepts: Ray's own schema and its own validator, without a cloud or a network."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
Data = dict[str, Any]


@pytest.fixture
def cluster() -> Data:
    return yaml.safe_load(TEXT)


def on_premises() -> Data:
    """The file as its comments say to change it for machines that are there already."""
    lines = [line.removeprefix("# local: ") for line in TEXT.splitlines() if line.startswith("# local: ")]
    without = ("available_node_types", "head_node_type")
    return {k: v for k, v in yaml.safe_load(TEXT).items() if k not in without} | yaml.safe_load("\n".join(lines))


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    ray = importlib.util.find_spec("ray")  # the file is read without importing Ray
    if ray is None or not ray.submodule_search_locations:
        pytest.skip("Ray is not installed")
    schema = Path(ray.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    if not schema.exists():
        pytest.skip("this Ray has no autoscaler/ray-schema.json")
    return jsonschema.Draft7Validator(json.loads(schema.read_text()))


@pytest.fixture(scope="module")
def prepared() -> Callable[[Data], Data]:
    """What `ray up` does with a config before it asks a cloud. Raises for a bad one."""
    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError as error:
        pytest.skip(f"Ray moved its private prepare_config and validate_config: {error}")

    def prepare(config: Data) -> Data:
        done: Data = prepare_config(copy.deepcopy(config))
        validate_config(done)
        return done

    return prepare


def test_the_schema_of_ray_accepts_it(cluster: Data, validator: Any):
    assert [error.message for error in validator.iter_errors(cluster)] == []
    assert [error.message for error in validator.iter_errors(on_premises())] == []


def test_ray_prepares_and_validates_it(cluster: Data, prepared: Callable[[Data], Data]):
    types = prepared(cluster)["available_node_types"]
    assert {name: (kind["min_workers"], kind["max_workers"]) for name, kind in types.items()} == {
        "head": (0, 0),
        "proposer": (0, 4),
        "scorer": (0, 4),
    }


def test_the_comments_for_machines_on_premises_give_a_valid_file_too(prepared: Callable[[Data], Data]):
    assert prepared(on_premises())["provider"]["type"] == "local"


def half_a_gpu(config: Data) -> None:
    config["available_node_types"]["scorer"]["resources"]["GPU"] = 0.5


def a_misspelt_key(config: Data) -> None:
    config["idle_timeout"] = config.pop("idle_timeout_minutes")


def a_type_without_resources(config: Data) -> None:
    del config["available_node_types"]["proposer"]["resources"]


def a_head_of_no_type(config: Data) -> None:
    config["head_node_type"] = "heads"


def more_workers_than_allowed(config: Data) -> None:
    config["available_node_types"]["proposer"]["min_workers"] = config["max_workers"] + 1


@pytest.mark.parametrize("spoil", [half_a_gpu, a_misspelt_key, a_type_without_resources])
def test_the_schema_refuses_a_bad_file(spoil: Callable[[Data], None], cluster: Data, validator: Any):
    spoil(cluster)
    assert list(validator.iter_errors(cluster))


@pytest.mark.parametrize(
    "spoil", [half_a_gpu, a_misspelt_key, a_type_without_resources, a_head_of_no_type, more_workers_than_allowed]
)
def test_the_validator_refuses_a_bad_file(
    spoil: Callable[[Data], None], cluster: Data, prepared: Callable[[Data], Data]
):
    jsonschema = pytest.importorskip("jsonschema")
    spoil(cluster)
    with pytest.raises((ValueError, jsonschema.ValidationError)):
        prepared(cluster)


def test_the_head_has_no_gpu_and_the_workers_have(cluster: Data):
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head" and types["head"]["resources"]["GPU"] == 0
    for role in ("proposer", "scorer"):
        assert (
            types[role]["resources"]["GPU"] >= 1 and types[role]["resources"][role] == types[role]["resources"]["GPU"]
        )
        assert types[role]["min_workers"] < types[role]["max_workers"] <= cluster["max_workers"]


def test_every_start_of_ray_asks_for_the_token_and_the_dashboard_stays_on_the_head(cluster: Data):
    starts = [
        c for key in ("head_start_ray_commands", "worker_start_ray_commands") for c in cluster[key] if "start" in c
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token ray start" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "0.0.0.0" not in TEXT
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])  # and so does whoever logs in
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_it_pins_the_tested_ray():
    tested = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None and f"ray[default]=={tested.group(1)}" in TEXT


def test_what_a_user_must_set_is_marked():
    """A value that can only be an example must say so on its line."""
    example = re.compile(r"(region|availability_zone|ImageId|head_ip|worker_ips|max_workers): \S|fs-0\.")
    lines = [line for line in TEXT.splitlines() if example.search(line)]
    assert len(lines) > 8 and [line for line in lines if "# CHANGE" not in line] == []
