"""The two processes of a scoring slot; run as `python -m rlpost.scoring.worker FD`.

The *supervisor* imports the reward functions once and then only waits. On request it forks a *server*,
which scores samples for the driver over a socket of its own; asked again, it kills that server with all its
descendants and forks a fresh one within milliseconds. It dies when the driver does, and the server dies
with it.

Driver to server: pickled tasks, length-prefixed. Server to driver: JSON lines only, so that nothing a
reward function does can reach the driver as code. Of what a reward function prints, the last 4 kB are kept
for the notes of failures and the rest is read and forgotten: printing is no failure, and printing without end
is one when the deadline passes, like any other loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import functools
import gc
import json
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from rlpost.errors import RewardError
from rlpost.scoring.event_loop import THREAD_NAME, EventLoop
from rlpost.scoring.protocol import CONCURRENT, RewardFunction, load_reward
from rlpost.scoring.reference import user_traceback
from rlpost.scoring.sandbox.processes import JAILS
from rlpost.scoring.signatures import Sample
from rlpost.scoring.verdict import Verdict, failure

TASK_HEADER = struct.Struct("<QI")
"""Task number and length of the pickled (operation, reward index, what to do it with ...)."""
REPLACE, EXPLAIN = b"r", b"e"
"""What the driver asks a supervisor for: a fresh server; the same, and how the one before it ended."""
UP = b"up\n"
"""A server's first line. A deadline begins after it, so that forking on a busy machine costs no sample."""
OUTPUT_BYTES = 4096
EXIT_S = 0.1
"""Longest wait for the exit status of a server whose connection has ended."""
LEFT = (
    *("threads", "an alarm", "signal handlers", "other standard files or folder", "other standard streams"),
    *("child processes", "another recursion limit"),
)
"""In words, what `_process_state` looks at."""
POLL_S = 0.5
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(control: socket.socket) -> None:
    """Load the reward functions that the driver names, report on them, then serve until the driver goes."""
    driver = os.getppid()
    # An import may hang, and nothing else watches the driver meanwhile.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    with control.makefile("rb") as stream:
        configs, memory_bytes, deadline_s = pickle.load(stream)
    try:
        with warnings.catch_warnings(record=True) as caught:
            functions = [_load(SimpleNamespace(**config)) for config in configs]
        descriptions = [dataclasses.asdict(f.describe()) for f in functions]
    except RewardError as error:
        control.sendall(_line({"error": {"what": error.what, "details": error.details}}))
        return
    gc.freeze()
    # The signal would also be sent when merely the *thread* that started this process ends.
    _prctl(PR_SET_PDEATHSIG, 0)
    told = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    control.sendall(_line({"ready": descriptions, "warnings": told}))
    Supervisor(control, functions, driver, memory_bytes, deadline_s).run()


def _load(config: Any) -> RewardFunction:
    function = load_reward(config)
    try:
        function.warm_up()
    except BaseException as error:
        raise RewardError(
            "the reward's `warm_up` failed", where=config.function, found=user_traceback(error)
        ) from error
    return function


class Supervisor:
    """Forks, replaces and buries the server of one slot."""

    def __init__(
        self,
        control: socket.socket,
        functions: Sequence[RewardFunction],
        driver: int,
        memory_bytes: int,
        deadline_s: float,
    ) -> None:
        self.control = control
        self.functions = functions
        self.driver = driver
        self.memory_bytes = memory_bytes
        self.deadline_s = deadline_s
        self.server: int | None = None
        self.output, self.output_end = os.pipe()
        os.set_blocking(self.output, False)
        self.tail = b""

    def run(self) -> None:
        """Obey the driver: each byte on the control socket is a request."""
        try:
            while os.getppid() == self.driver:
                ready, _, _ = select.select([self.control, self.output], [], [], POLL_S)
                if self.output in ready:
                    self._drain()
                if self.control in ready:
                    request = self.control.recv(1)
                    if not request:
                        return
                    self._replace(explain=request == EXPLAIN)
        finally:
            self._bury()

    def _replace(self, *, explain: bool) -> None:
        ending = self._bury(explain=explain)
        output = self.tail.decode(errors="replace").strip()
        self.tail = b""
        ours, theirs = socket.socketpair()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _become_server(supervisor, self.output_end, (self.control, theirs))
                Server(ours, self.functions, self.memory_bytes, self.deadline_s).run()
            finally:
                os._exit(1)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self.server = pid
        ours.close()
        with theirs:
            socket.send_fds(
                self.control, [_line({"server": pid, "ending": ending, "output": output})], [theirs.fileno()]
            )

    def _bury(self, *, explain: bool = False) -> str:
        """Kill the server and whatever it started; how it ended, if that is asked."""
        if self.server is None:
            return ""
        ending = _ending(self.server) if explain else ""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)
        self.server = None
        _kill_children()
        self._drain()
        return ending

    def _drain(self) -> None:
        """Keep the end of what the server printed; a pipe's worth at a time, for it may print for ever."""
        with contextlib.suppress(BlockingIOError):
            self.tail = (self.tail + os.read(self.output, 1 << 16))[-OUTPUT_BYTES:]


class Server:
    """Runs reward functions, one task at a time, until it is killed."""

    def __init__(
        self,
        connection: socket.socket,
        functions: Sequence[RewardFunction],
        memory_bytes: int,
        deadline_s: float,
    ) -> None:
        self.connection = connection
        self.functions = functions
        self.loop = EventLoop(deadline_s, CONCURRENT) if any(f.concurrent for f in functions) else None
        self.unsound = False
        self.memory_bytes = memory_bytes
        _limit_memory(memory_bytes)
        self.pid = os.getpid()
        self.clean_state = _process_state()

    def run(self) -> NoReturn:
        """Answer tasks in order. Ends after a task that left threads, children, signal handlers or a broken
        event loop behind, or that found no more memory, so that nothing of it disturbs the next one."""
        stream = self.connection.makefile("rb")
        self.connection.sendall(UP)
        retire = False
        while not retire:
            header = stream.read(TASK_HEADER.size)
            if len(header) < TASK_HEADER.size:
                break
            number, length = TASK_HEADER.unpack(header)
            payload = stream.read(length)
            started = time.monotonic()
            try:
                value = self._perform(*pickle.loads(payload))
            except BaseException as error:
                value = failure(user_traceback(error))
                self.unsound = self.loop is not None
            if os.getpid() != self.pid:
                break  # the reward function forked, and this is its child
            left = self._left_behind()
            no_memory = _found_no_memory(value)
            retire = bool(left) or no_memory or self.unsound
            value = self._annotated(value, left, no_memory=no_memory)
            reply = {"task": number, "seconds": time.monotonic() - started, "retire": retire, "value": value}
            self.connection.sendall(_line(reply))
        os._exit(0)

    def _perform(self, operation: str, index: int, *content: Any) -> Any:
        function = self.functions[index]
        if operation == "batch":
            return self._batch(function, *content)
        if operation == "gold":
            return {"gold": function.gold_completion(content[2])}
        if operation == "selfcheck":
            cases = {"cases": function.selfcheck()}
            json.dumps(cases, allow_nan=False)
            return cases
        if operation == "case":
            function = dataclasses.replace(function, options={})
        return self._at_once(function, [content])[0][0] if function.concurrent else function(*content)

    def _batch(self, function: RewardFunction, samples: Sequence[Sample]) -> dict[str, Any]:
        """Verdicts and seconds of samples that are scored together."""
        if function.concurrent:
            results = self._at_once(function, samples)
            if any(_found_no_memory(verdict) for verdict, _ in results):
                raise MemoryError(
                    "a sample of the batch found no more"
                )  # alone, there may be enough for each
            return {"verdicts": [v for v, _ in results], "seconds": [s for _, s in results]}
        started = time.monotonic()
        verdicts = function.score_together(samples)
        return {"verdicts": verdicts, "seconds": [(time.monotonic() - started) / len(samples)] * len(samples)}

    def _at_once(self, function: RewardFunction, samples: Sequence[Sample]) -> list[tuple[Verdict, float]]:
        assert self.loop is not None
        results = self.loop.run([functools.partial(function.score, sample) for sample in samples])
        # A sample that was broken off may still hold one of the loop's threads.
        self.unsound = any(verdict["outcome"] == "timeout" for verdict, _ in results)
        return results

    def _left_behind(self) -> list[str]:
        state = _process_state()
        return [name for name, was, now in zip(LEFT, self.clean_state, state, strict=True) if was != now]

    def _annotated(self, value: dict[str, Any], left: Sequence[str], *, no_memory: bool) -> dict[str, Any]:
        """The verdict, or those of a batch, with what notes should say beside the function's own words."""
        if "verdicts" in value:
            verdicts = [self._annotated(verdict, left, no_memory=False) for verdict in value["verdicts"]]
            return {**value, "verdicts": verdicts}
        notes = [str(value.get("note") or "")]
        if no_memory:
            notes.append(f"a worker may take {self.memory_bytes / 2**30:g} GiB (scoring.memory_gib)")
        if left:
            notes.append(f"left behind, and ended with the worker process: {', '.join(left)}")
        return {**value, "note": "; ".join(filter(None, notes))} if "note" in value else value


def _found_no_memory(value: Mapping[str, Any]) -> bool:
    return str(value.get("note")).startswith("MemoryError")


def _become_server(supervisor: int, output_end: int, close: Sequence[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)
    for end in close:
        end.close()
    os.dup2(output_end, 1)
    os.dup2(output_end, 2)
    sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    faulthandler.enable(file=2)


def _process_state() -> tuple[Any, ...]:
    """What a reward function may change or leave behind that would disturb the samples after it."""
    alarm = signal.setitimer(signal.ITIMER_REAL, 0)[0] > 0
    handlers = tuple(
        signal.getsignal(s) for s in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    )
    files = tuple(_identity(place) for place in (0, 1, 2, "."))
    streams = tuple((id(s), getattr(s, "closed", True)) for s in (sys.stdout, sys.stderr))
    children = _has_children()
    threads = sum(not t.name.startswith(THREAD_NAME) for t in threading.enumerate())
    return threads, alarm, handlers, files, streams, children, sys.getrecursionlimit()


def _has_children() -> bool:
    """Whether there are child processes, running or ended, beside the sandbox's jails."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return not JAILS or not JAILS.issuperset(_children())


def _identity(place: int | str) -> int | None:
    try:
        return os.stat(place).st_ino  # noqa: PTH116
    except OSError:
        return None


def _limit_memory(more: int) -> None:
    """Allow `more` bytes of address space beyond what the imports already took."""
    statm = Path("/proc/self/statm")
    taken = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = taken + more if hard == resource.RLIM_INFINITY else min(hard, taken + more)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _kill_children() -> None:
    """Kill and reap every child left, adopted ones too, for at most a second (a fork bomb may outrun it)."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _children() -> list[int]:
    pids = []
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in tasks.read_text().split()]
    return pids


def _ending(pid: int) -> str:
    """How a server whose connection has ended did end, without reaping it."""
    until = time.monotonic() + EXIT_S
    while (end := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        if time.monotonic() > until:
            return (
                "the worker process lost its connection: files that are not the reward function's were used"
            )
        time.sleep(0.001)
    if end.si_code == os.CLD_EXITED:
        return f"the worker process ended with exit code {end.si_status}"
    name = signal.Signals(end.si_status).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the worker process was killed by {name}{hint}"


def _line(value: Any) -> bytes:
    return json.dumps(value, default=str).encode() + b"\n"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
