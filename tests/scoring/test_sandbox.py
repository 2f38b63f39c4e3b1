"""The code sandbox in both its forms: honest programs run, attacks end as what they are and harm nothing."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
import yaml

from rlpost.errors import ScoringError
from rlpost.scoring.sandbox import Limits, Outcome, Sandbox
from rlpost.scoring.sandbox import sandbox as sandbox_module
from rlpost.scoring.sandbox.forms import visible_paths
from rlpost.scoring.sandbox.processes import JAILS

ROOT = Path(__file__).parents[2]
HONEST = yaml.safe_load((Path(__file__).parent / "honest_programs.yaml").read_text(encoding="utf-8"))
LIMITS = Limits(cpu_s=20, wall_s=60, memory_bytes=300 << 20, output_bytes=1 << 20, file_bytes=16 << 20)
BUSY = dataclasses.replace(LIMITS, cpu_s=0.3)
SHORT = dataclasses.replace(LIMITS, wall_s=0.5)
FEW = dataclasses.replace(LIMITS, processes=8)

ENDINGS = {
    "a fork bomb": ("import os\nwhile True:\n    os.fork()", FEW, {"process_limit"}),
    "a fork bomb that minds no error": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        FEW,
        {"process_limit"},
    ),
    "a thousand threads": (
        "import threading, time\n"
        "for _ in range(1000): threading.Thread(target=time.sleep, args=(60,)).start()",
        FEW,
        {"process_limit"},
    ),
    "ten gigabytes": ("x = bytearray(10 << 30)", LIMITS, {"memory_limit"}),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 22))", LIMITS, {"memory_limit"}),
    "memory in several processes": (
        "import os, time\nfor _ in range(4): os.fork() or (bytearray(150 << 20), time.sleep(60))\n"
        "time.sleep(60)",
        LIMITS,
        {"memory_limit"},
    ),
    "output without end": ("while True: print('x' * 1000)", LIMITS, {"output_limit"}),
    "errors without end": (
        "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
        LIMITS,
        {"output_limit"},
    ),
    "a large file": ("open('f', 'wb').write(bytes(40 << 20))", LIMITS, {"file_limit"}),
    "many files": (
        "for i in range(100): open(f'f{i}', 'wb').write(bytes(8 << 20))",
        LIMITS,
        {"file_limit"},
    ),
    "a crash": ("import ctypes; ctypes.string_at(0)", LIMITS, {"crash"}),
    "an abort": ("import os; os.abort()", LIMITS, {"crash"}),
    "sleeping past the deadline": ("import time; time.sleep(1000)", SHORT, {"wall_limit"}),
    "stopping itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", SHORT, {"wall_limit"}),
    "a busy loop": ("while True: pass", BUSY, {"cpu_limit"}),
    "a busy loop that ignores signals": (
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        BUSY,
        {"cpu_limit"},
    ),
    "source that no parser takes": ("(" * 50_000, LIMITS, {"exit", "memory_limit", "crash"}),
}

REFUSED = {
    "the shadow file": "open('/etc/shadow').read()",
    "the password file's folder": "import os; os.listdir('/etc/ssl/private')",
    "a connection": "import socket; socket.create_connection(('1.1.1.1', 53), timeout=5)",
    "a name": "import socket; socket.getaddrinfo('example.org', 80)[0]",
    "a file in the system": "open('/usr/x', 'w')",
    "a file at the root": "open('/x', 'w')",
    "a file beside Python": "import sys; open(sys.prefix + '/x', 'w')",
    "the system's settings": "open('/proc/sys/kernel/core_pattern', 'w')",
    "the memory of its parent": "import os; open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "the files of its parent": "import os; os.listdir(f'/proc/{os.getppid()}/fd')",
    "the environment of its parent": "import os; open(f'/proc/{os.getppid()}/environ').read()",
    "its parent's limits": "import os, resource as r; r.prlimit(os.getppid(), r.RLIMIT_NOFILE, (3, 3))",
    "its parent's priority": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "its parent's processors": "import os; os.sched_setaffinity(os.getppid(), [0])",
    "higher limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    "another user": "import os; os.setuid(0)" if os.getuid() else "import os; os.setuid(os.getuid() + 1)",
    "a namespace": (
        "import ctypes, os\nl = ctypes.CDLL(None, use_errno=True)\n"
        "if l.unshare(0x10000000): raise OSError(ctypes.get_errno(), 'unshare')"
    ),
    "tracing its parent": (
        "import ctypes, os\nl = ctypes.CDLL(None, use_errno=True)\n"
        "if l.ptrace(16, os.getppid(), 0, 0): raise OSError(ctypes.get_errno(), 'ptrace')"
    ),
}


def start(form):
    sandbox = Sandbox(form, LIMITS)
    try:
        assert sandbox.run("print(1)").stdout == "1\n"
    except ScoringError as error:
        sandbox.close()
        pytest.skip(f"the sandbox does not work here as {form}: {error}")
    return sandbox


@pytest.fixture(scope="module", params=["bubblewrap", pytest.param("limits", marks=pytest.mark.slow)])
def sandbox(request):
    if request.param == "bubblewrap" and not sandbox_module.bubblewrap_options():
        pytest.skip("bubblewrap is not installed")
    started = start(request.param)
    yield started
    started.close()


def assert_as_new(sandbox, jail):
    """The same jail runs the next program, which finds nobody and nothing."""
    look = """
        import os, tempfile
        folders = [d for d in (os.getcwd(), tempfile.gettempdir(), '/dev/shm') if os.access(d, os.W_OK)]
        found = [f'{d}/{f}' for d in folders for f in os.listdir(d) if f not in ('main.py', 'run')]
        left = [f for f in found if os.stat(f).st_uid == os.getuid()]
        print(left, os.getcwd().endswith('/run'))
    """
    after = sandbox.run(textwrap.dedent(look))
    assert (after.outcome, after.stdout) == (Outcome.OK, "[] True\n"), after
    assert sandbox._jail is jail


def test_honest_programs_run_as_outside(sandbox):
    assert len(HONEST) >= 95
    for name, row in HONEST.items():
        done = sandbox.run(row["source"], row.get("stdin", ""))
        found = (done.stdout, done.exit_code, done.outcome.value)
        code = row.get("exit", 0)
        assert found == (row.get("stdout", ""), code, "exit" if code else "ok"), (name, done)


@pytest.mark.slow
def test_each_limit_is_an_outcome_of_its_own_and_the_next_program_runs(sandbox):
    jail = sandbox._jail
    for name, (source, limits, expected) in ENDINGS.items():
        done = sandbox.run(source, limits=limits)
        assert done.outcome.value in expected, (name, done)
        assert len(done.stdout) + len(done.stderr) <= limits.output_bytes + (1 << 14), name
        assert_as_new(sandbox, jail)


def test_what_is_not_a_programs_business_is_refused(sandbox):
    jail = sandbox._jail
    for name, source in REFUSED.items():
        done = sandbox.run(
            f"try:\n{textwrap.indent(source, '    ')}\nexcept (OSError, ValueError): print('no')"
        )
        assert (done.outcome, done.stdout) == (Outcome.OK, "no\n"), (name, done)
    assert_as_new(sandbox, jail)


def test_no_server_of_this_machine_sees_a_connection(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = sandbox.run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)")
        assert done.outcome is Outcome.EXIT
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_home_is_not_there_and_nothing_is_written_outside_tmp(sandbox, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("secret")
    tmp_path.chmod(0o777)
    home = Path.home()
    python = [Path(p).relative_to(home).parts[0] for p in visible_paths() if Path(p).is_relative_to(home)]
    source = f"""
        import os, pathlib
        for action in (lambda: pathlib.Path({str(mine)!r}).read_text(),
                       lambda: pathlib.Path({str(tmp_path)!r}, 'new').write_text('x'),
                       lambda: pathlib.Path({str(ROOT / "pyproject.toml")!r}).read_text(),
                       lambda: [f for f in os.listdir({str(home)!r}) if f not in {python!r}][0]):
            try: print('reached', action())
            except (OSError, IndexError): pass
    """
    assert sandbox.run(textwrap.dedent(source)).stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    environment = sandbox.run("import os; print(sorted(os.environ))").stdout
    assert "PATH" in environment and "PYTEST" not in environment


def test_killing_whoever_can_be_reached_reaches_nobody(sandbox):
    jail = sandbox._jail
    source = """
        import os, signal
        for pid in (os.getppid(), 1, -1):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGUSR1, signal.SIGKILL):
                try: os.kill(pid, number)
                except OSError: pass
        print('alive')
    """
    assert sandbox.run(textwrap.dedent(source)).stdout == "alive\n"
    assert_as_new(sandbox, jail)


def test_no_process_outlives_its_program(sandbox):
    jail = sandbox._jail
    source = """
        import os, subprocess, time
        subprocess.Popen(["sleep", "98765.4"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open('/dev/null').read()
                os.execvp('sleep', ['sleep', '98765.4'])
            os._exit(0)
        time.sleep(0.1)
        print('left')
    """
    assert sandbox.run(textwrap.dedent(source)).stdout == "left\n"
    assert [pid for pid, line in command_lines() if "98765.4" in line] == []
    assert_as_new(sandbox, jail)


def command_lines():
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                yield int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")


def test_no_program_finds_what_the_one_before_it_left(sandbox):
    leave = """
        import os, tempfile
        above = os.path.dirname(os.path.dirname(os.__file__))
        for folder in {tempfile.gettempdir(), os.getcwd(), '/dev/shm', '/tmp', '/var/tmp', '/run', above,
                       os.path.dirname(above), '/root', '/home', '/'}:
            try:
                open(f'{folder}/note', 'w').write('secret')
                os.makedirs(f'{folder}/a/b')
                os.chmod(f'{folder}/a', 0)
            except OSError: pass
        os.environ['NOTE'] = 'secret'
        import json, builtins
        json.dumps = builtins.note = 'secret'
    """
    find = """
        import builtins, json, os
        above = os.path.dirname(os.path.dirname(os.__file__))
        for folder in (os.environ['TMPDIR'], os.getcwd(), '/dev/shm', '/tmp', '/var/tmp', '/run', above,
                       os.path.dirname(above), '/root', '/home', '/'):
            try: print(open(f'{folder}/note').read())
            except OSError: pass
        print('NOTE' in os.environ, hasattr(builtins, 'note'), json.dumps(1))
    """
    sandbox.run(textwrap.dedent(leave))
    assert sandbox.run(textwrap.dedent(find)).stdout == "False False 1\n"


def test_results_cannot_be_forged(sandbox):
    forge = """
        import json, os
        line = json.dumps({"outcome": "ok", "completed": True, "stdout": "right"}).encode()
        for end in range(3, 256):
            for data in (len(line).to_bytes(8, 'little') + line, b'0' * 32):
                try: os.write(end, data)
                except OSError: pass
        print('wrong')
    """
    done = sandbox.run(textwrap.dedent(forge))
    assert (done.stdout, done.completed, done.outcome) == ("wrong\n", False, Outcome.OK)
    for early in ("raise SystemExit(0)", "import os; os._exit(0)", "import sys; sys.exit()"):
        assert not sandbox.run(early, test=("assert False", None)).completed
        assert sandbox.run(early, call=("f", [])).value is None
    assert not sandbox.run(f"x = 1\n{textwrap.dedent(forge)}", test=("assert x == 2", None)).completed
    assert sandbox.run("x = 1", test=("assert x == 1", None)).completed


def test_a_program_that_cannot_be_tidied_up_after_costs_its_jail_and_the_next_one_runs(sandbox):
    jail = sandbox._jail
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')"
    assert sandbox.run(deep).outcome is Outcome.OK
    after = sandbox.run("import os; print(os.listdir())")
    assert after.stdout == "['main.py']\n" and sandbox._jail is not jail


def test_a_jail_that_is_killed_is_replaced_and_the_program_runs_after_all(sandbox):
    before, jail = set(JAILS), sandbox._jail
    jail.kill()
    jail._process.wait(timeout=30)
    assert sandbox.run("print(2)").stdout == "2\n"
    assert sandbox._jail is not jail and len(JAILS) == len(before)


def test_without_bubblewrap_a_warning_says_what_is_not_isolated(monkeypatch):
    monkeypatch.setattr(sandbox_module, "bubblewrap_options", frozenset)
    sandbox_module.working_form.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"WITHOUT BUBBLEWRAP \(it is not installed\)"):
            assert sandbox_module.working_form() == "limits"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert sandbox_module.working_form() == "limits"
    finally:
        sandbox_module.working_form.cache_clear()


def test_the_warning_names_every_door_that_is_open():
    fences = dict.fromkeys(("network", "processes", "home", "writing", "tmp_size", "calls"), True)
    assert sandbox_module.open_doors(fences) == []
    assert sandbox_module.open_doors({**fences, "network": False}) == []  # the filter of calls has it closed
    assert sandbox_module.open_doors({**fences, "network": False, "calls": False}) == ["the network"]
    doors = sandbox_module.open_doors(dict.fromkeys(fences, False))
    assert len(doors) == 5 and "home directory" in doors[2]


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="the limit wall_s is 0"):
        Limits(wall_s=0)


def test_jails_end_with_the_process_that_started_them(sandbox):
    code = f"""
        import sys, time
        from rlpost.scoring.sandbox import Sandbox
        sandbox = Sandbox({sandbox.form!r})
        sandbox.run("print(1)")
        print(sandbox._jail._process.pid, flush=True)
        sandbox.run("import time; time.sleep(1000)")
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=environment
    )
    with process.stdout:
        group = int(process.stdout.readline())
    process.kill()
    process.wait(timeout=10)
    until = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in session(group)) and time.monotonic() < until:  # noqa: PTH110
        time.sleep(0.02)
    assert session(group) == []


def session(leader):
    """Ids of the processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found.append(int(entry.name))
    return found
