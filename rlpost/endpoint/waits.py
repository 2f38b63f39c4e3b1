"""How long to wait before the next attempt."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_BACKOFF_S = 30.0


def next_wait(attempt: int, backoff_s: float, retry_after_s: float | None) -> float:
    """Seconds until the attempt after number `attempt`, counted from 0.

    What the server asks for, or an exponential back-off; with up to a quarter more, so that
    requests that failed together do not come back together.
    """
    if retry_after_s is not None:
        return retry_after_s * (1 + random.random() / 4)
    return min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(attempt, 20)) * (0.75 + random.random() / 4)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After header asks for, given as seconds or as a date; None without one."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            pass
    return None
