"""What ends with an actor's process: everything that it started. Runs as a script beside each actor.

A guardian waits until the actor's process ends, however that happens, or the driver's on the same machine;
then it ends the actor and all that the actor started. It imports nothing but the standard library, so that
it starts in milliseconds.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "RLPOST_ACTOR"
GRACE_S = 3.0
"""For children that notice by themselves: they may have names in shared memory to remove."""


def family(pid: int, mark: str) -> list[int]:
    """Living processes that `pid` started, also when it is gone, without `pid` itself.

    They are known by the session that they were born in, or by their environment, where `MARK` is `mark`.
    """
    return [other for other in _processes() if other not in (pid, os.getpid()) and _related(other, pid, mark)]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _related(other: int, pid: int, mark: str) -> bool:
    try:
        state, _, group, session = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[:4]
        if state == "Z":
            return False
        if str(pid) in (group, session):
            return True
        return f"{MARK}={mark}".encode() in Path(f"/proc/{other}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def end_family(pid: int, mark: str, grace_s: float) -> None:
    """Wait `grace_s` seconds for the family of `pid` to end by itself, then kill what is left of it."""
    end = time.monotonic() + grace_s
    while family(pid, mark) and time.monotonic() < end:
        time.sleep(0.1)
    while members := family(pid, mark):
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.05)


def main(arguments: list[str]) -> None:
    """`guardian.py ACTOR_PID DRIVER_PID MARK`; a driver of 0 is on another machine."""
    actor, driver, mark = int(arguments[0]), int(arguments[1]), arguments[2]
    if os.fork():
        # No child of the actor's process: Ray ends those together with it.
        os._exit(0)
    try:
        watched = [os.pidfd_open(actor)]
        if driver:
            watched.append(os.pidfd_open(driver))
        select.select(watched, [], [])
    except ProcessLookupError:
        pass  # one of the two is gone already
    with suppress(ProcessLookupError):
        os.kill(actor, signal.SIGKILL)
    end_family(actor, mark, GRACE_S)


if __name__ == "__main__":
    main(sys.argv[1:])
