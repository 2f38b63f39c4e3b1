"""What runs in an actor's process around a member: its calls, its pulse, its log, its guardian."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rlpost.cluster import guardian
from rlpost.cluster.process import machine
from rlpost.errors import RlpostError, UserError

PACKAGE = Path(__file__).parents[1]
FRAMES = 4
SHARED_S = 60.0
"""For a file that one machine has written to be seen on another: NFS remembers for that long."""


@dataclass(frozen=True)
class HostSettings:
    """What a host must know before anything else.

    Attributes:
        log: the file for standard output and error; None leaves them as they are.
        driver: the driver's `machine()` and process id.
        accelerators: ids of those that the member may see; None leaves it to Ray.
        marker: a file of the run directory that all machines of the run must see.
    """

    role: str
    member: int
    log: Path | None
    driver: tuple[str, int]
    accelerators: tuple[str, ...] | None = None
    marker: Path | None = None


@dataclass(frozen=True)
class HostFacts:
    """Where a host lives; `mark` is in the environment of all that it starts."""

    host: str
    machine: str
    pid: int
    mark: str
    log: Path | None


@dataclass(frozen=True)
class Pulse:
    """What a member does at the moment.

    Attributes:
        threads: of those that run a call or code of this package, the call or name, and the innermost frames.
    """

    threads: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Failure:
    """Sent in the place of an answer: the error, and the traceback, which does not travel with it."""

    error: RlpostError
    traceback: str


class MemberHost:
    """Owns one member. `build` and `run` come one at a time, on one thread, `run_beside` on another one;
    the others come at any time."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.mark = uuid.uuid4().hex
        self.member: Any = None
        self._busy: dict[int, str] = {}
        # Until the member is there: imports make objects that stay, and looking for garbage among them takes
        # a fifth of the time.
        gc.disable()
        self._refusal = _check_shared(settings.marker)
        log = _redirect(settings) if settings.log and not self._refusal else _log_of_stderr()
        faulthandler.enable(file=sys.__stderr__ or 2, all_threads=True)
        # Children are found by their session, or by this variable where they leave it.
        with suppress(PermissionError):
            os.setsid()
        os.environ[guardian.MARK] = self.mark
        keep_blocked()
        if settings.accelerators is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(settings.accelerators)
        self._facts = HostFacts(socket.gethostname(), machine(), os.getpid(), self.mark, log)
        driver_machine, driver = settings.driver
        guardian.guard_actor(driver if driver_machine == self._facts.machine else 0, self.mark)

    def build(self, make: Callable[..., Any], arguments: Mapping[str, object]) -> Failure | None:
        """Make the member."""
        if self._refusal is not None:
            return Failure(self._refusal, "")

        def construct() -> None:
            try:
                self.member = make(**arguments)
            finally:
                gc.enable()

        return self._call("start", construct)

    def run(self, method: str, *args: object) -> Any:
        """The member's answer, or a `Failure`."""
        return self._call(method, lambda: getattr(self.member, method)(*args))

    def run_beside(self, method: str, *args: object) -> Any:
        """As `run`, for calls that need not wait for others."""
        return self._call(method, lambda: getattr(self.member, method)(*args))

    def facts(self) -> HostFacts:
        """Where this is."""
        return self._facts

    def ping(self) -> Pulse:
        """Answered also while a call runs."""
        busy = dict(self._busy)
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = {i: f for i, f in sys._current_frames().items() if i != threading.get_ident()}
        calling = [(busy[ident], innermost(frames[ident])) for ident in busy if ident in frames]
        others = [
            (f"thread {names.get(ident, ident)}", innermost(frame))
            for ident, frame in frames.items()
            if ident not in busy and any(ours(summary) for summary in traceback.extract_stack(frame))
        ]
        return Pulse(tuple(calling + others))

    def stacks(self) -> str:
        """Every Python thread's stack, as text."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        parts = []
        for ident, frame in sys._current_frames().items():
            parts.append(f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
        return "\n".join(parts)

    def _call(self, method: str, work: Callable[[], Any]) -> Any:
        self._busy[threading.get_ident()] = method
        try:
            return work()
        # An exit would end the process without a word to the driver.
        except (Exception, SystemExit) as error:
            return Failure(self._as_ours(error, method), traceback.format_exc())
        finally:
            del self._busy[threading.get_ident()]

    def _as_ours(self, error: BaseException, method: str) -> RlpostError:
        if isinstance(error, RlpostError):
            return error
        return RlpostError(
            f"{self.settings.role} {self.settings.member} failed",
            where=f"{method}, on {self._facts.host}, process {self._facts.pid}",
            found=": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]),
        )


def _check_shared(marker: Path | None) -> UserError | None:
    """Wait for a file that the driver has written; why there is none, at the deadline."""
    end = time.monotonic() + SHARED_S
    while marker is not None and not marker.exists():
        if time.monotonic() >= end:
            return UserError(
                "a machine of the cluster does not see the run directory",
                where=f"{marker.parent.parent}, on {socket.gethostname()}",
                found=f"nothing of this run there, for {SHARED_S:g} s",
                needed="a folder that all machines of a run share, at the same path",
                remedy="name one with --output, or with launch.output, on NFS or another shared file system",
            )
        with suppress(OSError):  # on NFS, what is not there is remembered until its folder is read
            next(marker.parent.iterdir(), None)
        time.sleep(0.2)
    return None


def keep_blocked() -> None:
    """What a launcher has blocked stays so, in this process and in all that it starts.

    Schedulers signal every process of a job at once, and only the driver is to hear of it. But the first use
    of multiprocessing unblocks SIGTERM, when the tracker of resources is started.
    """
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if signal.SIGTERM in before:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def innermost(frame: FrameType, count: int = FRAMES) -> tuple[str, ...]:
    """The innermost frames of this package, then the innermost of all; of any code where none is of ours."""
    summaries = list(traceback.extract_stack(frame))
    kept = [s for s in summaries[:-1] if ours(s)] or summaries[:-1]
    return tuple(f"{_short(s.filename)}:{s.lineno} {s.name}" for s in [*kept, summaries[-1]][-count:])


def ours(summary: traceback.FrameSummary) -> bool:
    """Whether a frame is of this package, without the machinery around every call."""
    return Path(summary.filename).is_relative_to(PACKAGE) and summary.filename != __file__


def _short(filename: str) -> str:
    path = Path(filename)
    roots = [root for root in (str(PACKAGE.parent), *sys.path) if root and path.is_relative_to(root)]
    return str(path.relative_to(max(roots, key=len))) if roots else filename


def _redirect(settings: HostSettings) -> Path:
    """Send this process's output, and that of its children, to the log."""
    path = Path(settings.log)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    name = f"{settings.role} {settings.member}"
    os.write(1, f"--- {now} {name} on {socket.gethostname()}, process {os.getpid()}\n".encode())
    return path


def _log_of_stderr() -> Path | None:
    try:
        path = Path("/proc/self/fd/2").readlink()
    except OSError:
        return None
    return path if path.is_file() else None
