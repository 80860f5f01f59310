"""Where the models and problems of a config lie, and how large they are. Reads headers of weights, never weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treesearch.doctor.base import Check
from treesearch.errors import ConfigError
from treesearch.models import folder
from treesearch.mounts import file_system, on_network

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
YES = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its switches
HEADER = 100_000_000  # bytes; the format allows no longer one


@dataclass(frozen=True, slots=True)
class Weights:
    """Size of a model: parameters, and bytes on disk."""

    parameters: int
    bytes: int


def hub_cache(env: Mapping[str, str], home: Path) -> Path:
    """Where huggingface_hub keeps what it downloaded."""
    root = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface")
    return Path(env.get("HF_HUB_CACHE") or root / "hub").expanduser()


def is_path(model: str) -> bool:
    """Whether a model is meant as a folder; a hub name is NAME or ORG/NAME."""
    return model.startswith(("~", ".", "/")) or Path(model).exists() or not HUB_NAME.fullmatch(model)


def locate(model: str, role: str, cache: Path) -> Path | None:
    """Folder of a model: bundled, a path, or the hub's cache. None if it is not there."""
    if model == "bundled":
        try:
            return folder("proposer" if role == "proposer" else "prm")
        except ConfigError:
            return None
    if is_path(model):
        at = Path(model).expanduser()
        return at if at.is_dir() else None
    snapshots = (cache / f"models--{model.replace('/', '--')}" / "snapshots").glob("*/config.json")
    newest = max(snapshots, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def weights(at: Path) -> Weights | None:
    """From the headers of the safetensors files of a folder; None if it has none that can be read."""
    files = sorted(at.glob("*.safetensors"))
    try:
        return Weights(sum(map(_parameters, files)), sum(file.stat().st_size for file in files)) if files else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _parameters(file: Path) -> int:
    """A safetensors file starts with the length of its header, 8 bytes little-endian, and the header, JSON."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > HEADER:
            raise ValueError(f"{file}: a header of {length} bytes")
        header = json.loads(opened.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def hub(env: Mapping[str, str], cache: Path) -> Check:
    offline = is_offline(env)
    return Check("model hub", "ok", f"{'offline' if offline else 'online'}, downloads are kept in {cache}")


def is_offline(env: Mapping[str, str]) -> bool:
    return any(env.get(name, "").upper() in YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def model(role: str, name: str, at: Path | None, offline: bool) -> Check:
    """Whether the model of a role can be loaded. `at`: its folder, as `locate` finds it."""
    title = f"{role} model"
    if at is None and name == "bundled":
        return Check(
            title, "problem", "the bundled weights are missing", "python -m treesearch.models.train --out models"
        )
    if at is None and is_path(name):
        return Check(title, "problem", f"{name}: no such folder", f"hf download ORG/NAME --local-dir {name}")
    if at is None and offline:
        found = f"{name}: not downloaded, and HF_HUB_OFFLINE is set"
        return Check(title, "problem", found, f"HF_HUB_OFFLINE=0 hf download {name}")
    if at is None:
        return Check(title, "note", f"{name}: not downloaded yet, if it is a hub name", f"hf download {name}")
    if not (at / "config.json").is_file():
        return Check(title, "problem", f"{at}: no config.json in it", f"hf download ORG/NAME --local-dir {at}")
    if not list(at.glob("*.safetensors")):
        pickled = any(at.glob("*.bin"))
        found = "weights as .bin only, pickles that are not loaded" if pickled else "no *.safetensors in it"
        fix = "python -m treesearch.models.convert" if pickled else "hf download ORG/NAME --local-dir"
        return Check(title, "problem", f"{at}: {found}", f"{fix} {at}")
    return Check(title, "ok", str(at))


def endpoint(role: str, url: str, ask: Callable[[], Any]) -> Check:
    """Whether a server answers for the model of a role. `ask` tells what it can do, or raises ConfigError."""
    title = f"{role} endpoint"
    try:
        return Check(title, "ok", f"{url}: {ask()}")
    except ConfigError as error:
        return Check(title, "problem", str(error), f"curl {url}/models")


def problems_file(problems: str) -> Path | None:
    """The file that `problems` names; None for a set with a name, standard input and a data set of the Hub."""
    if problems.startswith("hf:"):
        return None
    return Path(problems) if Path(problems).suffix or "/" in problems else None


def problems(file: Path, command: str) -> Check:
    if file.is_file():
        return Check("problems", "ok", str(file))
    return Check("problems", "problem", f"{file}: no such file", f"{command} --set problems=game24")


def shared(path: Path, mounts: str) -> Check:
    """On a cluster the same path is opened on other nodes."""
    kind = file_system(path, mounts)
    if on_network(kind):
        return Check("shared folder", "ok", f"{path} ({kind})")
    found = f"{path} is on this node's own disk ({kind}): other nodes need it at the same path"
    return Check("shared folder", "note", found, f"rsync -aR {path.resolve()} NODE:/")
