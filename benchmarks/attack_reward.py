"""A reward function that does on demand what no reward function should: for the benchmark and the tests.

The response says what to do: "hang/loop", "memory/grow", ...; any other response is compared with the answer.
`EXPECTED` is what must become of the sample in each case. Meant for a small `scoring.memory_gib`.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time

EXPECTED: dict[str, tuple[str, str]] = {
    "hang/loop": ("timeout", "no score within"),
    "hang/sleep": ("timeout", "no score within"),
    "hang/stopped": ("timeout", "no score within"),
    "hang/deaf": ("timeout", "no score within"),
    "hang/regex": ("timeout", "no score within"),
    "hang/locked": ("timeout", "no score within"),
    "hang/catches": ("timeout", "no score within"),
    "hang/child": ("timeout", "no score within"),
    "memory/at once": ("error", "GiB (scoring.memory_gib)"),
    "memory/grow": ("error", "GiB (scoring.memory_gib)"),
    "crash/segfault": ("error", "killed by SIGSEGV; the process's last output: "),
    "crash/abort": ("error", "killed by SIGABRT"),
    "crash/exit": ("error", "ended with exit code 3"),
    "crash/kill": ("error", "killed by SIGKILL"),
    "fork/return": ("scored", "left behind, and ended with the worker process: child processes"),
    "fork/sleepers": ("scored", "left behind, and ended with the worker process: child processes"),
    "fork/tree": ("scored", "left behind, and ended with the worker process: child processes"),
    "fork/daemon": ("scored", "left behind, and ended with the worker process: child processes"),
    "print/lines": ("timeout", "; the process's last output: "),
    "print/blocks": ("timeout", "; the process's last output: "),
}
"""By response: the outcome, and what its note must hold."""


def reward(completion: str, answer: str) -> float:
    """1.0 for the answer; a response named in `EXPECTED` does its worst."""
    kind, _, how = completion.partition("/")
    attack = {"hang": hang, "memory": memory, "crash": crash, "fork": fork, "print": print_for_ever}.get(kind)
    if attack is not None:
        attack(how)
        return 1.0
    return float(completion == answer)


def hang(how: str) -> None:
    """Do not return, each time in another way."""
    if how == "sleep":
        time.sleep(1000)
    elif how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "deaf":
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
    elif how == "regex":
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif how == "locked":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif how == "child":
        subprocess.run(["sleep", "1000"], start_new_session=True, check=False)
    while True:
        try:
            while True:
                pass
        except BaseException:
            if how != "catches":
                raise


def memory(how: str) -> None:
    """Take more than there is."""
    taken = [bytearray(64 << 30)] if how == "at once" else []
    while True:
        taken.append(bytearray(b"x") * (1 << 22))


def crash(how: str) -> None:
    """End the interpreter."""
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


def fork(how: str) -> None:
    """Return, and leave processes behind."""
    if how == "return":
        os.fork()
    elif how == "daemon":
        subprocess.run(["sh", "-c", "setsid sleep 1000 & exit 0"], check=True)
        os.fork()
    elif how == "tree":
        parent = os.getpid()
        for _ in range(4):
            os.fork()
        if os.getpid() != parent:
            os.setsid()
            time.sleep(1000)
    else:
        for _ in range(4):
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)


def print_for_ever(how: str) -> None:
    """Print, to both streams, until the end."""
    while True:
        if how == "lines":
            print("and again")
            print("and again", file=sys.stderr)
        else:
            os.write(1, b"and again " * 10_000)
