"""What passes between the driver, a slot's supervisor and its server."""

from __future__ import annotations

import json
import struct
from typing import Any

TASK_HEADER = struct.Struct("<QI")
"""Task number and length of the pickled (operation, reward index, what to do it with ...)."""
REPLACE, EXPLAIN = b"r", b"e"
"""What the driver asks a supervisor for: a fresh server; the same, and how the one before it ended."""
UP = b"up\n"
"""A server's first line. A deadline begins after it, so that forking on a busy machine costs no sample."""


def line(value: Any) -> bytes:
    """One message to the driver."""
    return json.dumps(value, default=str).encode() + b"\n"
