"""All checks, and the two ways to print them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rlpost.doctor.check import Check
from rlpost.doctor.machine import machine_checks
from rlpost.doctor.packages import package_checks
from rlpost.versions import OK


def examine(output: Path, path: list[str] | None = None) -> list[Check]:
    """Look at the packages and at the machine.

    Args:
        output: the directory that runs would be written to.
        path: folders whose metadata tells what is installed; `sys.path` without it.
    """
    return [*package_checks(path), *machine_checks(output)]


def fails(checks: Sequence[Check]) -> bool:
    """Whether something that rlpost cannot do without is missing or unusable."""
    return any(check.stops for check in checks)


def as_text(checks: Sequence[Check]) -> str:
    """A table for each group, and one line that sums up."""
    lines: list[str] = []
    for group in dict.fromkeys(check.group for check in checks):
        rows = [check for check in checks if check.group == group]
        head = (group, "here", "tested with" if group == "packages" else "expected")
        cells = [head, *((check.name, check.found, check.expected) for check in rows)]
        widths = [max(len(row[column]) for row in cells) + 2 for column in range(3)]
        verdicts = ["", *(_verdict(check) for check in rows)]
        for row, verdict in zip(cells, verdicts, strict=True):
            text = "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append((text + verdict).rstrip())
        lines.append("")
    return "\n".join([*lines, _summary(checks)])


def as_json(checks: Sequence[Check]) -> str:
    """The checks as a JSON object: `ok`, and one object for each check."""
    rows = [dataclasses.asdict(check) for check in checks]
    return json.dumps({"ok": not fails(checks), "checks": rows}, indent=2)


def _verdict(check: Check) -> str:
    return f"{check.verdict}: {check.note}" if check.note else check.verdict


def _summary(checks: Sequence[Check]) -> str:
    stopping = [check.name for check in checks if check.stops]
    if stopping:
        return f"rlpost cannot work here: {', '.join(stopping)}"
    others = [check.name for check in checks if check.verdict != OK]
    return "rlpost can work here" + (f"; limited: {', '.join(others)}" if others else "")
