"""What a jail's process gives up before it runs anything: namespaces, the file system, its user, privileges.

Under bubblewrap most of it is done already. Without it, everything that this kernel and this user allow is
done here, and `Fences` says what that was.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 4, 38, 24
CAPABILITY_VERSION_3 = 0x20080522
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
RULE_PATH_BENEATH = 1
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read files, list directories
WRITE_FILE = 1 << 1
EVERYTHING = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}  # by Landlock's version
FILE_RIGHTS = READ & ~(1 << 3) | WRITE_FILE | 1 << 14
WRITABLE = ("/tmp", "/dev/shm")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Fences:
    """What stands between a program and the machine.

    Attributes:
        network: it has one of its own, with nobody else in it.
        processes: it sees those of its jail alone.
        home: it reads the system, Python and its own folder, and nothing else.
        writing: it writes to its own folders and nowhere else.
        folders: `/tmp` and `/dev/shm` are its jail's own.
        tmp_size: they cannot grow without limit.
        user: it runs as a user that owns nothing.
        calls: system calls are filtered.
    """

    network: bool = False
    processes: bool = False
    home: bool = False
    writing: bool = False
    folders: bool = False
    tmp_size: bool = False
    user: bool = False
    calls: bool = False


def check(result: int, what: str) -> None:
    """Raise the C library's error."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def unshare(fences: Fences, uid: int | None) -> None:
    """Move to namespaces of our own, as many as the kernel gives; the process returns as number 1 of the new
    one, if any, while the first stays behind and waits for it."""
    given = _leave(NEWNS | NEWNET | NEWIPC | NEWUTS | (NEWPID if _own_processes_work() else 0))
    fences.network = bool(given & NEWNET)
    fences.processes = bool(given & NEWPID)
    fences.folders = bool(given & NEWNS)
    fences.user = uid is not None
    if given & NEWPID:
        _stay_behind()


def _leave(kinds: int) -> int:
    """Enter new namespaces of these kinds, all or, for root, those that there may be; the ones entered."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(kinds) == 0:
        return kinds
    if uid != 0:
        if libc.unshare(kinds | NEWUSER) != 0:
            return 0
        map_user(uid, gid)
        return kinds
    return sum(kind for kind in (NEWNS, NEWNET, NEWIPC, NEWPID) if kind & kinds and libc.unshare(kind) == 0)


def _own_processes_work() -> bool:
    """Whether a new namespace of processes can have its own /proc, tried in a child: without it, this
    package would look at the processes of others."""
    pid = os.fork()
    if pid == 0:
        try:
            if _leave(NEWNS | NEWPID) != NEWNS | NEWPID:
                os._exit(1)
            first = os.fork()
            if first == 0:
                _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
                os._exit(1 if _mount_proc() else 0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def map_user(uid: int, gid: int) -> None:
    """Be the same user in a new user namespace as outside, and nobody else."""
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _stay_behind() -> None:
    pid = os.fork()
    if pid:
        _wait_for(pid)
    die_with_parent()


def _wait_for(pid: int) -> NoReturn:
    for end in range(3, 64):
        with contextlib.suppress(OSError):
            os.close(end)
    _, status = os.waitpid(pid, 0)
    os._exit(min(abs(os.waitstatus_to_exitcode(status)), 255))


def rebuild_mounts(
    covered: Sequence[str], visible: Sequence[str], tmp_bytes: int, own_processes: bool
) -> None:
    """Lay an empty directory over each of `covered`, and what must stay visible beneath back into it;
    mount this namespace's own processes at /proc.

    Raises:
        OSError: a mount fails.
    """
    check(_mount(None, "/", None, MS_REC | MS_PRIVATE, None), "make mounts private")
    for place in covered:
        _cover(place, [p for p in visible if p.startswith(place + "/")], tmp_bytes)
    if own_processes:
        check(_mount_proc(), "mount /proc")


def _mount_proc() -> int:
    return _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV, None)


def _cover(place: str, inside: Sequence[str], size: int) -> None:
    ends = {path: os.open(path, os.O_PATH) for path in inside}
    flags = MS_NOSUID | MS_NODEV
    check(_mount("tmpfs", place, "tmpfs", flags, f"size={size},mode=1777"), f"mount over {place}")
    for path, end in ends.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        check(_mount(f"/proc/self/fd/{end}", path, None, MS_BIND | MS_REC, None), f"bind {path}")
        _mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, None)
        os.close(end)
    if place not in WRITABLE:  # else one program could leave something there for the next
        check(_mount(None, place, None, MS_REMOUNT | MS_RDONLY | flags, None), f"close {place}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> int:
    arguments = [None if a is None else a.encode() for a in (source, target, kind, data)]
    return libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3])


def become(uid: int) -> None:
    """Be a user that owns nothing, in a user namespace of its own where there may be one."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the files in /proc that are written next are root's
    if libc.unshare(NEWUSER) == 0:
        map_user(uid, uid)


def drop_privileges() -> None:
    """No capability is left and none can come back."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, bytes(24)), "drop capabilities")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")


def hide_from_programs() -> None:
    """Nobody of this user may trace this process, or read its memory and files; it dumps no core."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def landlock(readable: Sequence[str], writable: Sequence[str]) -> bool:
    """Let this process and its children read only beneath some paths and write only beneath others; False
    where the kernel cannot."""
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = EVERYTHING.get(version, (1 << 16) - 1)
    attributes = struct.pack("=Q", rights)
    ruleset = libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # what the kernel asks of users other than root
    try:
        for path in readable:
            _allow(ruleset, path, READ & rights)
        for path in writable:
            _allow(ruleset, path, rights)
        for path in DEVICES:
            _allow(ruleset, path, (READ | WRITE_FILE) & rights)
        return libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        end = os.open(path, os.O_PATH)
    except OSError:
        return
    try:
        rights = rights if Path(path).is_dir() else rights & FILE_RIGHTS
        rule = struct.pack("=Qi", rights, end)
        libc.syscall(LANDLOCK_ADD, ruleset, RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(end)


def raise_loopback() -> None:
    """Programs may talk to themselves: the private network's loopback device."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        import fcntl

        request = struct.pack("16sH14s", b"lo", 1, b"")  # IFF_UP
        fcntl.ioctl(end, 0x8914, request)


def require_readable(paths: Sequence[str], report: Callable[[str], NoReturn]) -> None:
    """Python must be able to import what it has not imported yet."""
    for path in paths:
        if not os.access(path, os.R_OK | os.X_OK) or not os.access(os.__file__, os.R_OK):
            report(f"user {os.getuid()} may not read {path}, where Python is ({sys.executable})")
