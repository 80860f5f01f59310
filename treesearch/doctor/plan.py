"""What a config needs: replicas, GPUs, memory. Knows specs by their fields, so it knows no backend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from treesearch.config import Cluster, Config, specs_in
from treesearch.doctor.base import Check, size
from treesearch.doctor.models import Weights, locate, weights

ENGINE = 0.9  # of a GPU's memory that the engines on it take together; the rest is CUDA's own
ROOM = 0.8  # of its share that an engine may fill with weights; the rest keeps the paths of its jobs
WIDTH = {"float16": 2, "half": 2, "bfloat16": 2, "float32": 4, "float": 4}  # bytes a parameter


@dataclass(frozen=True, slots=True)
class Need:
    """What one section of a config asks for."""

    role: str  # proposer, scorer or outcome
    kind: str  # class of its spec
    model: str
    replicas: int
    gpus: float  # of one replica, below 1 a share of one; 0 runs on CPUs
    parallel: int  # GPUs that its engine spreads over
    share: float  # of the memory of each of its GPUs that one replica takes, 0 to 1
    folder: Path | None  # of its model; None if that is not on this machine
    weights: Weights | None  # as loaded; None where unknown
    section: str  # of its own keys in a config: the role, or `scorer.model` of a judge

    @property
    def key(self) -> str:
        """Of its GPUs in a config; outcome models are served as scorers are."""
        return f"cluster.gpus_per_{'proposer' if self.role == 'proposer' else 'scorer'}"

    def on_cpus(self) -> Need:
        return replace(self, gpus=0, share=0)


def needs(config: Config, cache: Path) -> list[Need]:
    """Of the sections that have a model. `cache`: of the hub."""
    roles = ("proposer", "scorer", "outcome")
    return [need for role in roles for need in _needs(role, getattr(config, role), config.cluster, cache)]


def _needs(role: str, outer: Any, cluster: Cluster, cache: Path) -> list[Need]:
    """Of the models in a replica of a role: those of a list of proposers share its GPU, a judge's is the one that it asks."""
    specs = [spec for spec in specs_in(outer) if not dataclasses.is_dataclass(getattr(spec, "model", None))]
    sections = [f"{role}.model" if spec is getattr(outer, "model", None) else role for spec in specs]
    found = [_need(role, spec, cluster, cache, section) for spec, section in zip(specs, sections, strict=True)]
    shared = sum(need is not None and 0 < need.gpus <= 1 for need in found)
    return [_part(need, spec, shared) for need, spec in zip(found, specs, strict=True) if need is not None]


def _part(need: Need, spec: Any, shared: int) -> Need:
    """What one of the `shared` models on a GPU takes of it."""
    if shared < 2 or not 0 < need.gpus <= 1:
        return need
    own = getattr(spec, "gpu_memory_utilization", None)
    return replace(need, gpus=need.gpus / shared, share=need.share / shared if own is None else own)


def _need(role: str, spec: Any, cluster: Cluster, cache: Path, section: str) -> Need | None:
    kind = type(spec).__name__
    if hasattr(spec, "base_url") or not (hasattr(spec, "model") or kind.startswith("Bundled")):
        return None  # no model, or one behind a server: see `models.endpoint`
    name, proposes = getattr(spec, "model", "bundled"), role == "proposer"
    parallel = getattr(spec, "tensor_parallel_size", 1)
    gpus = max(cluster.gpus_per_proposer if proposes else cluster.gpus_per_scorer, parallel if parallel > 1 else 0)
    if not hasattr(spec, "model") or getattr(spec, "device", None) == "cpu":  # `bundled` itself stays on CPUs
        gpus = 0
    share = getattr(spec, "gpu_memory_utilization", None)
    at = locate(name, role if section == role else "proposer", cache)
    return Need(
        role,
        kind,
        name,
        replicas=cluster.proposers if proposes else cluster.scorers,
        gpus=gpus,
        parallel=parallel,
        share=ENGINE * min(1.0, gpus) if share is None else share,
        folder=at,
        weights=_as_loaded(weights(at), getattr(spec, "dtype", None)) if at else None,
        section=section,
    )


def _as_loaded(found: Weights | None, dtype: str | None) -> Weights | None:
    if found is None or dtype not in WIDTH:
        return found
    return Weights(found.parameters, found.parameters * WIDTH[dtype])


def plan(needs: Sequence[Need], gpus: Sequence[float], memory: float | None, joined: bool, command: str) -> list[Check]:
    """What each role takes, and whether it is there. `gpus`: bytes of each GPU here; `memory`: free bytes here, None:
    unknown; `joined`: the GPUs of a cluster are used instead. `command` runs on Ray."""
    if not gpus and not joined:
        needs = [need.on_cpus() for need in needs]
    checks = [_role(need, min(gpus) if gpus and not joined else None, command) for need in needs]
    if any(need.gpus for need in needs):
        checks.append(_gpus(needs, None if joined else len(gpus), command))
    if any(not need.gpus and need.weights for need in needs):
        checks.append(_memory([need for need in needs if not need.gpus], memory, command))
    return checks


def _role(need: Need, gpu: float | None, command: str) -> Check:
    """Replicas of one role, and whether its weights fit where they go. `gpu`: bytes of the smallest GPU; None: unknown."""
    name, set_gpus = f"plan: {need.role}", f"{command} --set {need.key}="
    where = f"{need.gpus:g} GPU each, {need.share:.2f} of its memory" if need.gpus else "on CPUs"
    found = f"{need.replicas} x {need.kind}({need.model}), {where}{_described(need.weights)}"
    if not need.gpus:
        return Check(name, "ok", found)
    if need.gpus > 1 and need.gpus != int(need.gpus):
        return Check(name, "problem", f"{found}: above 1, Ray gives whole GPUs", f"{set_gpus}{math.ceil(need.gpus)}")
    if need.gpus > max(1, need.parallel):
        told = f"{found}: it uses {need.parallel} of them (tensor_parallel_size)"
        return Check(name, "problem", told, f"{command} --set {need.section}.tensor_parallel_size={need.gpus:g}")
    if need.share > min(1.0, need.gpus):
        told = f"{found}: more than its part, others on the GPU would find none"
        fix = f"{command} --set {need.section}.gpu_memory_utilization={_down(ENGINE * need.gpus):g}"
        return Check(name, "problem", told, fix)
    if gpu is None or need.weights is None:
        return Check(name, "ok", found)
    room, part = need.share * gpu, need.weights.bytes / need.parallel
    told = f"{found}, {size(part)} into {size(room)}"
    if part > ROOM * room:
        return Check(name, "problem" if part > room else "note", told, command + _wider(need, gpu))
    return Check(name, "ok", told)


def _described(found: Weights | None) -> str:
    return "" if found is None else f"; {found.parameters / 1e6:,.1f} M parameters, {size(found.bytes)}"


def _wider(need: Need, gpu: float) -> str:
    """The settings with which the weights have room: a whole GPU, or the power of 2 that it takes."""
    assert need.weights is not None, f"{need.role}: weights are unknown"
    over = 2 ** max(0, math.ceil(math.log2(need.weights.bytes / (ROOM * ENGINE * gpu))))
    return f" --set {need.key}={over}" + (f" --set {need.section}.tensor_parallel_size={over}" if over > 1 else "")


def _gpus(needs: Sequence[Need], there: int | None, command: str) -> Check:
    """All replicas together. `there`: GPUs of this machine; None: those of a cluster, which may grow."""
    wanted = cards([need.gpus for need in needs for _ in range(need.replicas)])
    if there is None:
        return Check("plan: GPUs", "ok", f"{wanted} wanted of the cluster; `ray status` tells what it has")
    found = f"{wanted} wanted with --ray, {there} here"
    if wanted <= there:
        return Check("plan: GPUs", "ok", found)
    return Check("plan: GPUs", "problem", found, _fewer(needs, there, command))


def cards(shares: Sequence[float]) -> int:
    """Whole GPUs that these take; shares below 1 lie together where they fit, first come first."""
    room: list[float] = []
    for share in (share for share in shares if 0 < share < 1):
        k = next((k for k, left in enumerate(room) if left >= share - 1e-9), None)
        if k is None:
            room.append(1 - share)
        else:
            room[k] -= share
    return len(room) + sum(math.ceil(share) for share in shares if share >= 1)


def _fewer(needs: Sequence[Need], there: int, command: str) -> str:
    """Replicas that share GPUs, if none needs more than one; else a cluster."""
    if any(need.gpus > 1 for need in needs):
        return "ray up cluster.yaml"
    together = math.ceil(sum(need.replicas for need in needs if need.gpus) / there)
    keys = dict.fromkeys(need.key for need in needs if need.gpus)
    return command + "".join(f" --set {key}={_down(1 / together):g}" for key in keys)


def _down(share: float) -> float:
    """Two digits, never more than it was."""
    return math.floor(share * 100 + 1e-6) / 100


def _memory(needs: Sequence[Need], free: float | None, command: str) -> Check:
    wanted = sum(need.replicas * need.weights.bytes for need in needs if need.weights is not None)
    found = f"{size(wanted)} of weights, {'unknown' if free is None else size(free)} free"
    if free is not None and wanted > free:
        fix = f"{command} --set cluster.proposers=1 --set cluster.scorers=1"
        return Check("plan: memory", "problem", found, fix)
    return Check("plan: memory", "ok", found)
