"""The head of a Ray cluster on another machine: whether it is still there.

Without its head a cluster is of no use. Ray notices after minutes, and then ends the driver at once.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time

from rlpost.errors import RlpostError

HEAD_S = 40.0
"""Longest time that a head may be out of reach: it may be started again, but Ray ends the driver itself."""
ASK_S = 3.0


class HeadWatch:
    """Asks on a thread of its own, until the process ends.

    Args:
        address: "host:port" of the head's own server.
        name: of its machine.
        deadline_s: longest time that it may be out of reach.

    Attributes:
        lost: that it is gone was said.
    """

    def __init__(self, address: str, name: str, deadline_s: float) -> None:
        self.address, self.name, self.deadline_s = address, name, deadline_s
        self.lost = False
        self._silent_since: float | None = None
        threading.Thread(target=self._ask, name="head watch", daemon=True).start()

    def check(self) -> None:
        """Say once that it is gone.

        Raises:
            RlpostError: it could not be reached for `deadline_s`.
        """
        since = self._silent_since
        if self.lost or since is None or time.monotonic() - since < self.deadline_s:
            return
        self.lost = True
        raise RlpostError(
            f"{self.name}, the head of the Ray cluster, is gone",
            where=self.address,
            found=f"out of reach for {time.monotonic() - since:.0f} s",
            remedy="start the cluster again, and go on from the last checkpoint with --resume",
        )

    def _ask(self) -> None:
        host, _, port = self.address.rpartition(":")
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=ASK_S).close()
                self._silent_since = None
            except OSError:
                self._silent_since = self._silent_since or time.monotonic()
            time.sleep(ASK_S)


def watch_head(hang_deadline_s: float) -> HeadWatch | None:
    """For the cluster that was joined; None where its head is this machine.

    Args:
        hang_deadline_s: after which actors are lost: that the head is gone must be known before.
    """
    import ray

    address: str = ray.get_runtime_context().gcs_address
    host = address.rpartition(":")[0]
    if host == ray.util.get_node_ip_address():
        return None
    names = [n["NodeManagerHostname"] for n in ray.nodes() if n["NodeManagerAddress"] == host]
    return HeadWatch(address, names[0] if names else host, min(HEAD_S, hang_deadline_s / 2))


def leave_without_head(kept: object) -> None:
    """Once this process has said its last word, end it without Ray, which would wait for the head.

    Args:
        kept: what ends Ray when nobody has it any more.
    """

    def leave(kept: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(RlpostError.exit_status)

    atexit.register(leave, kept)
