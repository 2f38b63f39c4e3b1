"""A request to stop that was swallowed on its way is raised again after the step.

Python raises a signal's exception wherever the main thread happens to be. In a destructor or a callback of
a library it is printed and forgotten, and a run would go on as if nobody had asked.
"""

from __future__ import annotations

_asked: BaseException | None = None


def ask_to_stop(error: BaseException) -> None:
    """Remember what a signal handler is about to raise."""
    global _asked
    _asked = error


def forget() -> None:
    """It was heard."""
    global _asked
    _asked = None


def raise_if_asked() -> None:
    """Raise what was remembered, if anything."""
    if _asked is not None:
        raise _asked
