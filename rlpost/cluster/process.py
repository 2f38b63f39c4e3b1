"""Processes of this machine, seen from outside: whether they live, what they do, how they ended."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
from contextlib import suppress
from pathlib import Path

from rlpost.processes import machine

__all__ = ["Process", "describe_status", "kernel_oom_kills", "machine"]

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for the disk or a device",
    "T": "stopped (SIGSTOP)",
    "t": "stopped by a debugger",
    "Z": "ended",
}

# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), the structure's first version, and its bit for exits
_INFO_SIZE, _INFO_EXIT = 64, 8
_PIDFD_GET_INFO = (3 << 30) | (_INFO_SIZE << 16) | (0xFF << 8) | 11


class Process:
    """One process of this machine; holds on to it, so that its id cannot be mistaken for a later one's.

    Raises:
        ProcessLookupError: there is none with this id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, after waiting for that at most `timeout_s` seconds."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def kill(self) -> None:
        """End it, also when it is stopped."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def state(self) -> str:
        """What the kernel says it is doing."""
        if self.ended():
            return STATES["Z"]
        try:
            letter = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return STATES["Z"]
        return STATES.get(letter, letter)

    def stopped(self) -> bool:
        """Whether it cannot do anything until it is continued."""
        return self.state() in (STATES["T"], STATES["t"])

    def ending(self) -> str | None:
        """How it ended; None while it lives, and before Linux 6.15, which told nobody but the parent."""
        info = bytearray(_INFO_SIZE)
        struct.pack_into("=Q", info, 0, _INFO_EXIT)
        try:
            fcntl.ioctl(self._handle, _PIDFD_GET_INFO, info)
        except OSError:
            return None
        mask, status = struct.unpack_from("=Q", info, 0)[0], struct.unpack_from("=i", info, 60)[0]
        return describe_status(status) if mask & _INFO_EXIT else None

    def close(self) -> None:
        """Let go of it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def describe_status(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def kernel_oom_kills() -> int:
    """Processes that the kernel's out-of-memory killer has ended since this machine started."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
