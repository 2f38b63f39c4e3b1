"""Addresses and ports that a run needs: an existing cluster, model servers, ports that variables name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rlpost.config.held_out import sampling_stages
from rlpost.config.schema import RunConfig
from rlpost.preflight.finding import ERROR, OK, WARNING, Finding, Level
from rlpost.preflight.reach import is_taken, why_not
from rlpost.preflight.variables import judges
from rlpost.sizing.target import Target

TOKEN_FILE = Path("~/.ray/auth_token")
PROGRAMS = ("gcs_server", "raylet")
"""Of Ray, on the head of a cluster and on each of its machines."""


def address_findings(
    config: RunConfig, target: Target, variables: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Each address that the recipe names, and each port that a variable does."""
    if config.cluster.mode == "ray" and config.cluster.address is not None:
        yield _cluster(config.cluster.address, variables)
        yield _token(config.cluster.address, variables)
    for function, url in judges(config):
        yield _server(function, url)
    if target.here:
        yield from _ports(config, variables)


def _cluster(address: str, variables: Mapping[str, str]) -> Finding:
    """An existing cluster answers; `auto` is the one that Ray finds on this machine."""
    name, remedy = "cluster.address", "start the cluster (ray start --head), or correct cluster.address"
    place = variables.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if place in ("", "auto"):
        if _runs(PROGRAMS):
            return Finding(name, OK, "auto: a cluster runs on this machine")
        found = "auto, but no cluster runs on this machine, and RAY_ADDRESS names none"
        return Finding(name, ERROR, found, f"{remedy}; null starts one of the run's own")
    parts = urlsplit(place if "//" in place else f"//{place}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        return Finding(name, ERROR, f"{place!r} is no address", "write HOST:6379, auto, or null")
    reason = why_not(host, port)
    if reason is not None:
        return Finding(name, ERROR, f"nothing answers at {host}:{port}: {reason}", remedy)
    return Finding(name, OK, f"{host}:{port} answers")


def _token(address: str, variables: Mapping[str, str]) -> Finding:
    """A token for a cluster that asks for one; without one anybody who reaches it can run code on it."""
    name, remedy = "cluster token", "copy the head's token here: RAY_AUTH_TOKEN, or ~/.ray/auth_token"
    mode = variables.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        return Finding(name, OK, "RAY_AUTH_MODE=disabled: whoever reaches the cluster can run code on it")
    path = Path(variables.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    if variables.get("RAY_AUTH_TOKEN"):
        return Finding(name, OK, "in RAY_AUTH_TOKEN")
    if path.is_file() and path.stat().st_size:
        return Finding(name, OK, f"in {path}")
    needed: Level = ERROR if mode == "token" or variables.get("RAY_AUTH_TOKEN_PATH") else WARNING
    return Finding(
        name, needed, f"none in RAY_AUTH_TOKEN nor in {path}", f"{remedy}; or RAY_AUTH_MODE=disabled"
    )


def _server(function: str, url: str) -> Finding:
    from rlpost.endpoint import EndpointSettings
    from rlpost.errors import ConfigError

    name = f"server of {function.rpartition('/')[2]}"
    try:
        parts = urlsplit(EndpointSettings(url).address)
    except ConfigError as error:
        return Finding(name, ERROR, error.what + f": {url!r}", "such as http://localhost:8000/v1")
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    reason = why_not(host, port)
    if reason is None:
        return Finding(name, OK, f"{host}:{port} answers")
    return Finding(
        name,
        ERROR,
        f"no model server answers at {host}:{port}: {reason}",
        "start the server, or correct `judge.url` in the options of the reward",
    )


def _ports(config: RunConfig, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Ports that were chosen for us must be free; those that we choose ourselves are."""
    readers = {"MASTER_PORT": config.cluster.learner_ranks > 1}
    readers["VLLM_PORT"] = sampling_stages(config)[0].rollout.engine == "vllm"
    for name, read in readers.items():
        value = variables.get(name)
        if not read or value is None:
            continue
        if not value.isdigit() or not 0 < int(value) < 65536:
            yield Finding(name, ERROR, f"{value!r} is no port", f"unset {name}")
        elif is_taken(int(value)):
            yield Finding(
                name,
                ERROR,
                f"port {value} is taken by another process",
                f"unset {name}: a free port is found then",
            )
        else:
            yield Finding(name, OK, f"port {value} is free")


def _runs(programs: Sequence[str]) -> bool:
    """Whether a process of this machine is of one of the programs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() in programs:
                return True
        except OSError:
            continue
    return False
