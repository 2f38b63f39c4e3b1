"""Whether something answers at an address, within seconds whatever the network does."""

from __future__ import annotations

import errno
import socket
import threading

DEADLINE_S = 5.0


def why_not(host: str, port: int, deadline_s: float = DEADLINE_S) -> str | None:
    """None when a connection is taken; otherwise why it is not, in a few words.

    A thread asks, because the system's own look-up of a name knows no deadline.
    """
    answer: list[str | None] = []

    def ask() -> None:
        try:
            with socket.create_connection((host, port), timeout=deadline_s):
                answer.append(None)
        except OSError as error:
            answer.append(error.strerror or str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(deadline_s)
    return answer[0] if answer else f"no answer within {deadline_s:g} s"


def is_taken(port: int, host: str = "") -> bool:
    """Whether a port of this machine is in use, so that no server could take it; the empty host is all."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
