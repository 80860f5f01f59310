"""Ray: which cluster a run would join, and who else may use it. Opens connections; never starts or joins a cluster."""

from __future__ import annotations

import ipaddress
import json
import socket
import stat
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from treesearch.doctor.base import Check

DASHBOARD = 8265
SECONDS = 2.0  # to wait for one answer of the network
RESTART = "ray stop && RAY_AUTH_MODE=token ray start --head --dashboard-host=127.0.0.1"
ELSE = "unset RAY_ADDRESS  # or start it: RAY_AUTH_MODE=token ray start --head --dashboard-host=127.0.0.1"
NEW_TOKEN = "ray get-auth-token --generate > /dev/null"

Env = Mapping[str, str]
Answers = Callable[[str, int], bool]  # whether host and port accept a connection
ModeAt = Callable[[str], str | None]  # authentication mode that the dashboard at a host tells; None without a dashboard


class Found(NamedTuple):
    check: Check
    host: str | None  # of a cluster that answers
    joined: bool  # whether `run --ray` would join it


def address_file(env: Env) -> Path:
    """Where `ray start` leaves the address of its cluster."""
    return Path(env.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"


def reach(address: str | None, current: Path, answers: Answers) -> Found:
    """The cluster at `address` (of --ray-address or RAY_ADDRESS; "auto": at the one in the file `current`).

    Without an address a run starts a Ray of its own, whatever the file says; other programs would join what it names.
    """
    left = _read(current)
    if address == "local" or (not address and left is None):
        return Found(Check("ray cluster", "ok", "none: --ray starts one here"), None, False)
    at = left if address in (None, "", "auto") else address
    if at is None:
        found = f"{address}: no cluster was started here ({current} is missing)"
        return Found(Check("ray cluster", "problem", found, ELSE), None, False)
    host, port = split(at)
    if answers(host, port):
        told = f"{at} answers" if address else f"{at} answers; --ray-address auto joins it, --ray starts another"
        return Found(Check("ray cluster", "ok", told), host, bool(address))
    if at == left:
        found = f"{current} names {at}, which does not answer: Ray would try to join it"
        return Found(Check("ray cluster", "problem" if address else "note", found, f"rm {current}"), None, False)
    return Found(Check("ray cluster", "problem", f"{at} does not answer", ELSE), None, False)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST[:PORT], ray://HOST[:PORT] or http://HOST[:PORT]."""
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.strip("/").rpartition(":")
    if not port.isdigit() or (":" in host and not host.startswith("[")):  # no port, or an IPv6 address without one
        host, port = rest.strip("/"), {"ray": "10001", "http": str(DASHBOARD)}.get(scheme, "6379")
    return host.strip("[]"), int(port)


def answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=SECONDS):
            return True
    except (OSError, OverflowError):
        return False


def mode_at(host: str) -> str | None:
    """Dashboards tell everyone whether they ask for a token."""
    host = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(f"http://{host}:{DASHBOARD}/api/authentication_mode", timeout=SECONDS) as reply:
            return str(json.load(reply)["authentication_mode"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def token(env: Env, home: Path, host: str | None) -> Check:
    """This user's token: without it the cluster at `host` refuses the run, if it asks for one."""
    mode = env.get("RAY_AUTH_MODE", "").lower()
    path = Path(env.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if env.get("RAY_AUTH_TOKEN"):
        return Check("ray token", "ok", "in RAY_AUTH_TOKEN")
    if mode not in ("", "token"):
        return Check("ray token", "note", f"RAY_AUTH_MODE={mode}: Ray asks for none", "export RAY_AUTH_MODE=token")
    if not path.is_file():
        if env.get("RAY_AUTH_TOKEN_PATH"):
            found = f"RAY_AUTH_TOKEN_PATH={path}: no such file"
            return Check("ray token", "problem", found, "unset RAY_AUTH_TOKEN_PATH")
        if mode == "token":
            return Check("ray token", "problem", f"RAY_AUTH_MODE=token, and no token in {path}", NEW_TOKEN)
        if host is not None:
            found = f"none in {path}: a cluster that asks for one will refuse the run"
            return Check("ray token", "note", found, f"mkdir -p {path.parent} && scp {host}:.ray/auth_token {path}")
        return Check("ray token", "ok", "none yet: Ray makes one for a cluster that it starts here")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check("ray token", "note", f"{path} can be read by other users", f"chmod 600 {path}")
    return Check("ray token", "ok", str(path))


def dashboard(host: str, mode_at: ModeAt) -> Check:
    """Of a joined cluster: who reaches its dashboard runs any code on it, unless it asks for a token."""
    outside = None if is_loopback(host) else mode_at(host)
    if outside == "token":
        found = f"{host}:{DASHBOARD} asks for the token, but takes it in clear: only for a private network"
        return Check("ray dashboard", "note", found, RESTART)
    if outside is not None:
        found = f"anyone who reaches {host}:{DASHBOARD} can run code on the cluster: it asks for no token"
        return Check("ray dashboard", "problem", found, RESTART)
    inside = mode_at("127.0.0.1")
    if inside in (None, "token"):
        told = "not reachable from here" if inside is None else "on this machine only, asks for the token"
        return Check("ray dashboard", "ok", told)
    return Check("ray dashboard", "note", "on this machine only, but any user of it can run code as you", RESTART)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
