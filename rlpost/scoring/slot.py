"""The driver's end of one scoring slot: start it, feed it, judge its deadlines, replace its server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from rlpost.errors import RewardError, ScoringError
from rlpost.scoring.task import Batch, Reply, Task
from rlpost.scoring.wire import EXPLAIN, REPLACE, UP

if TYPE_CHECKING:
    from rlpost.config.schema import RewardConfig

START_DEADLINE_S = 120.0
REPLACE_DEADLINE_S = 30.0
MAX_WINDOW = 32
MAX_REPLY_BYTES = 1 << 20
MAX_FAILED_STARTS = 3
SUPERVISOR_ENDED = "the worker's supervisor process ended"


class State(Enum):
    """Of a slot: no process; importing; waiting until a fresh server is up; ready for tasks."""

    DOWN = 0
    STARTING = 1
    REPLACING = 2
    SERVING = 3


class Flight(NamedTuple):
    """A task that was sent: its number, its samples, and the seconds that it may take."""

    number: int
    samples: int
    allowance_s: float


class Slot:
    """One supervisor process and its present server.

    Tasks are sent ahead in a window that grows with every answer and falls back to one after a failure, so
    that round trips cost little in quiet times and a bad sample holds up few others. The deadline is still
    each task's own: it runs from the moment the server could begin it, when the answer before it arrived.
    """

    def __init__(self, configs: Sequence[RewardConfig], deadline_s: float, memory_bytes: int) -> None:
        # Plain data: a worker process has no need of the configuration's library.
        self.configs = [c.model_dump(include={"function", "name", "options", "batch_size"}) for c in configs]
        self.deadline_s = deadline_s
        self.memory_bytes = memory_bytes
        self.state = State.DOWN
        self.descriptions: list[dict[str, Any]] | None = None
        self.flying: deque[Flight] = deque()
        self.load = 0  # samples in `flying`
        self._returned: list[int] = []
        self.window = 1
        self._failed_starts = 0
        self._since = 0.0
        self._lost: Reply | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._server: int | None = None
        self._control: socket.socket | None = None
        self._data: socket.socket | None = None
        self._control_buffer = b""
        self._inbox, self._outbox = bytearray(), bytearray()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def start(self) -> None:
        """Begin to start the supervisor; `STARTING` ends when it has imported the reward functions."""
        self.hang_up()
        self._join()
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise ScoringError(
                f"a scoring worker died {self._failed_starts} times in a row",
                found=self._log_tail() or "no output",
            )
        self._failed_starts += 1
        self._log.close()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)  # noqa: PTH109
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rlpost.scoring.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the driver, which then closes this process
                env={
                    **os.environ,
                    "PYTHONPATH": path,
                    "PYTHONHASHSEED": "0",
                    # A reward with a time limit of its own must know the one that it has to stay within.
                    "RLPOST_SCORING_DEADLINE_S": str(self.deadline_s),
                },
            )
        self._control = ours
        self._control_buffer = b""
        with contextlib.suppress(OSError):  # when it has already died, reading says so
            ours.sendall(pickle.dumps((self.configs, self.memory_bytes, self.deadline_s)))
        ours.setblocking(False)
        self._enter(State.STARTING)

    def replace(self, request: bytes = REPLACE) -> None:
        """Ask the supervisor to kill its server and fork a fresh one."""
        self._close_data()
        self.window = 1
        self._enter(State.REPLACING)
        with contextlib.suppress(OSError):  # when the supervisor has died, reading says so
            self._control.send(request)

    def hang_up(self) -> None:
        """Tell the supervisor to end its server with all descendants, and itself; do not wait."""
        self._close_data()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None and self.state is State.STARTING:
            self._process.kill()  # it is inside an import and does not listen

    def kill(self) -> None:
        """End all processes of this slot and forget its tasks."""
        self.hang_up()
        self._join()
        self._returned = []
        self._lost = None
        self.state = State.DOWN

    def _join(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=5)
        if self._process.returncode != 0 and self._server is not None:
            # It could not clean up; its server leads a process group of its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._server, signal.SIGKILL)
        self._process = self._server = None

    def submit(self, number: int, task: Task | Batch) -> None:
        """Queue a task for the server; `write` sends it."""
        if not self.flying:
            self._since = time.monotonic()
        self.flying.append(Flight(number, task.samples(), task.allowance_s(self.deadline_s)))
        self.load += task.samples()
        self._outbox += task.encode(number)

    def readers(self) -> list[socket.socket]:
        return [s for s in (self._control, self._data) if s is not None]

    def writers(self) -> list[socket.socket]:
        return [self._data] if self._data is not None and self._outbox else []

    def write(self) -> None:
        """Send what the server's socket takes now."""
        if self._data is None:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            sent = self._data.send(bytes(self._outbox[: 1 << 18]))
            del self._outbox[:sent]

    def read(self) -> list[Reply]:
        """Take in whatever has arrived; the tasks that ended, in order."""
        replies = self._read_data()
        return replies + self._read_control()

    def judge(self, now: float) -> list[Reply]:
        """Enforce the deadlines that have passed; the task that ran out of time, if any."""
        waited = now - self._since
        if self.state is State.SERVING and self.flying and waited > self.flying[0].allowance_s:
            number, _, allowance = self._land()
            self._lost = Reply(number, None, waited, "timeout", f"no score within {allowance:g} s")
            self.replace()
            return []
        if self.state is State.REPLACING and waited > REPLACE_DEADLINE_S:
            lost, self._lost = self._lost, None
            self.start()
            return [lost] if lost else []
        if self.state is State.STARTING and waited > START_DEADLINE_S:
            raise ScoringError(
                "a scoring worker did not start in time",
                found=f"no sign after {waited:.0f} s; {self._log_tail() or 'no output'}",
                needed=f"the reward files import, and `warm_up` ends, within {START_DEADLINE_S:.0f} s",
            )
        return []

    def next_deadline(self) -> float:
        """When `judge` may next have something to do (`time.monotonic`)."""
        if self.state is State.SERVING:
            return self._since + self.flying[0].allowance_s if self.flying else float("inf")
        limits = {
            State.STARTING: START_DEADLINE_S,
            State.REPLACING: REPLACE_DEADLINE_S,
            State.DOWN: float("inf"),
        }
        return self._since + limits[self.state]

    def describe(self) -> str | None:
        """What it does, for people; None when it has nothing to do."""
        since = f"since {time.monotonic() - self._since:.0f} s"
        if self.state is State.SERVING and self.flying:
            _, samples, allowance = self.flying[0]
            what = "one sample" if samples == 1 else f"{samples} samples"
            return f"(process {self._server}): at {what} {since}, of at most {allowance:g} s"
        return f"is being started {since}" if self.state in (State.STARTING, State.REPLACING) else None

    def take_back(self) -> list[int]:
        """Tasks that were sent ahead to a server that is gone: to be given to another."""
        numbers, self._returned = self._returned, []
        return numbers

    def _land(self) -> Flight:
        """The task in front, which has ended."""
        flight = self.flying.popleft()
        self.load -= flight.samples
        return flight

    def _read_data(self) -> list[Reply]:
        if self._data is None:
            return []
        replies: list[Reply] = []
        ended = False
        try:
            while chunk := self._data.recv(1 << 16):
                self._inbox += chunk
            ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            ended = True
        *lines, rest = self._inbox.split(b"\n")
        self._inbox = bytearray(rest)
        for line in lines:
            if self.state is State.REPLACING and line + b"\n" == UP:
                self._failed_starts = 0
                self._enter(State.SERVING)
                continue
            reply = self._parse(line)
            if reply is None:
                ended = True
                break
            replies.append(reply)
            if self.state is not State.SERVING:
                return replies
        if ended or len(self._inbox) > MAX_REPLY_BYTES * max(1, self.load):
            self._lose_server()
        return replies

    def _lose_server(self) -> None:
        if self.state is State.REPLACING:
            self.start()  # the server ended before it had a task: not a reward function's doing
            return
        if self.flying:
            seconds = time.monotonic() - self._since
            number = self._land().number
            self._lost = Reply(number, None, seconds, "error", "the worker process ended")
        self.replace(EXPLAIN)

    def _parse(self, line: bytes) -> Reply | None:
        """The answer to the task in front; None when the line is not that."""
        try:
            message = json.loads(line)
            number, value, seconds = message["task"], message["value"], float(message["seconds"])
            if not self.flying or number != self.flying[0].number or not isinstance(value, dict):
                return None
        except (ValueError, KeyError, TypeError):
            return None
        self._land()
        self._since = time.monotonic()
        self.window = min(MAX_WINDOW, 2 * self.window)
        if message.get("retire"):
            self.replace()
        return Reply(number, value, seconds)

    def _read_control(self) -> list[Reply]:
        if self._control is None:
            return []
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 1)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data, fds = b"", []
        if fds:
            self._close_data()
            self._data = socket.socket(fileno=fds[0])
            self._data.setblocking(False)
        self._control_buffer += data
        if not data:
            return self._supervisor_died()
        if not self._control_buffer.endswith(b"\n"):
            return []
        message, self._control_buffer = json.loads(self._control_buffer), b""
        return self._obey(message)

    def _obey(self, message: dict[str, Any]) -> list[Reply]:
        if "error" in message:
            error = message["error"]
            self.kill()
            raise RewardError(error["what"], **error["details"])
        if "ready" in message:
            self.descriptions = message["ready"]
            for text in message["warnings"]:
                warnings.warn(text, stacklevel=2)
            self.replace()
            return []
        self._server = message["server"]
        self._enter(State.REPLACING)
        lost, self._lost = self._lost, None
        if lost is None:
            return []
        note = lost.note if lost.failed == "timeout" else message["ending"]
        output = f"; the process's last output: {message['output']}" if message["output"] else ""
        return [dataclasses.replace(lost, note=note + output)]

    def _supervisor_died(self) -> list[Reply]:
        lost, self._lost = self._lost, None
        if self.state is State.SERVING and self.flying:
            seconds = time.monotonic() - self._since
            number = self._land().number
            lost = Reply(number, None, seconds, "error", SUPERVISOR_ENDED)
        elif lost is not None and lost.failed == "error":
            lost = dataclasses.replace(lost, note=SUPERVISOR_ENDED)  # its server's end was noticed first
        self.start()
        return [lost] if lost else []

    def _enter(self, state: State) -> None:
        self.state = state
        self._since = time.monotonic()

    def _close_data(self) -> None:
        # At once: a fresh server may be there before anyone asks what the old one left undone.
        self._returned += [flight.number for flight in self.flying]
        self.flying.clear()
        self.load = 0
        if self._data is not None:
            self._data.close()
        self._data = None
        self._inbox = bytearray()
        self._outbox = bytearray()

    def _log_tail(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        return self._log.read().decode(errors="replace").strip()
