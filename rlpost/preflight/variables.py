"""Environment variables that are known to hurt, and tools that a recipe needs on the path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rlpost.config.held_out import run_rewards
from rlpost.config.schema import RunConfig
from rlpost.preflight.finding import ERROR, OK, WARNING, Finding
from rlpost.sizing.target import Target

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DRIVER = Path("/proc/driver/nvidia/version")
"""The file that is there where the driver of NVIDIA's accelerators is."""


def variable_findings(
    config: RunConfig, target: Target, variables: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Each variable that is set to something harmful; one line when none is."""
    found = [*_hidden_accelerators(target, variables), *_proxies(config, variables)]
    found += _other_launchers(variables)
    yield from found or [Finding("environment variables", OK, "none that is known to hurt")]


def tool_findings(config: RunConfig) -> Iterator[Finding]:
    """Whether what runs a model's programs is there, for rewards that do."""
    if all(reward.function.partition(":")[0] != "code" for reward in run_rewards(config)):
        return
    place = shutil.which("bwrap")
    if place is not None:
        yield Finding("sandbox", OK, f"bubblewrap: {place}")
        return
    yield Finding(
        "sandbox",
        WARNING,
        "no bubblewrap on the path: programs of the model run behind weaker fences, or not at all",
        "install bubblewrap (Debian: apt-get install bubblewrap)",
    )


def _hidden_accelerators(target: Target, variables: Mapping[str, str]) -> Iterator[Finding]:
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1") and target.local and DRIVER.exists():
        yield Finding(
            "CUDA_VISIBLE_DEVICES",
            WARNING,
            f"{visible!r} hides the accelerators of this machine: everything would run on CPUs",
            "unset CUDA_VISIBLE_DEVICES; to run on CPUs all the same, say machines.accelerators: 0",
        )


def _proxies(config: RunConfig, variables: Mapping[str, str]) -> Iterator[Finding]:
    """A proxy cannot reach this machine's own services, and libraries ask it for them all the same."""
    names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    name = next((name for name in names if variables.get(name)), None)
    direct = f"{variables.get('no_proxy', '')},{variables.get('NO_PROXY', '')}".replace(" ", "").split(",")
    hosts = [host for host in local_services(config) if host not in direct and "*" not in direct]
    if name is not None and hosts:
        yield Finding(
            name,
            ERROR,
            f"requests to {', '.join(hosts)} go to the proxy, which cannot reach servers of this machine",
            f"export NO_PROXY={','.join(filter(None, [*dict.fromkeys(direct), *hosts]))}",
        )


def local_services(config: RunConfig) -> list[str]:
    """The names under which the recipe asks servers of this machine over HTTP."""
    hosts = [urlsplit(url).hostname for _, url in judges(config)]
    return list(dict.fromkeys(host for host in hosts if host in LOOPBACK))


def judges(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Reward functions that ask a model server: function and URL."""
    for reward in run_rewards(config):
        judge = reward.options.get("judge")
        if isinstance(judge, Mapping) and isinstance(judge.get("url"), str):
            yield reward.function, judge["url"]


def _other_launchers(variables: Mapping[str, str]) -> Iterator[Finding]:
    size = variables.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" in variables and size.isdigit() and int(size) > 1:
        yield Finding(
            "WORLD_SIZE",
            ERROR,
            f"{size} processes were started by another launcher, and each would train a run of its own",
            "start rlpost once, without torchrun: it starts its ranks itself (cluster.learner_ranks)",
        )
