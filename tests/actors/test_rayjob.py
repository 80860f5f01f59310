"""actors/rayjob.yaml: what KubeRay needs is there, and its parts agree with each other and with the tested versions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from treesearch.config import Cluster, load

ROOT = Path(__file__).resolve().parents[2]
Data = dict[str, Any]


@pytest.fixture
def documents() -> dict[str, Data]:
    return {d["kind"]: d for d in yaml.safe_load_all((ROOT / "actors" / "rayjob.yaml").read_text())}


@pytest.fixture
def job(documents: dict[str, Data]) -> Data:
    return documents["RayJob"]["spec"]


def containers(job: Data) -> dict[str, Data]:
    """Container by group, the head's under "head"."""
    cluster = job["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]} | {g["groupName"]: g for g in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"]["containers"][0] for name, group in groups.items()}


def test_it_runs_treesearch_on_ray_and_gives_the_gpus_back(documents: dict[str, Data], job: Data):
    assert documents["RayJob"]["apiVersion"] == "ray.io/v1"
    assert job["entrypoint"] == "treesearch run /config/config.yaml --ray --out /results/run"
    assert job["shutdownAfterJobFinishes"] is True and job["backoffLimit"] >= 1
    assert job["rayClusterSpec"]["enableInTreeAutoscaling"] is True


def test_authentication_is_on_and_the_ray_version_knows_it(job: Data):
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)


def test_the_ray_version_is_the_tested_one(job: Data):
    tested = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None and job["rayClusterSpec"]["rayVersion"] == tested.group(1)
    assert f"rayproject/ray:{tested.group(1)}-" in (ROOT / "actors" / "rayjob.yaml").read_text()
    assert len({c["image"] for c in containers(job).values()}) == 1


def test_the_head_has_no_gpu_and_the_workers_have(job: Data):
    found = containers(job)
    assert set(found) == {"head", "proposer", "scorer"}
    assert "nvidia.com/gpu" not in found["head"]["resources"]["limits"]
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    for role in ("proposer", "scorer"):
        assert found[role]["resources"]["limits"] == found[role]["resources"]["requests"]
        assert int(found[role]["resources"]["limits"]["nvidia.com/gpu"]) >= 1


def test_a_worker_type_has_the_custom_resource_of_its_name_and_scales(job: Data):
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        resources = json.loads(
            json.loads(group["rayStartParams"]["resources"])
        )  # a shell will unquote the outer string
        gpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        assert resources == {group["groupName"]: int(gpus)}
        assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]


def test_custom_resources_have_the_names_that_ray_up_uses(job: Data):
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert {group["groupName"] for group in job["rayClusterSpec"]["workerGroupSpecs"]} == types.keys() - {"head"}


def test_what_is_mounted_exists_and_results_outlive_the_cluster(documents: dict[str, Data], job: Data):
    cluster = job["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    volumes = {volume["name"]: volume for volume in cluster["headGroupSpec"]["template"]["spec"]["volumes"]}
    claim, settings = documents["PersistentVolumeClaim"], documents["ConfigMap"]
    assert volumes["results"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == settings["metadata"]["name"]
    paths = {mount["name"]: mount["mountPath"] for mount in containers(job)["head"]["volumeMounts"]}
    _, config, out = re.split(r"treesearch run | --ray --out ", job["entrypoint"])
    assert Path(config).parent == Path(paths["config"]) and Path(config).name in settings["data"]
    assert Path(out).is_relative_to(paths["results"])


def test_its_config_is_valid_and_its_gpus_can_be_had(documents: dict[str, Data], job: Data, tmp_path: Path):
    from treesearch.backends import PROPOSERS

    if "vllm" not in PROPOSERS or not hasattr(Cluster(), "proposer_resources"):
        pytest.skip("needs the vllm backends and the placement of replicas")
    data = documents["ConfigMap"]["data"]
    (tmp_path / "config.yaml").write_text(data["config.yaml"])
    config = load(tmp_path / "config.yaml")
    assert Path(config.problems).name in data
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        role = group["groupName"]
        wanted = getattr(config.cluster, f"{role}s") * getattr(config.cluster, f"gpus_per_{role}")
        assert wanted <= group["maxReplicas"]
        assert getattr(config.cluster, f"{role}_resources") == {role: 1}


def test_its_problems_can_be_read(documents: dict[str, Data], tmp_path: Path):
    from treesearch.problems import read
    from treesearch.tasks import load_task

    (tmp_path / "problems.jsonl").write_text(documents["ConfigMap"]["data"]["problems.jsonl"])
    assert [p.reference for p in read(str(tmp_path / "problems.jsonl"), load_task("math"))] == ["100", "24"]
