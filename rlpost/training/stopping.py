"""How a run is told to stop, and hears of it where nothing is lost.

A *notice* (SIGTERM, SIGUSR1, the file RUN_DIR/stop) asks a run to save a checkpoint and to end. It is heard
where the run's state is that of the last finished step: `raise_if_asked`, called there, raises `StopNoticed`.
In between, a notice only waits; where signals have handlers, not longer than `checkpoint.grace_s`.

A request to end at once is raised by the signal's handler. Python raises it wherever the main thread happens
to be: in a destructor or a callback of a library it is printed and forgotten, and a run would go on as if
nobody had asked. So it is raised again at the next `raise_if_asked`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ECHO_S = 2.0
"""The same notice may come twice: `timeout` and others give a signal to a process and to its group."""


class StopNoticed(BaseException):
    """A notice was heard; the state is that of the last finished step. No `except Exception` takes it."""


class Stopped(BaseException):
    """The run has ended because it was told to, and can go on.

    Attributes:
        reason: the notice.
        step: the last finished one; there is a checkpoint of it unless it is 0.
        directory: of the run.
    """

    def __init__(self, reason: str, step: int, directory: Path) -> None:
        super().__init__(f"stopped by {reason}, {describe_saved(step)}")
        self.reason, self.step, self.directory = reason, step, directory


def describe_saved(step: int) -> str:
    """What there is to go on from."""
    return f"saved after step {step}" if step else "before the first step was done"


@dataclass
class _Asked:
    """What this process was asked for.

    Attributes:
        error: to end at once, as it was raised.
        reason: of the notice; "" without one.
        at: when that came, by `time.monotonic`.
        hearing: whether a run is at work that hears notices.
        over: whether it has ended as it was told, and is being closed.
        at_once: whether a notice may be raised from a signal's handler now.
        grace_s: how long the run may take over it.
        end: ends this process at once; None where nobody handles signals.
        timer: calls it.
    """

    error: BaseException | None = None
    reason: str = ""
    at: float = 0.0
    hearing: bool = False
    over: bool = False
    at_once: bool = False
    grace_s: float = 0.0
    end: Callable[[str], None] | None = None
    timer: threading.Timer | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


_asked = _Asked()


def ask_to_stop(error: BaseException) -> None:
    """Remember what a signal handler is about to raise."""
    _asked.error = error


def forget() -> None:
    """It was heard."""
    _quiet()
    _asked.error, _asked.end, _asked.over = None, None, False


def end_with(end: Callable[[str], None] | None) -> None:
    """What ends this process at once, given the reason, when a notice has waited for too long."""
    _asked.end = end


def notice(reason: str) -> bool:
    """Tell the run to stop; from a signal's handler or from another thread.

    Returns:
        whether it hears that; False when none is at work, and when it was told before: then it is to end now.
    """
    with _asked.lock:
        if not _asked.hearing:
            return _asked.over
        if _asked.reason:
            return time.monotonic() - _asked.at < ECHO_S
        _asked.reason, _asked.at = reason, time.monotonic()
        if _asked.end is not None:
            late = f"{reason}, {_asked.grace_s:g} s ago (checkpoint.grace_s), without a checkpoint since"
            _asked.timer = threading.Timer(_asked.grace_s, _asked.end, [late])
            _asked.timer.daemon = True
            _asked.timer.start()
            _tell(
                f"\ntold to stop by {reason}: an update under way is finished, what is being sampled is "
                f"given up, a checkpoint saved, within {_asked.grace_s:g} s; once more ends the run at once\n"
            )
        return True


def notice_from_outside(reason: str) -> bool:
    """As `notice`, from another thread; a process that is no run yet is ended at once.

    Returns:
        whether it need not be told again.
    """
    if notice(reason):
        return True
    if _asked.end is None:
        return False  # it will hear of it when it is at work
    _asked.end(reason)
    return True


def noticed() -> str:
    """The reason of the notice that waits; "" without one."""
    return _asked.reason


def raise_at_once() -> None:
    """From a signal's handler, after `notice`: raise it where that is allowed."""
    if _asked.at_once and _asked.reason:
        _asked.at_once = False  # an echo must not disturb what follows
        raise StopNoticed(_asked.reason)


def raise_if_asked() -> None:
    """Raise what was asked for and not heard; to be called where the state is that of a finished step."""
    if _asked.error is not None:
        raise _asked.error
    if _asked.hearing and _asked.reason:
        raise StopNoticed(_asked.reason)


@contextmanager
def hearing(grace_s: float) -> Iterator[None]:
    """While a run hears notices.

    Args:
        grace_s: from a notice until the process ends, whatever it does then.
    """
    _asked.hearing, _asked.grace_s = True, grace_s
    try:
        yield
    except Stopped:
        _asked.over = True
        raise
    finally:
        _quiet()


@contextmanager
def at_once() -> Iterator[None]:
    """A wait that a notice ends from outside; nothing within it must need an orderly end."""
    _asked.at_once = True
    try:
        raise_if_asked()
        yield
    finally:
        _asked.at_once = False


def _quiet() -> None:
    """No notice waits, and none is heard."""
    with _asked.lock:
        _asked.hearing, _asked.reason = False, ""
        if _asked.timer is not None:
            _asked.timer.cancel()
            _asked.timer = None


def _tell(text: str) -> None:
    # Not by sys.stderr: a handler may have interrupted a write to it.
    os.write(2, text.encode())
