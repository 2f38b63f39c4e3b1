"""Processes that a test started, directly or not: those that have its mark in their environment."""

import time
from pathlib import Path


def processes(marker):
    """Ids of the processes whose environment holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_until_gone(marker, seconds=10, keep=0):
    """The processes that are left when there are no more than `keep`, or when the time is over."""
    until = time.monotonic() + seconds
    while len(found := processes(marker)) > keep and time.monotonic() < until:
        time.sleep(0.05)
    return found
