"""Checkpoints: whole or not at all, and they know what they belong to.

A checkpoint is a directory `step-000050` with a manifest that lists every file's size and
SHA-256 and the identity of the run. It is written beside its place and renamed into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.errors import CheckpointError
from rlpost.training.run_directory import write_atomically

MANIFEST, LATEST, FORMAT = "manifest.json", "latest", 2
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its directory and the number of steps that led to it."""

    path: Path
    step: int


def save_checkpoint(
    folder: Path,
    step: int,
    identity: Mapping[str, Any],
    write: Callable[[Path], None],
    keep: int,
) -> Checkpoint:
    """Write a checkpoint atomically, point `latest` at it and remove the oldest ones.

    Args:
        identity: flat, JSON-able facts that a resuming run must share.
        write: fills the given directory.
        keep: number of complete checkpoints to keep.

    Raises:
        CheckpointError: the disk has less free space than the previous checkpoint took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(stale)
    _check_free_space(folder)
    partial, final = folder / f"{PARTIAL}step-{step:06d}", folder / f"step-{step:06d}"
    partial.mkdir()
    write(partial)
    files = {
        path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, "step": step, "identity": identity, "files": files}
    write_atomically(partial / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    if final.exists():
        shutil.rmtree(final)
    partial.replace(final)
    _sync(folder)
    write_atomically(folder / LATEST, final.name + "\n")
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return Checkpoint(final, step)


def find_checkpoint(
    folder: Path,
    identity: Mapping[str, Any],
    report: Callable[[str], None],
    before: int | None = None,
) -> Checkpoint | None:
    """The newest checkpoint that is whole and belongs to this run; None when there is none at all.

    Args:
        identity: what the manifest must say about the run.
        report: told about every checkpoint that is passed over, and why.
        before: look only at checkpoints of fewer steps than this.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
    """
    reasons = []
    for path in reversed(_complete(folder)):
        step = int(path.name.removeprefix("step-"))
        if before is not None and step >= before:
            continue
        reason = _refusal(path, identity)
        if reason is None:
            return Checkpoint(path, step)
        reasons.append(f"{path.name}: {reason}")
        report(f"checkpoint {path.name} is refused: {reason}")
    if reasons:
        raise CheckpointError(
            "no checkpoint of this run can be used",
            where=folder,
            found="\n          ".join(reasons),
            remedy="resume with the configuration of the run, or start a new run in another --output",
        )
    return None


def _refusal(path: Path, identity: Mapping[str, Any]) -> str | None:
    """Why the checkpoint cannot be used, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files, owner = manifest["files"], manifest["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__}: {error})"
    if manifest.get("format") != FORMAT:
        return (
            f"it is of format {manifest.get('format')!r}, which another version of rlpost wrote; "
            f"this one reads format {FORMAT}"
        )
    different = [
        f"{key} is {owner.get(key)!r} in the checkpoint and {identity.get(key)!r} now"
        for key in sorted(set(owner) | set(identity))
        if owner.get(key) != identity.get(key)
    ]
    if different:
        return "it belongs to another run: " + "; ".join(different[:5])
    for name, facts in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != facts["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, needed {facts['bytes']}"
        if _sha256(file) != facts["sha256"]:
            return f"{name} is damaged (its SHA-256 differs)"
    return None


def _complete(folder: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _check_free_space(folder: Path) -> None:
    previous = _complete(folder)
    if not previous:
        return
    needed = sum(path.stat().st_size for path in previous[-1].rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            "the disk is too full for a checkpoint",
            where=folder,
            found=f"{free / 2**20:.0f} MiB free",
            needed=f"{needed / 2**20:.0f} MiB, the size of the previous one",
            remedy="free some space and run again with --resume; older checkpoints are intact",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
