"""Numbers as people read them."""

from __future__ import annotations

GIB, MIB = 2**30, 2**20


def size(elements: int) -> str:
    """Elements: `7.62 G`, `81 M`, `1,056`."""
    for unit, name in ((10**9, "G"), (10**6, "M")):
        if elements >= unit:
            return f"{elements / unit:.3g} {name}"
    return f"{elements:,}"


def amount(count: float) -> str:
    """Bytes: `28.4 GiB`, `66 MiB`."""
    if abs(count) >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.0f} MiB" if abs(count) >= MIB else f"{count / 1024:.0f} KiB"


def share(ranks: int) -> str:
    """Of a division over ranks."""
    return f" / {ranks} ranks" if ranks > 1 else ""
