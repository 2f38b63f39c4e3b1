"""The folder that a run writes to, and the shared memory of its machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlpost.config import stage_objective
from rlpost.config.rules.critic_rules import stage_critic
from rlpost.config.schema import RunConfig
from rlpost.machine import GIB, SHARED_FOLDER
from rlpost.preflight.finding import ERROR, OK, WARNING, Finding
from rlpost.sizing.learner import DTYPE_BYTES
from rlpost.sizing.model_facts import ModelFacts
from rlpost.sizing.target import Target
from rlpost.sizing.words import amount

OTHER_FILES = 1 * GIB
"""For rollouts, metrics and logs; a run of days writes more."""
FLOAT32, MOMENTS = 4, 8
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}
VOLATILE = {"tmpfs", "ramfs"}
ENOUGH_SHARED = GIB // 4
"""Less than this, containers have by default, and Ray, NCCL and vLLM each put tens of MiB there."""


def storage_findings(
    config: RunConfig, target: Target, facts: ModelFacts | None, output: Path | None = None
) -> Iterator[Finding]:
    """Where the run directory will be, and /dev/shm where Ray is used.

    Args:
        facts: of the policy; without them nothing is known of the size of its checkpoints.
        output: the run directory, where one is named.
    """
    if not target.here:
        return
    folder = output or Path(config.output)
    writable = _writable(folder)
    yield writable
    if writable.level != ERROR:
        yield _space(config, facts, folder)
    if config.cluster.mode == "ray" and target.local:
        yield _shared(config, facts, target)


def checkpoint_bytes(config: RunConfig, facts: ModelFacts) -> int:
    """Bytes of the largest checkpoint: float32 weights and AdamW's moments, of the reference the weights."""
    each = 0
    for stage in config.stages:
        objective = stage_objective(stage)
        critic = stage_critic(stage, objective)
        trained = facts.trained * (FLOAT32 + MOMENTS)
        if "ref_logprob" in objective.signals and config.model.lora is None:
            trained += facts.trained * FLOAT32
        if critic is not None and not critic.shared:
            trained += facts.base * (FLOAT32 + MOMENTS)
        each = max(each, trained)
    return each


def filesystem(place: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of the file system that a folder is on; "" where the machine does not tell."""
    try:
        entries = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    at = [(len(point), kind) for point, kind in entries if place.resolve().is_relative_to(_unescaped(point))]
    return max(at, default=(0, ""))[1]


def _writable(folder: Path) -> Finding:
    name, place = f"output {folder}", existing(folder)
    remedy = "name another folder: output=FOLDER, or --output"
    if not place.is_dir():
        return Finding(name, ERROR, f"{place} is no folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding(name, ERROR, f"{place}: {error.strerror or error}", remedy)
    kind = filesystem(place)
    if kind in VOLATILE:
        return Finding(name, WARNING, f"on {kind}: it is gone with the machine, and takes its memory", remedy)
    if kind in NETWORK:
        return Finding(
            name,
            WARNING,
            f"on {kind}: checkpoints go over the network, and the run waits for each",
            "raise checkpoint.every, or write to a disk of the machine",
        )
    return Finding(name, OK, "writable")


def _space(config: RunConfig, facts: ModelFacts | None, folder: Path) -> Finding:
    name, free = "disk", shutil.disk_usage(existing(folder)).free
    if facts is None:
        return Finding(name, OK, f"{amount(free)} free; the size of a checkpoint is not known")
    each, count = checkpoint_bytes(config, facts), config.checkpoint.keep + 1
    policy = facts.base * DTYPE_BYTES[config.model.dtype]
    needed = each * count + policy + OTHER_FILES
    found = (
        f"{amount(free)} free; {count} checkpoints x {amount(each)} + policy {amount(policy)} + other files "
        f"{amount(OTHER_FILES)} = {amount(needed)}"
    )
    if needed <= free:
        return Finding(name, OK, found)
    fewer = ", lower checkpoint.keep" if config.checkpoint.keep > 1 else ""
    if each * count + policy > free:
        return Finding(name, ERROR, found, f"make room, or name another folder: output=FOLDER{fewer}")
    return Finding(name, WARNING, found, f"make room{fewer}")


def _shared(config: RunConfig, facts: ModelFacts | None, target: Target) -> Finding:
    name, there = str(SHARED_FOLDER), target.shared_memory_bytes or 0
    needed, why = float(ENOUGH_SHARED), "for Ray and what processes exchange"
    if config.weights.transport == "object_store" and facts is not None:
        weights = facts.base * DTYPE_BYTES[config.model.dtype]
        needed, why = needed + weights, f"for one version of the weights ({amount(weights)}) in Ray's objects"
    found = f"{amount(there)}; {amount(needed)} needed {why}"
    if needed <= there:
        return Finding(name, OK, found)
    level = ERROR if config.weights.transport == "object_store" else WARNING
    return Finding(
        name, level, found, "in a container raise it (docker run --shm-size=8g), or remount it larger"
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _unescaped(point: str) -> str:
    return os.fsdecode(point.encode().decode("unicode_escape").encode("latin-1"))
