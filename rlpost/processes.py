"""Child processes that run a user's code: bound to who started them, ended with all that they started; and
how a process is known from outside."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""The signal that a process gets when the *thread* that started it ends."""
PR_SET_CHILD_SUBREAPER = 36
"""Whether processes that descendants leave behind become children of this one."""


def machine() -> str:
    """Equal for two processes exactly if they see the same process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> str | None:
    """When a process of this machine began, as the kernel counts; None where there is none, or its parent has
    only to take note of its end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def prctl(option: int, value: int) -> None:
    """Linux's system call of that name; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def child_processes() -> list[int]:
    """The ids of this process's children, running or ended."""
    pids = []
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in tasks.read_text().split()]
    return pids


def kill_children() -> None:
    """Kill and reap every child left, adopted ones too, for at most a second (a fork bomb may outrun it)."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in child_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def describe_end(end: os.waitid_result) -> str:
    """How a process ended, after its name: "ended with exit code 3" or "was killed by SIGSEGV"."""
    if end.si_code == os.CLD_EXITED:
        return f"ended with exit code {end.si_status}"
    name = signal.Signals(end.si_status).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
