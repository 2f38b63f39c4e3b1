"""What ends with a process: everything that it started. Runs as a script beside each actor and the driver.

A guardian waits until its process ends, however that happens, and then ends what is left of its family.
It imports nothing but the standard library, so that it starts in milliseconds.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

MARK = "RLPOST_ACTOR"
"""The environment variable that an actor gives to what it starts."""
GRACE_S = 3.0
"""For those who notice by themselves: they may have names in shared memory to remove."""
KILL_S = 10.0
"""For the kernel to end what was killed: one that waits for a broken device may never end."""


def actor_family(pid: int, mark: str) -> list[int]:
    """What an actor started and still lives: known by the session, or by `MARK` where one has left that.

    Args:
        pid: the actor's process, leader of the session; need not live, and is left out.
    """
    return _search(partial(_is_of_actor, leader=str(pid), mark=f"{MARK}={mark}".encode()), pid)


def folder_writers(folder: str) -> list[int]:
    """Living processes with a file below `folder` open to write, as all of a Ray session have their logs."""
    return _search(partial(_writes, prefix=folder.rstrip("/") + "/"))


def _search(belongs: Callable[[int], bool], but: int = 0) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    found = []
    for pid in pids:
        with suppress(OSError):  # it has ended, or is another user's
            if pid not in (but, os.getpid()) and belongs(pid):
                found.append(pid)
    return found


def _is_of_actor(pid: int, leader: str, mark: bytes) -> bool:
    state, _, group, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    if state == "Z":
        return False
    return leader in (group, session) or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def _writes(pid: int, prefix: str) -> bool:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if str(entry.readlink()).startswith(prefix):
                flags = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().partition("flags:")[2].split()[0]
                if int(flags, 8) & (os.O_WRONLY | os.O_RDWR):
                    return True
    return False


def end_family(find: Callable[[], list[int]], grace_s: float = GRACE_S) -> None:
    """Wait `grace_s` seconds for processes to end by themselves, then kill those that are left."""
    end = time.monotonic() + grace_s
    while find() and time.monotonic() < end:
        time.sleep(0.1)
    end = time.monotonic() + KILL_S
    while (pids := find()) and time.monotonic() < end:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def guard_actor(driver: int, mark: str) -> None:
    """Let this process and its family end together, and with the driver; 0 is one on another machine."""
    # Started through a process that ends at once: Ray ends the children of its workers with them.
    _start("actor", str(os.getpid()), mark, str(driver)).wait()


def guard_driver(folder: str) -> subprocess.Popen[bytes]:
    """Let those who write to a folder end with this process."""
    return _start("driver", str(os.getpid()), folder)


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    # No pipe of the process may stay open for it, and no file that would make it one of the family.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def wait_for_end(pids: list[int]) -> None:
    """Return when one of the processes has ended."""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid) for pid in pids], [], [])


def main(arguments: list[str]) -> None:
    """`guardian.py actor PID MARK DRIVER`, or `guardian.py driver PID FOLDER`."""
    kind, pid, known_by = arguments[0], int(arguments[1]), arguments[2]
    if kind == "driver":
        wait_for_end([pid])
        end_family(partial(folder_writers, known_by))
        return
    if os.fork():
        os._exit(0)
    driver = int(arguments[3])
    wait_for_end([pid, driver] if driver else [pid])
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    end_family(partial(actor_family, pid, known_by))


if __name__ == "__main__":
    main(sys.argv[1:])
