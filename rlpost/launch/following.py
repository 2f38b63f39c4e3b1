"""Following a job of a Ray cluster: its output as it comes, and how it ended."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlpost.errors import TERMINATED, DeadlineError
from rlpost.launch.ray_server import JobServer, ServerLostError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

POLL_S, AGAIN_S = 2.0, 1.0
"""Between two questions for a job's state, and between two connections for its output."""
RECONNECT_S = 300.0
"""Longest time without a word of the server, after which following is given up; the run is not."""
LAST_WORDS_S = 20.0
"""For the output of a job that has ended to come to its end."""
KILLED_BASE = 128
LINES_KEPT = 400

Report = Callable[[str], None]


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        status: the exit status of the run, as its own command line would have had.
        cause: one line on why it failed; "" where it did not.
    """

    status: int
    cause: str = ""


class Follower:
    """Prints what a job prints, once, however often the connection is made.

    Args:
        write: takes the job's output in pieces.
        report: takes a line on the job or the connection.
        start_deadline_s: longest wait for the job to start.
    """

    def __init__(
        self,
        server: JobServer,
        job: str,
        write: Callable[[str], None],
        report: Report,
        start_deadline_s: float,
    ) -> None:
        self.server, self.job, self.write, self.report = server, job, write, report
        self.start_deadline_s = start_deadline_s
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._written = 0
        self._line = ""
        self._tail: _Tail | None = None
        self._said = ""
        self._since = time.monotonic()

    def until_end(self) -> End:
        """Follow to the end; after an exception such as KeyboardInterrupt it may be called again.

        Raises:
            DeadlineError: the job did not start in time, and was told not to; or the server fell silent.
        """
        heard, asked, ended_at = time.monotonic(), 0.0, None
        details: JobDetails | None = None
        while True:
            if self._tail is None:
                self._tail = _Tail(self.server, self.job, skip=self._written)
            over = self._take(self._tail)
            now = time.monotonic()
            if ended_at is not None and details is not None and (over or now - ended_at > LAST_WORDS_S):
                return self._end(details)
            if now - asked >= POLL_S or over:
                try:
                    details, asked = self.server.details(self.job), time.monotonic()
                except ServerLostError as error:
                    self._lost(heard, error)
                    asked = time.monotonic()
                else:
                    heard = time.monotonic()
                    self._say(details)
                    if details is None:
                        return End(
                            1, f"the cluster no longer knows of job {self.job}: its head was restarted"
                        )
                    if details.status.is_terminal() and ended_at is None:
                        ended_at = heard
            if over:
                self._tail = None
                if ended_at is None:
                    time.sleep(AGAIN_S)

    def _take(self, tail: _Tail) -> bool:
        """Write what has come; whether nothing more will, on this connection."""
        try:
            piece = tail.pieces.get(timeout=0.2)
        except queue.Empty:
            return False
        if piece is None:
            return True
        self.write(piece)
        self._written += len(piece)
        *complete, self._line = (self._line + piece).split("\n")
        self.lines.extend(complete)
        return False

    def _lost(self, heard: float, error: ServerLostError) -> None:
        silent = time.monotonic() - heard
        if silent > RECONNECT_S:
            raise DeadlineError(
                "the job server of the Ray cluster fell silent; the run may go on without it",
                where=self.server.address,
                found=f"no answer for {silent:.0f} s: {error.details['found']}",
                remedy=f"look again later: ray job logs --follow {self.job} --address {self.server.address}",
            ) from None
        self._say_once(f"lost the connection to {self.server.address}: trying again for {RECONNECT_S:.0f} s")

    def _say(self, details: JobDetails | None) -> None:
        if details is None:
            return
        state = details.status.value
        if state == "PENDING":
            self._say_once(
                f"job {self.job} is waiting to be started: {details.message or 'no reason is given'}"
            )
            waited = time.monotonic() - self._since
            if waited > self.start_deadline_s:
                self.server.stop(self.job)
                raise DeadlineError(
                    "the cluster did not start the run, which was taken back",
                    where=f"job {self.job} on {self.server.address}",
                    found=f"after {waited:.0f} s: {details.message}",
                    needed=f"a start within launch.start_deadline_s: {self.start_deadline_s:.0f}",
                    remedy="see `ray status` on the cluster; a larger launch.start_deadline_s waits longer",
                )
        elif state == "RUNNING" and self._said:
            self._say_once(f"job {self.job} is running")

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.report(text)

    def _end(self, details: JobDetails) -> End:
        if self._line:
            self.write("\n")
            self.lines.append(self._line)
        state, status = details.status.value, details.driver_exit_code
        if state == "SUCCEEDED":
            return End(0)
        if state == "STOPPED" or status == TERMINATED:
            return End(TERMINATED)
        if status is None:
            return End(1, one_line(details.message or "Ray gives no reason"))
        if status < 0:
            return End(KILLED_BASE - status, f"the driver was killed by {signal.Signals(-status).name}")
        return End(status, cause_in(self.lines))


class _Tail:
    """A connection that brings a job's output, in a thread of its own; its last piece is None.

    Args:
        skip: characters from the beginning that are known already.
    """

    def __init__(self, server: JobServer, job: str, skip: int) -> None:
        self.pieces: queue.Queue[str | None] = queue.Queue()
        self._server, self._job, self._skip = server, job, skip
        threading.Thread(target=self._run, name=f"output of {job}", daemon=True).start()

    def _run(self) -> None:
        try:
            asyncio.run(self._receive())
        except Exception:  # why it broke, the next question for the job's state says
            pass
        finally:
            self.pieces.put(None)

    async def _receive(self) -> None:
        async for text in self._server.client.tail_job_logs(self._job):
            known = min(self._skip, len(text))
            self._skip -= known
            if text := text[known:]:
                self.pieces.put(text)


def cause_in(lines: Sequence[str]) -> str:
    """Why a driver failed, from the lines that it printed: its last error, or else its last words."""
    errors = [line for line in lines if line.startswith("error: ")]
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return (errors[-1] if errors else last).removeprefix("error: ").strip()


def one_line(text: str, limit: int = 400) -> str:
    """The first paragraph of Ray's words on what happened, without traceback."""
    words = " ".join(text.split("\nTraceback")[0].split())
    return words if len(words) <= limit else f"{words[:limit]} ..."
