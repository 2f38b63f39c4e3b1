"""The child's side: from a fork of the warm process to a Python that runs one program."""

from __future__ import annotations

import atexit
import gc
import json
import os
import resource
import signal
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import system_calls

MAIN = "main.py"
OWN = __name__.rpartition(".")[0]


def become_program(
    request: Mapping[str, Any], ends: Mapping[str, int], fences: Mapping[str, Any]
) -> NoReturn:
    """Take on the limits, forget the warm process, run the program, and exit as Python would.

    Args:
        request: `source`, `limits` and what is to be done with the program; see `run`.
        ends: the files that become standard input, output and error, and those of `run`.
        fences: `families` and `shared_pids` for the filter of system calls, or no `families`: no filter.
    """
    os.setsid()
    safe = [_away(ends[name]) for name in ("stdin", "stdout", "stderr", "token", "result")]
    for number, end in enumerate(safe):
        os.dup2(end, number)
    os.closerange(5, 4096)
    for name in [name for name in sys.modules if name == OWN or name.startswith(OWN + ".")]:
        del sys.modules[name]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    _limit(request["limits"], fences)
    if "families" in fences:
        system_calls.install(fences["families"], os.getpid() if fences["shared_pids"] else None)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = [MAIN]
    sys.path.insert(0, str(Path.cwd()))
    gc.enable()
    try:
        code = _exit_code(request)
    except BaseException:
        code = 1
    os._exit(code)


def run(request: Mapping[str, Any]) -> None:
    """Execute the program as `__main__`, then what is asked of it.

    With `call`, the function that it names is called and its value written as JSON to file 4. With `test`,
    that source runs where the program left its names, with `check(entry_point)` after it when there is an
    entry point; when all of it has run to its end, the token from file 3 is written to file 4.
    """
    module = types.ModuleType("__main__")
    module.__file__ = str(Path.cwd() / MAIN)
    sys.modules["__main__"] = module
    names = module.__dict__
    source = request["source"]
    Path(MAIN).write_text(source, encoding="utf-8", errors="surrogatepass")
    exec(compile(request.get("prelude", ""), "prelude.py", "exec", dont_inherit=True), names)
    exec(compile(source, module.__file__, "exec", dont_inherit=True), names)
    if call := request.get("call"):
        value = _function(names, call["function"])(*call["arguments"])
        _write(json.dumps({"value": value}, default=_plain).encode())
    elif test := request.get("test"):
        exec(compile(test["source"], "tests.py", "exec", dont_inherit=True), names)
        if test.get("entry_point"):
            names["check"](_function(names, test["entry_point"]))
        _write(os.read(3, 64))


def _exit_code(request: Mapping[str, Any]) -> int:
    try:
        try:
            run(request)
        finally:
            threading._shutdown()
            atexit._run_exitfuncs()
        code = 0
    except SystemExit as exit_:
        code = _code_of(exit_.code)
    except BaseException as error:
        _print_traceback(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 120
    return code


def _code_of(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    print(value, file=sys.stderr)
    return 1


def _print_traceback(error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _function(names: Mapping[str, Any], name: str) -> Any:
    """The function, or the method of a class `Solution`, that a test names."""
    last = name.rpartition(".")[2]
    if last in names:
        return names[last]
    if "Solution" in names:
        return getattr(names["Solution"](), last)
    raise NameError(f"name {last!r} is not defined")


def _plain(value: Any) -> Any:
    """What JSON cannot hold, as something that it can."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence) or hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"the value of type {type(value).__name__} is none that JSON can hold")


def _write(data: bytes) -> None:
    sys.stdout.flush()
    while data:
        data = data[os.write(4, data) :]


def _away(end: int) -> int:
    """The file under a number that is none of those to be replaced."""
    while end < 5:
        end = os.dup(end)
    return end


def _limit(limits: Mapping[str, Any], fences: Mapping[str, Any]) -> None:
    cpu = int(limits["cpu_s"]) + 1
    caps = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_FSIZE: (limits["file_bytes"],) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (256, 256),
        resource.RLIMIT_AS: (fences["own_bytes"] + limits["memory_bytes"],) * 2,
        resource.RLIMIT_NPROC: (fences["own_tasks"] + limits["processes"] + 1,) * 2,
    }
    for kind, (soft, hard) in caps.items():
        _, most = resource.getrlimit(kind)
        least = [v if most == resource.RLIM_INFINITY else min(v, most) for v in (soft, hard)]
        resource.setrlimit(kind, tuple(least))
