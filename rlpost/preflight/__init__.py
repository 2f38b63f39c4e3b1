"""What can be known of a recipe on its machines without loading anything heavy: cheap enough for every start.

`rlpost check` shows all of it beside what trying data and rewards finds; `rlpost train` stops at its errors.
"""

from rlpost.preflight.cheap import cheap_findings, known_facts, memory_text, stop_at_errors
from rlpost.preflight.finding import ERROR, OK, UNTRIED, WARNING, Finding, Level
from rlpost.preflight.hub import Hub, Named

__all__ = [
    "ERROR",
    "OK",
    "UNTRIED",
    "WARNING",
    "Finding",
    "Hub",
    "Level",
    "Named",
    "cheap_findings",
    "known_facts",
    "memory_text",
    "stop_at_errors",
]
