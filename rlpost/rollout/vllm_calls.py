"""Calls to an engine in other processes, each with a deadline on its progress.

vLLM's own client waits for an answer without end, and is not told when its engine process is
killed from outside. So its calls run on a thread, and the caller's thread watches the clock and
the processes.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from rlpost.errors import EngineLostError, RlpostError, RolloutError

T = TypeVar("T")
Beat = Callable[[], None]
"""Says that there was progress; resets the clock."""

_POLL_S = 0.2
_CLOSE_S = 10.0
_DEATH_S = 1.0
_SHARED_MEMORY = Path("/dev/shm")


class EngineCalls:
    """Runs calls one after the other on one thread, and ends the engine when one fails to progress.

    Args:
        name: of the engine, in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._before = set(multiprocessing.active_children())
        self._seen: dict[int | None, BaseProcess] = {}
        self._starting = True
        self._failure: RlpostError | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._work,), name=name, daemon=True).start()

    def run(self, what: str, work: Callable[[Beat], T], stall_s: float, setting: str) -> T:
        """The result of `work(beat)`, which must come, or beat, within `stall_s` of the last beat.

        Args:
            what: the call, in messages.
            setting: the configuration key of `stall_s`.

        Raises:
            EngineLostError: the engine's process died; or there was no progress, and the engine's
                processes were ended. So does every later call.
            Exception: what `work` raised.
        """
        if self._failure is not None:
            raise self._failure
        call = _Call(work)
        self._work.put(call)
        while not call.done.wait(_POLL_S):
            # The answer may have come between the two looks.
            if self._dead() and not call.done.wait(_POLL_S):
                self._fail(self._death(what))
            if time.monotonic() - call.last_beat > stall_s:
                self._fail(self._stall(what, stall_s, setting))
        if call.error is not None:
            # vLLM may report its end a moment before the process is gone.
            for process in self.processes():
                process.join(timeout=_DEATH_S)
            if self._dead():
                self._fail(self._death(what))
            raise call.error
        return call.result  # type: ignore[return-value]

    def started(self) -> None:
        """The engine is there: processes that appear from now on are another one's."""
        self.processes()
        self._starting = False

    def processes(self) -> list[BaseProcess]:
        """The engine processes that vLLM started here, dead ones too once they were seen alive."""
        for process in multiprocessing.active_children() if self._starting else ():
            if process not in self._before and process.name.startswith("EngineCore"):
                self._seen.setdefault(process.pid, process)
        return list(self._seen.values())

    def check(self) -> None:
        """Raise what `run` would raise if a process has died or a call has failed before."""
        if self._failure is not None:
            raise self._failure
        if self._dead():
            self._fail(self._death("between two calls"))

    def close(self) -> None:
        """End the engine's processes and the thread.

        The processes hold nothing worth saving, and asked politely they take ten seconds.
        """
        self._failure = self._failure or RolloutError(f"{self._name} is closed")
        self._work.put(None)
        for process in self.processes():
            below = _below(process.pid) if process.pid is not None else []
            process.kill()
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self.processes():
            process.join(timeout=_CLOSE_S)

    def _fail(self, error: RlpostError) -> None:
        self._failure = error
        self.close()
        raise error

    def _dead(self) -> list[BaseProcess]:
        return [process for process in self.processes() if not process.is_alive()]

    def _death(self, what: str) -> EngineLostError:
        process = self._dead()[0]
        code = process.exitcode
        ended = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        return EngineLostError(
            f"{self._name} died",
            where=f"{what}, process {process.pid}",
            found=ended,
            remedy="see the engine's output above; signal 9 is often the system short of memory",
        )

    def _stall(self, what: str, stall_s: float, setting: str) -> EngineLostError:
        pids = ", ".join(str(process.pid) for process in self.processes()) or "none"
        return EngineLostError(
            f"{self._name} made no progress",
            where=f"{what}, processes {pids}",
            found=f"nothing for {stall_s:g} s; the engine was ended",
            remedy=f"raise {setting} if the work is really that long",
        )


def unlink_shared_memory(process: int) -> None:
    """Take the names of the shared memory that vLLM's processes below `process` have mapped.

    They need no names any more once they are all running, and without one the memory is gone
    when they are, even if nobody is left to clean up after them.
    """
    for pid in (process, *_below(process)):
        for line in _read(Path(f"/proc/{pid}/maps")).splitlines():
            path = Path(line.rpartition(" ")[2])
            if path.parent == _SHARED_MEMORY and path.name.startswith(("psm_", "vllm_")):
                path.unlink(missing_ok=True)


def _below(process: int) -> list[int]:
    """The ids of all descendants of a process, its threads' children too."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    direct = [int(pid) for children in lists for pid in _read(children).split()]
    return direct + [pid for child in direct for pid in _below(child)]


def _read(file: Path) -> str:
    """What the system says of a process or thread; nothing of one that has ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


class _Call:
    def __init__(self, work: Callable[[Beat], object]) -> None:
        self._call = work
        self.done = threading.Event()
        self.result: object = None
        self.error: BaseException | None = None
        self.last_beat = time.monotonic()

    def __call__(self) -> None:
        self.beat()
        try:
            self.result = self._call(self.beat)
        except BaseException as error:
            self.error = error
        self.done.set()

    def beat(self) -> None:
        self.last_beat = time.monotonic()


def _serve(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := work.get()) is not None:
        call()
