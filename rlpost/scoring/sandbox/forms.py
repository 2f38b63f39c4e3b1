"""The two forms of a jail: under bubblewrap, or with what the kernel lets this user do by itself."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Form = Literal["bubblewrap", "limits"]

PACKAGE = Path(__file__).parent
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
SETTINGS_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/alternatives", "/etc/localtime")
COVERED = ("/root", "/home", "/tmp", "/var/tmp", "/dev/shm", "/run")
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Each further arena of the C library's allocator reserves address space, which a limit counts.
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
FIRST_UID, UIDS = 61184, 4000
"""Users that no account has, beneath 65536, so that a container has them too."""
BOOT = "import sys; sys.path.insert(0, {inside!r}); from inside.zygote import start; start()"

_number = itertools.count()


def python_folders() -> list[str]:
    """Where this interpreter, its standard library and its packages are."""
    executable = Path(sys.executable)
    folders = {sys.prefix, sys.base_prefix, str(executable.resolve().parents[1])}
    return sorted(folder for folder in folders if folder != "/")


def visible_paths() -> list[str]:
    """What a program may read: the system, Python, and this package's code for the inside."""
    paths = [*SYSTEM, *SETTINGS_FILES, *python_folders(), str(PACKAGE / "inside")]
    present = [p for p in paths if Path(p).exists()]
    return [p for p in present if not any(p.startswith(other + "/") for other in present)]


def unused_uid() -> int | None:
    """A user for one jail when this process is root's and may change to it; None otherwise: the jail's
    processes are then the user's own."""
    uid = FIRST_UID + (os.getpid() * 7 + next(_number)) % UIDS
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    mapped = any(first <= uid < first + count for first, _, count in ranges)
    return uid if os.getuid() == 0 and mapped else None


def settings(form: Form, uid: int | None, tmp: str, tmp_bytes: int, inside: str) -> dict[str, Any]:
    """What the process inside needs to know."""
    visible = visible_paths()
    covered = [p for p in dict.fromkeys((*COVERED, str(Path.home()))) if Path(p).is_dir()]
    under_tmp = [Path(p).parts[2] for p in visible if p.startswith("/tmp/")]
    return {
        "bubblewrap": form == "bubblewrap",
        "uid": uid,
        "tmp": tmp,
        "tmp_bytes": tmp_bytes,
        "sized": "--size" in bubblewrap_options(),
        "inside": inside,
        "python": python_folders(),
        "visible": visible,
        "covered": [p for p in covered if not any(p.startswith(o + "/") for o in covered)],
        "keep": under_tmp,
    }


def command(form: Form, control: int, info: int, tmp: str, tmp_bytes: int) -> list[str]:
    """What to start so that a jail comes to be, which then serves on file `control`; bubblewrap writes to
    file `info` which process it started."""
    uid = unused_uid()
    inside = "/run/rlpost" if form == "bubblewrap" else str(PACKAGE)
    given = json.dumps(settings(form, uid, tmp, tmp_bytes, inside))
    python = [sys.executable, "-I", "-B", "-c", BOOT.format(inside=inside), str(control), given]
    return python if form == "limits" else [*_bubblewrap(uid, tmp_bytes, info), *python]


def _bubblewrap(uid: int | None, tmp_bytes: int, info: int) -> list[str]:
    options = bubblewrap_options()
    size = ["--size", str(tmp_bytes)] if "--size" in options else []
    line = [
        *(
            "bwrap",
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", "--hostname", "jail"),
        *("--info-fd", str(info)),
        *("--proc", "/proc", "--dev", "/dev", "--perms", "1777", *size, "--tmpfs", "/dev/shm"),
        *("--perms", "1777", *size, "--tmpfs", "/tmp"),
    ]
    if uid is None:
        line += ["--unshare-user", *(["--disable-userns"] if "--disable-userns" in options else [])]
    else:  # the process inside becomes this user, and enters a user namespace, by itself
        line += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for path in visible_paths():
        if path.startswith(str(PACKAGE)):
            continue
        link = Path(path)
        if link.is_symlink() and path in SYSTEM:
            line += ["--symlink", str(link.readlink()), path]
        else:  # bubblewrap makes a closed folder where the real one is closed, such as root's home
            for parent in reversed(link.parents[:-1]):
                line += ["--perms", "0755", "--dir", str(parent)] if str(parent) != "/tmp" else []
            line += ["--ro-bind", path, path]
    line += ["--ro-bind", str(PACKAGE / "inside"), "/run/rlpost/inside", "--remount-ro", "/"]
    return [*line, "--chdir", "/tmp", "--"]


@functools.cache
def bubblewrap_options() -> frozenset[str]:
    """The options that this machine's bubblewrap knows; none when it is not installed."""
    if shutil.which("bwrap") is None:
        return frozenset()
    done = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, timeout=30, check=False)
    words: Sequence[str] = (done.stdout + done.stderr).split()
    return frozenset(word for word in words if word.startswith("--"))
