"""What this machine has: processors, memory, accelerators. Imports nothing heavy but where torch is asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

GIB = 2**30
SHARED_FOLDER = Path("/dev/shm")
QUERY_S = 10.0
ELSEWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): asking for the way to it sends nothing."""


def cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory that this process may use: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(cgroup.read_text()))
    except (OSError, ValueError):
        return machine


def own_address(other: str = ELSEWHERE) -> str:
    """The address of this machine by which `other` can reach it; without `other`, by which most can."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((other, 9))
        address: str = way.getsockname()[0]
    return address


def shared_memory(folder: Path = SHARED_FOLDER) -> int | None:
    """Bytes of this machine's file system in memory; None where it has none."""
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def accelerators_here() -> tuple[int, int | None]:
    """How many this process sees, and the bytes of memory of the smallest, where that is told.

    Nothing is initialised: a process that has touched an accelerator holds memory of it, and cannot fork.
    """
    import torch

    try:
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError):  # A driver that does not answer; `rlpost doctor` says more.
        return 0, None
    return count, _smallest_memory() if count else None


def _smallest_memory() -> int | None:
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_S, check=True)
        return min(int(line) for line in done.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
