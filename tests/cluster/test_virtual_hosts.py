"""Machines made of namespaces."""

import os
import re
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from virtual_hosts import refuse, virtual_hosts

SAY = (
    "import runpy, socket, sys; from pathlib import Path; machine = runpy.run_path(sys.argv[3])['machine'];"
    "print(socket.gethostname(), socket.gethostbyname(sys.argv[1]), machine(), sep='|');"
    "print(len(list(Path('/dev/shm').iterdir())), Path(sys.argv[2]).read_text())"
)
SERVE = (
    "import socket; s = socket.create_server(('', 7000)); print('listening', flush=True);"
    "c, _ = s.accept(); c.sendall(socket.gethostname().encode()); c.recv(1)"
)


def test_virtual_hosts_are_machines_that_reach_each_other_and_end_with_all_that_they_run(
    tmp_path, project_root
):
    process = project_root / "rlpost" / "cluster" / "process.py"
    (tmp_path / "shared").write_text("one disk")
    with virtual_hosts(["left", "right"]) as (left, right):
        said = []
        for host, other in ((left, right), (right, left)):
            command = [sys.executable, "-c", SAY, other.name, str(tmp_path / "shared"), str(process)]
            first, second = host.run(command).stdout.splitlines()
            name, address, where = first.split("|")
            assert (name, address) == (host.name, other.address)
            assert second == "0 one disk"
            said.append(where)
        assert len({*said, runpy.run_path(str(process))["machine"]()}) == 3
        assert left.run(["sh", "-c", "exit 3"], check=False).returncode == 3
        with pytest.raises(AssertionError, match=r"on left: status 2\n\nls: .*nothing-is-here"):
            left.run(["ls", "/nothing-is-here"])

        server = right.popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "listening\n"
        with socket.create_connection((right.address, 7000), timeout=60) as connection:
            assert connection.recv(100) == b"right"
            right.end()
            right.end()
            assert server.returncode == -9
            connection.settimeout(0.2)
            # A machine that is switched off says no good-bye.
            with pytest.raises(TimeoutError):
                connection.recv(1)
        server.stdout.close()
        sleeper = left.popen(["sleep", "1000"])
    assert sleeper.returncode == -9
    assert left.init.returncode is not None


def test_virtual_hosts_end_with_a_process_that_is_killed():
    refuse()
    script = (
        "import sys, time; from virtual_hosts import virtual_hosts\n"
        "with virtual_hosts(['alone']) as (host,):\n"
        "    print(host.init.pid, host.popen(['sleep', '1000']).pid, host.device, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    line = process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    *pids, device = line.split()
    end = time.monotonic() + 60
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.02)
    with virtual_hosts([]):  # takes away the bridge that is left
        devices = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        assert not re.search(rf"\b{device.rpartition('n')[0]}\b", devices)


def alive(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
