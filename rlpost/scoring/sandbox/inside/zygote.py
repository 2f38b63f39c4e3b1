"""The warm process of a jail: it forks itself for each program, watches it, and tidies up after it.

It talks to the process outside over one socket, as lines of JSON with their length before them. Programs
have no end of that socket, cannot send this process a signal that it heeds, and cannot read its memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import confine, system_calls, watch
from .program import become_program

LENGTH = struct.Struct("<Q")
WARM_MODULES = (
    *("array", "bisect", "collections", "copy", "csv", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "io", "itertools", "json", "math", "operator", "queue", "random"),
    *("re", "statistics", "string", "textwrap", "threading", "time", "types", "typing", "traceback"),
    *("linecache", "encodings.idna", "multiprocessing"),
)
"""Imported before the first program, so that programs need not wait for them."""
NORMAL_CALLS = (system_calls.AF_UNIX, system_calls.AF_INET, system_calls.AF_INET6)


def main(control: socket.socket, settings: Mapping[str, Any]) -> None:
    """Build the fences that are still missing, say which ones there are, then serve."""
    confine.die_with_parent()
    try:
        fences = build_fences(settings)
    except OSError as error:
        fail(control, f"the jail cannot be built: {error}")
    confine.require_readable(settings["python"], lambda problem: fail(control, problem))
    for name in WARM_MODULES:
        importlib.import_module(name)
    sys.path.remove(settings["inside"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a handler would be a way to reach the first process
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    fences.calls = system_calls.supported()
    confine.drop_privileges()
    confine.hide_from_programs()
    confine.die_with_parent()  # each change of user or privileges has taken it back
    gc.collect()
    gc.disable()
    gc.freeze()
    send(control, {"ready": dataclasses.asdict(fences)})
    Zygote(control, settings, fences).run()


def build_fences(settings: Mapping[str, Any]) -> confine.Fences:
    """Whatever the kernel and this user allow."""
    fences = confine.Fences()
    uid, tmp = settings["uid"], settings["tmp"]
    if settings["bubblewrap"]:
        fences = confine.Fences(network=True, processes=True, home=True, writing=True, folders=True)
        fences.user = True
        fences.tmp_size = settings["sized"]
    else:
        confine.unshare(fences, uid)
        if fences.folders:
            covered, visible = settings["covered"], settings["visible"]
            confine.rebuild_mounts(covered, visible, settings["tmp_bytes"], fences.processes)
            fences.home = fences.tmp_size = True
        confine.libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what a program leaves behind comes here
    if fences.network:
        confine.raise_loopback()
    own = "/tmp" if fences.folders else tmp
    if uid is not None:
        if not fences.folders:
            os.chown(own, uid, uid)
        confine.become(uid)
    os.environ["TMPDIR"] = os.environ["HOME"] = own
    if not settings["bubblewrap"]:
        readable = [*settings["visible"], "/proc"]
        fenced = confine.landlock(readable, [own, *(["/dev/shm"] if fences.folders else [])])
        fences.writing = fenced
        fences.home = fences.home or fenced
    return fences


class Zygote:
    """Serves one request after the other."""

    def __init__(self, control: socket.socket, settings: Mapping[str, Any], fences: confine.Fences) -> None:
        self.control = control
        self.fences = fences
        self.tmp = Path(os.environ["TMPDIR"])
        self.keep = set(settings["keep"]) if fences.folders else set()
        self.skeleton = self._skeleton()
        self.alone = fences.processes or settings["uid"] is not None
        # Processes are counted per user and user namespace: exactly when either is this jail's own.
        own_namespace = settings["bubblewrap"] or (fences.processes and os.getuid() != 0)
        self.counted = settings["uid"] is not None or own_namespace
        self.places = [self.tmp, *([Path("/dev/shm")] if fences.folders else [])]

    def run(self) -> None:
        """Until the other end of the socket is closed."""
        while (request := receive(self.control)) is not None:
            try:
                reply = self._perform(request)
            except watch.ControlClosedError:
                watch.kill_all(self.alone)
                return
            send(self.control, reply)

    def _perform(self, request: Mapping[str, Any]) -> dict[str, Any]:
        work = self.tmp / "run"
        work.mkdir()
        reads, ends, token = {}, {}, os.urandom(16).hex()
        for name in ("stdout", "stderr", "result"):
            reads[name], ends[name] = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reads[name], False)
        ends["token"], token_end = os.pipe2(os.O_CLOEXEC)
        ends["stdin"] = os.memfd_create("stdin")
        with open(ends["stdin"], "wb", closefd=False) as file:
            file.write(request.get("stdin", "").encode(errors="surrogateescape"))
        os.lseek(ends["stdin"], 0, os.SEEK_SET)
        settings = self._program_settings()
        pid = os.fork()
        if pid == 0:
            try:
                os.chdir(work)
                become_program(request, ends, settings)
            finally:
                os._exit(1)
        for end in ends.values():
            os.close(end)
        os.write(token_end, token.encode())
        os.close(token_end)
        try:
            return self._watch(pid, request["limits"], reads, token)
        finally:
            for end in reads.values():
                os.close(end)

    def _watch(
        self, pid: int, limits: Mapping[str, Any], reads: Mapping[str, int], token: str
    ) -> dict[str, Any]:
        watching = watch.Watch(
            pid, limits, reads, self.control.fileno(), None if self.fences.tmp_size else self.tmp
        )
        ended = watching.wait()
        if ended["reason"] is not None:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        gone = watch.kill_all(self.alone)
        reply = watching.finish(ended["reason"], status, usage)
        texts = {name: bytes(data).decode(errors="replace") for name, data in watching.data.items()}
        completed = texts["result"] == token
        return {
            **reply,
            "seconds": ended["seconds"],
            "stdout": texts["stdout"][: limits["output_bytes"]],
            "stderr": texts["stderr"][-8192:],
            "result": "" if completed else texts["result"],
            "completed": completed,
            "damaged": not (self._tidy() and gone),
        }

    def _program_settings(self) -> dict[str, Any]:
        own = int(Path("/proc/self/statm").read_text().split()[0]) * watch.PAGE
        settings: dict[str, Any] = {
            "own_bytes": own,
            "own_tasks": 1 if self.counted else watch.tasks_of_user(),
            "shared_pids": not self.fences.processes,
        }
        if self.fences.calls:
            settings["families"] = NORMAL_CALLS if self.fences.network else ()
        return settings

    def _tidy(self) -> bool:
        """Leave nothing for the next program to find."""
        try:
            for place in self.places:
                for entry in place.iterdir():
                    if entry.is_dir() and not entry.is_symlink():
                        if entry.name not in self.keep:
                            shutil.rmtree(entry)
                    else:
                        entry.unlink()
                if place.stat().st_uid == os.getuid():
                    place.chmod(0o700)
                    for name in os.listxattr(place):
                        os.removexattr(place, name)
            return self._skeleton() == self.skeleton
        except (OSError, RecursionError):
            return False

    def _skeleton(self) -> list[str]:
        """The folders on the way to where Python is, when that is beneath the temporary one."""
        found, waiting = [], [self.tmp / name for name in self.keep]
        while waiting:
            place = waiting.pop()
            found.append(str(place))
            if place.is_dir() and not place.is_symlink() and not place.is_mount():
                waiting += place.iterdir()
        return sorted(found)


def receive(control: socket.socket) -> Any:
    """The next message; None when there is none any more."""
    header = control.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    body = bytearray()
    while len(body) < length:
        chunk = control.recv(min(length - len(body), 1 << 20))
        if not chunk:
            return None
        body += chunk
    return json.loads(body)


def send(control: socket.socket, message: Any) -> None:
    """One message."""
    body = json.dumps(message).encode()
    control.sendall(LENGTH.pack(len(body)) + body)


def fail(control: socket.socket, problem: str) -> NoReturn:
    """Tell why there will be no jail."""
    send(control, {"problem": problem})
    os._exit(1)


def start() -> None:
    """As the start-up line of a jail calls it: the socket's number and the settings are the arguments."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
