"""This machine: versions, devices, memory, storage. Facts are arguments; the functions that look them up stand beside."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from treesearch.doctor.base import GB, Check, size
from treesearch.mounts import file_system, on_network

OLDEST_VLLM, NEWEST_VLLM, TESTED_VLLM = "0.26", "0.33", "0.32"  # minor versions the backend is written for; tested on
SECURE_RAY = "2.54"  # dashboards before it have routes without authentication
FREE = 0.9  # of a GPU's memory; less is free where something else runs

VersionOf = Callable[[str], str | None]


def version(package: str) -> str | None:
    """Installed version; vLLM's build for CPUs is a package of its own."""
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def versions(of: VersionOf, vllm_wanted: bool) -> list[Check]:
    """One line a package. `vllm_wanted`: the config names it."""
    found = [
        Check("python", "ok", platform.python_version()),
        Check("treesearch", "ok", of("treesearch") or "a checkout"),
    ]
    for package in ("torch", "transformers"):
        got = of(package)
        missing = Check(package, "problem", "not installed", f"pip install {package}")
        found.append(Check(package, "ok", got) if got else missing)
    return [*found, _ray(of("ray")), _vllm(of("vllm"), vllm_wanted)]


def _ray(got: str | None) -> Check:
    fix = f"pip install --upgrade 'ray[default]>={SECURE_RAY}'"
    if got is None:
        return Check("ray", "problem", "not installed", fix)
    if _minor(got) < _minor(SECURE_RAY):
        return Check("ray", "problem", f"{got}: its dashboard serves some requests without authentication", fix)
    return Check("ray", "ok", got)


def _vllm(got: str | None, wanted: bool) -> Check:
    if got is None:
        found = "not installed, and the config names it" if wanted else "not installed; only vllm backends need it"
        return Check("vllm", "problem" if wanted else "note", found, f"pip install 'vllm=={TESTED_VLLM}.*'")
    if not _minor(OLDEST_VLLM) <= _minor(got) <= _minor(NEWEST_VLLM):
        found = f"{got}: untested (written for {OLDEST_VLLM} to {NEWEST_VLLM}, tested with {TESTED_VLLM})"
        return Check("vllm", "note", found, f"pip install 'vllm=={TESTED_VLLM}.*'")
    return Check("vllm", "ok", got if _minor(got) == _minor(TESTED_VLLM) else f"{got} (tested with {TESTED_VLLM})")


def _minor(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


# Devices


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total: float  # bytes
    free: float  # bytes


def nvidia_smi() -> str | None:
    """What the driver tells about its GPUs; None without a driver. Of a driver that fails, the text starts with "error"."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=4)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"error: {error}"
    return done.stdout if done.returncode == 0 else f"error: {(done.stdout + done.stderr).strip()}"


def read_gpus(told: str | None, only: str | None = None) -> list[Gpu]:
    """The GPUs in the text of `nvidia_smi`. `only` is CUDA_VISIBLE_DEVICES; by number, or as many as it names."""
    rows = [line.rsplit(",", 2) for line in (told or "").splitlines() if line.count(",") >= 2]
    found = [Gpu(name.strip(), _mebibytes(total), _mebibytes(free)) for name, total, free in rows]
    if only is None:
        return found
    names = [name.strip() for name in only.split(",") if name.strip()]
    if all(name.isdigit() for name in names):
        return [found[int(name)] for name in names if int(name) < len(found)]
    return found[: len(names)]


def _mebibytes(text: str) -> float:
    return (
        float(text) * 2**20 if text.strip().replace(".", "").isdigit() else 0.0
    )  # "[N/A]" where it is shared with CPUs


def gpus(told: str | None, visible: list[Gpu], torch: str | None) -> Check:
    """A torch that cannot use the GPUs that are here is the usual reason for a slow run. `torch`: its version."""
    if told is not None and told.startswith("error"):
        return Check("GPUs", "problem", f"the driver fails: {told}", "sudo modprobe nvidia && nvidia-smi")
    if not visible:
        return Check(
            "GPUs", "note", "none, or none visible: models run on CPUs" if told else "none: models run on CPUs"
        )
    found = "; ".join(f"{gpu.name}, {size(gpu.free)} free of {size(gpu.total)}" for gpu in visible)
    if torch is not None and torch.endswith("+cpu"):
        return Check("GPUs", "problem", f"{found}; torch {torch} uses none", "pip install --force-reinstall torch")
    if any(gpu.free < FREE * gpu.total for gpu in visible):
        return Check("GPUs", "note", f"{found}; something else runs there", "nvidia-smi")
    return Check("GPUs", "ok", found)


def usable_cpus() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus(usable: int) -> Check:
    return Check("CPUs", "ok", f"{usable} usable")


# Memory and storage


def available(meminfo: str) -> float | None:
    """Bytes of memory that programs may still take, from the text of /proc/meminfo; None where there is no such file."""
    return _bytes(meminfo, "MemAvailable")


def memory(meminfo: str, command: str) -> Check:
    total, free = _bytes(meminfo, "MemTotal"), available(meminfo)
    if total is None or free is None:
        return Check("memory", "ok", "unknown: this system has no /proc/meminfo")
    found = f"{size(free)} free of {size(total)}"
    if free < 1 * GB:
        return Check("memory", "problem", found, f"{command} --set engine.trees=4")
    return Check("memory", "ok", found)


def _bytes(meminfo: str, key: str) -> float | None:
    found = re.search(rf"^{key}:\s+(\d+) kB", meminfo, re.MULTILINE)
    return float(found.group(1)) * 1024 if found else None


def disk(out: Path, mounts: str, free: Callable[[Path], float], command: str) -> Check:
    """Room for a run's folder, and whether SQLite's locks and memory maps work where run.db will be."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    kind, elsewhere = file_system(there, mounts), f"{command} --out /tmp/run"
    found = f"{size(free(there))} free for {out} ({kind})"
    if not os.access(there, os.W_OK):
        return Check("disk", "problem", f"{there} is not writable", elsewhere)
    if free(there) < 1 * GB:
        return Check("disk", "problem", found, elsewhere)
    if on_network(kind):
        return Check(
            "disk",
            "note",
            f"{found}: a network file system, run.db goes without its write-ahead log there and is slower",
            elsewhere,
        )
    return Check("disk", "ok", found)


def home(folder: Path) -> Check:
    """Ray keeps its token in the home folder, the hub its models."""
    if folder.is_dir() and os.access(folder, os.W_OK):
        return Check("HOME", "ok", str(folder))
    return Check("HOME", "problem", f"{folder} is not writable", "mkdir -p /tmp/home && export HOME=/tmp/home")
