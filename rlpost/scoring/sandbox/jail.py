"""The outer end of one jail: it starts it, hands it programs, and ends it when it does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import asdict
from typing import Any

from rlpost.errors import ScoringError
from rlpost.scoring.sandbox.execution import Execution, Limits, Outcome
from rlpost.scoring.sandbox.forms import ENVIRONMENT, Form, command
from rlpost.scoring.sandbox.inside.zygote import LENGTH
from rlpost.scoring.sandbox.processes import JAILS

START_DEADLINE_S = 30.0
GRACE_S = 5.0
"""Beyond a program's own wall time: ending all it started, and sending what it printed."""


class JailLostError(Exception):
    """The jail's process ended, or does not answer."""


class Jail:
    """One warm process behind fences, which runs one program after the other.

    Raises:
        ScoringError: it does not start; says why.
    """

    def __init__(self, form: Form, tmp_bytes: int) -> None:
        self.form = form
        self.tmp_bytes = tmp_bytes
        self.owner = os.getpid()
        self._folder = tempfile.mkdtemp(prefix="rlpost-jail-") if form == "limits" else None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._inner: int | None = None
        self._control, theirs = socket.socketpair()
        info, info_end = os.pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command(form, theirs.fileno(), info_end, self._folder or "/tmp", tmp_bytes),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=[theirs.fileno(), info_end],
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                )
        finally:
            os.close(info_end)
        JAILS.add(self._process.pid)
        try:
            self.fences = self._first_word()
            self._inner = _pidfd_of_child(info) if form == "bubblewrap" else None
        except BaseException:
            self.close()
            raise
        finally:
            os.close(info)

    def run(self, request: dict[str, Any], limits: Limits) -> tuple[Execution, bool]:
        """Run one program; also whether the jail is as good as new after it.

        Raises:
            JailLostError: the jail ended under the program, or did not answer in time.
        """
        try:
            body = json.dumps({**request, "limits": asdict(limits)}).encode()
            deadline = time.monotonic() + limits.wall_s + GRACE_S
            self._control.settimeout(GRACE_S)
            self._control.sendall(LENGTH.pack(len(body)) + body)
            reply = self._receive(deadline)
        except (OSError, ValueError) as error:
            raise JailLostError("\n".join(filter(None, (str(error), self._log_tail())))) from error
        try:
            return Execution.from_reply(reply), not reply["damaged"]
        except (KeyError, ValueError, TypeError) as error:
            raise JailLostError(f"an answer that is none: {error}") from error

    def close(self) -> None:
        """End the jail and everything in it."""
        self._control.close()
        if os.getpid() == self.owner:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            JAILS.discard(self._process.pid)
            if self._folder is not None:
                # No depth of folders stops it, as it would stop Python's own.
                subprocess.run(["rm", "-rf", "--", self._folder], check=False, timeout=60)
        if self._inner is not None:
            os.close(self._inner)
            self._inner = None
        self._log.close()

    def kill(self) -> None:
        """Kill the jail's first process, and with it all others; `close` tidies up."""
        # Bubblewrap's outer process may not kill the inner one when that has become another user.
        if self._inner is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _first_word(self) -> dict[str, bool]:
        try:
            word = self._receive(time.monotonic() + START_DEADLINE_S)
        except (OSError, ValueError) as error:
            raise ScoringError(
                f"the code sandbox ({self.form}) does not start", found=self._log_tail() or str(error)
            ) from error
        if "ready" not in word:
            raise ScoringError(
                f"the code sandbox ({self.form}) does not start",
                found=word.get("problem"),
                remedy="install bubblewrap (Debian: apt-get install bubblewrap), or keep Python where every "
                "user may read it",
            )
        return word["ready"]

    def _receive(self, deadline: float) -> dict[str, Any]:
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        message = json.loads(self._read(length, deadline))
        if not isinstance(message, dict):
            raise ValueError("no message")
        return message

    def _read(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._control.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._control.recv(min(length - len(data), 1 << 20))
            if not chunk:
                raise ConnectionResetError("the jail's process ended")
            data += chunk
        return bytes(data)

    def _log_tail(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        return self._log.read().decode(errors="replace").strip()


def _pidfd_of_child(info: int) -> int:
    """A handle of the process that bubblewrap started, from what it wrote about it."""
    return os.pidfd_open(json.loads(os.read(info, 1 << 16))["child-pid"])


def lost(note: str) -> Execution:
    """The record of a program that took its jail with it."""
    return Execution(outcome=Outcome.LOST, stderr=note)
