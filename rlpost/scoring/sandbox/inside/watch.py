"""Holds a running program to its limits, from outside its process, and says how it ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST_LOOK_S, LAST_LOOK_S = 0.01, 0.1
KILLING_S = 3.0
SHARED_FREE_BYTES = 128 << 20
"""Of each process: libraries that it loads count as shared memory too."""
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
HINTS = {
    "memory_limit": ("MemoryError", "std::bad_alloc", "Cannot allocate memory"),
    "process_limit": ("BlockingIOError: [Errno 11]", "can't start new thread", "fork: retry"),
    "file_limit": ("[Errno 27]", "[Errno 28]", "No space left on device"),
}


class ControlClosedError(Exception):
    """Whom this process serves is gone."""


class Watch:
    """One program: its files are read, its time, memory and processes counted, until it ends or is ended."""

    def __init__(
        self, pid: int, limits: Mapping[str, Any], reads: Mapping[str, int], control: int, tmp: Path | None
    ) -> None:
        self.pid = pid
        self.limits = limits
        self.control = control
        self.tmp = tmp
        self.names = {end: name for name, end in reads.items()}
        self.data = {name: bytearray() for name in reads}
        self.base = _usage(os.getpid())
        self.peak = self.cpu = 0.0

    def wait(self) -> dict[str, Any]:
        """Until the program's first process has ended, or a limit is passed.

        Raises:
            ControlClosedError: nobody waits for the answer any more.
        """
        started = time.monotonic()
        deadline = started + self.limits["wall_s"]
        pause, reason = FIRST_LOOK_S, None
        next_look = started + pause
        end = os.pidfd_open(self.pid)
        poll = select.poll()
        for file in (end, *self.names):
            poll.register(file, select.POLLIN)
        poll.register(self.control, select.POLLRDHUP)
        try:
            while reason is None:
                until = min(deadline, next_look) - time.monotonic()
                ready = {file for file, _ in poll.poll(max(0.0, until) * 1000)}
                if self.control in ready:
                    raise ControlClosedError
                for file in ready & set(self.names):
                    if not self._read(file):
                        poll.unregister(file)
                now = time.monotonic()
                if sum(map(len, self.data.values())) > self.limits["output_bytes"]:
                    reason = "output_limit"
                elif end in ready:
                    break
                elif now >= deadline:
                    reason = "wall_limit"
                elif now >= next_look:
                    reason = self._look()
                    pause = min(LAST_LOOK_S, pause * 1.5)
                    next_look = time.monotonic() + pause
        finally:
            os.close(end)
        return {"reason": reason, "seconds": time.monotonic() - started}

    def finish(self, reason: str | None, status: int, usage: Any) -> dict[str, Any]:
        """The outcome, once all processes are gone; reads what lies in the pipes still."""
        for file in self.names:
            while len(self.data[self.names[file]]) <= self.limits["output_bytes"] and self._read(file):
                pass
        if reason is None and sum(map(len, self.data.values())) > self.limits["output_bytes"]:
            reason = "output_limit"
        code = os.waitstatus_to_exitcode(status)
        self.cpu = max(self.cpu, usage.ru_utime + usage.ru_stime)
        return {
            "outcome": reason or self._ending(code),
            "exit_code": code,
            "cpu_s": self.cpu,
            "peak_bytes": int(max(self.peak, usage.ru_maxrss * 1024 - self.base[0])),
        }

    def _ending(self, code: int) -> str:
        if code == 0:
            return "ok"
        if code > 0:
            last = bytes(self.data["stderr"][-500:]).decode(errors="replace").strip().rpartition("\n")[2]
            return next((o for o, hints in HINTS.items() if any(h in last for h in hints)), "exit")
        if code == -signal.SIGXFSZ:
            return "file_limit"
        spent = code in (-signal.SIGXCPU, -signal.SIGKILL) and self.cpu >= self.limits["cpu_s"] - 0.5
        return "cpu_limit" if spent else "crash"

    def _read(self, file: int) -> bool:
        """Take what lies in a pipe; False when there is nothing and never will be, or nothing now."""
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(file, 1 << 16)
            self.data[self.names[file]] += chunk
            return bool(chunk)
        return False

    def _look(self) -> str | None:
        tasks, memory, cpu = 0, 0.0, 0.0
        for pid in processes():
            with contextlib.suppress(OSError, IndexError, ValueError):
                resident, shared, spent, threads = _usage(pid)
                tasks += threads
                cpu += spent
                memory += max(0, resident - shared - (self.base[0] - self.base[1]))
                memory += max(0, shared - self.base[1] - SHARED_FREE_BYTES)
        self.peak, self.cpu = max(self.peak, memory), max(self.cpu, cpu)
        if tasks > self.limits["processes"]:
            return "process_limit"
        if memory > self.limits["memory_bytes"]:
            return "memory_limit"
        if cpu > self.limits["cpu_s"]:
            return "cpu_limit"
        if self.tmp is not None and _size(self.tmp) > self.limits["file_bytes"]:
            return "file_limit"
        return None


def processes() -> list[int]:
    """All processes beneath this one, its children first."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children: list[int] = []
        for tasks in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children += [int(pid) for pid in tasks.read_text().split()]
        found += children
        waiting += children
    return found


def kill_all(alone: bool) -> bool:
    """Kill and reap everything beneath this process; False when something is left after all.

    Args:
        alone: this process is the first of its namespace or the only one of its user otherwise, so that all
            others that it may send signals to are the program's.
    """
    until = time.monotonic() + KILLING_S
    while time.monotonic() < until:
        if alone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid in processes():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if alone else os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        time.sleep(0.001)
    return False


def tasks_of_user() -> int:
    """Threads that this process's user has on the whole machine, as far as they can be seen."""
    total = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                total += _usage(int(entry.name))[3]
    return total


def _usage(pid: int) -> tuple[int, int, float, int]:
    """Resident bytes, shared ones among them, CPU seconds (its dead children's too), threads."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))
    return int(resident) * PAGE, int(shared) * PAGE, ticks / TICK, int(fields[17])


def _size(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_blocks * 512
    return total
