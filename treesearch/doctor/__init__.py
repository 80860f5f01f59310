"""What may keep a run from working here, each problem with the line that fixes it. Starts no cluster, loads no model.

A check is a small function of facts, so that each can be tested with good and bad ones; `examine` looks the facts up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from treesearch.backends.endpoint import address
from treesearch.backends.panel import Verbatim
from treesearch.config import Config, specs_in
from treesearch.doctor import cluster, machine, models
from treesearch.doctor.base import Check
from treesearch.doctor.plan import Need, needs, plan
from treesearch.mounts import read_mounts
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.terminal import shown

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def examine(config: Config, out: Path, address: str | None, command: str) -> list[Check]:
    """All checks. `out`: folder of the runs; `address`: Ray's, as the user gave it; `command`: the run that this is about, to
    which fixes append settings."""
    env, home = os.environ, Path.home()
    cache = models.hub_cache(env, home)
    wanted = needs(config, cache)
    mounts, meminfo = read_mounts(), _meminfo()
    told = machine.nvidia_smi()
    visible = machine.read_gpus(told, env.get("CUDA_VISIBLE_DEVICES"))
    ray = cluster.reach(address or env.get("RAY_ADDRESS"), cluster.address_file(env), cluster.answers)
    return [
        *machine.versions(machine.version, any(need.kind.startswith("VLLM") for need in wanted)),
        machine.cpus(machine.usable_cpus()),
        machine.gpus(told, visible, machine.version("torch")),
        machine.memory(meminfo, command),
        machine.disk(out, mounts, lambda folder: shutil.disk_usage(folder).free, command),
        machine.home(home),
        ray.check,
        cluster.token(env, home, ray.host),
        *([cluster.dashboard(ray.host, cluster.mode_at)] if ray.host else []),
        models.hub(env, cache),
        *_endpoints(config),
        *_files(config, wanted, mounts, models.is_offline(env), ray.joined, command),
        *plan(wanted, [gpu.total for gpu in visible], machine.available(meminfo), ray.joined, _on_ray(command)),
    ]


def _endpoints(config: Config) -> list[Check]:
    """Of the models behind servers: the proposer's, and those that judges ask (in a chat)."""
    found = []
    for role in ("proposer", "scorer", "outcome"):
        asked = (load_task(config.task), config.prompt) if role == "proposer" else (Verbatim(), Prompt("chat"))
        for spec in specs_in(getattr(config, role)):
            if hasattr(spec, "base_url"):
                found.append(models.endpoint(role, address(spec.base_url), partial(spec.probe, *asked)))
    return found


def _files(
    config: Config, wanted: Sequence[Need], mounts: str, offline: bool, joined: bool, command: str
) -> list[Check]:
    """What the config names: models and a problem file; on a cluster, other nodes must see them too."""
    found = [models.model(need.role, need.model, need.folder, offline) for need in wanted]
    local = [need.folder for need in wanted if need.folder and need.model != "bundled" and models.is_path(need.model)]
    file = models.problems_file(config.problems)
    if file is not None:
        found.append(models.problems(file, command))
        local += [file] if file.is_file() else []
    return [*found, *(models.shared(path, mounts) for path in dict.fromkeys(local) if joined)]


def _on_ray(command: str) -> str:
    """The cluster section is about runs on Ray."""
    return command if "--ray-address" in command else command.replace("treesearch run", "treesearch run --ray", 1)


def _meminfo() -> str:
    """Linux's; empty elsewhere."""
    try:
        return Path("/proc/meminfo").read_text()
    except OSError:
        return ""


def table(checks: Sequence[Check]) -> Table:
    """The checks for people; the lines that fix are apart, so that a narrow terminal does not break them."""
    from rich.table import Table
    from rich.text import Text

    found = Table(title="treesearch doctor")
    for column in ("check", "", "found"):
        found.add_column(column, overflow="fold")
    for check in checks:
        found.add_row(check.name, Text(check.state, COLOURS[check.state]), Text(shown(check.found)))
    return found
