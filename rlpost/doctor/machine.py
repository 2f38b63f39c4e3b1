"""Checks of the machine: processors, memory, accelerators, tools on the path, the output directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlpost.doctor.check import LOW, NOT_WRITABLE, Check
from rlpost.machine import GIB, cpus, memory_limit
from rlpost.versions import CONFLICT, MISSING, OK

ENOUGH_MEMORY = 4 * GIB
ENOUGH_SHARED_MEMORY = 1 * GIB
ENOUGH_DISK = 10 * GIB

TOOLS = {
    "bubblewrap": ("bwrap", "running the code that a model wrote in a sandbox"),
    "C++ compiler": ("c++", "DeepSpeed's operators for offloading to the CPU"),
    "slurm": ("sbatch", "starting jobs on a Slurm cluster"),
    "kubectl": ("kubectl", "starting jobs on a Kubernetes cluster"),
}


def machine_checks(output: Path) -> Iterator[Check]:
    """Everything about this machine.

    Args:
        output: the directory that runs would be written to; it need not exist yet.
    """
    yield Check("machine", "CPUs", str(cpus()), "2 or more")
    yield _memory()
    yield _shared_memory(Path("/dev/shm"))
    yield _accelerators()
    for name, (command, purpose) in TOOLS.items():
        place = shutil.which(command)
        note = "" if place else f"needed for {purpose}"
        yield Check("tools", name, place or "-", command, OK if place else MISSING, note)
    yield from output_checks(output)


def _memory() -> Check:
    total = memory_limit()
    enough = total >= ENOUGH_MEMORY
    verdict, note = (OK, "") if enough else (LOW, "small models only; vLLM needs more")
    return Check("machine", "memory", _gib(total), f"{_gib(ENOUGH_MEMORY)} or more", verdict, note)


def _shared_memory(folder: Path) -> Check:
    needed = f"{_gib(ENOUGH_SHARED_MEMORY)} or more"
    purpose = "weight transfer on one host and Ray's objects"
    if not folder.is_dir():
        return Check("machine", str(folder), "-", needed, MISSING, f"needed for {purpose}")
    total = shutil.disk_usage(folder).total
    if total >= ENOUGH_SHARED_MEMORY:
        return Check("machine", str(folder), _gib(total), needed)
    note = f"{purpose} may not fit; in a container, raise it (docker run --shm-size=8g)"
    return Check("machine", str(folder), _gib(total), needed, LOW, note)


def _accelerators() -> Check:
    name, expected = "accelerators", "for large models"
    try:
        import torch

        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        built_for_cuda = torch.version.cuda is not None
    except Exception as error:  # A broken torch fails with whatever its shared libraries raise.
        lines = str(error).splitlines() or [type(error).__name__]
        note = f"torch does not load: {lines[0]}"
        return Check("machine", name, "-", expected, CONFLICT, note, required=True)
    if devices:
        found = ", ".join(f"{device.name} ({_gib(device.total_memory)})" for device in devices)
        return Check("machine", name, found, expected)
    if Path("/proc/driver/nvidia/version").exists() and not built_for_cuda:
        note = "an NVIDIA driver is here, but torch is built for CPUs: install torch's default build"
        return Check("machine", name, "-", expected, CONFLICT, note)
    note = "needed for models of more than some million parameters"
    return Check("machine", name, "-", expected, MISSING, note)


def output_checks(output: Path) -> Iterator[Check]:
    """Whether the directory, or the nearest one above it, takes files, and how much of them."""
    place = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        yield Check("output", str(output), "writable", "writable", required=True)
    except OSError as error:
        note = f"{error.strerror or error}; name another one: --output DIR"
        yield Check("output", str(output), str(place), "writable", NOT_WRITABLE, note, required=True)
    free = shutil.disk_usage(place).free
    low = "a checkpoint takes 12 bytes for each parameter in float32, or more"
    verdict, note = (OK, "") if free >= ENOUGH_DISK else (LOW, low)
    yield Check("output", "free disk", _gib(free), f"{_gib(ENOUGH_DISK)} or more", verdict, note)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
