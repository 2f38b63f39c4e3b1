"""What a run leaves open while it lives, and what it leaves behind when its driver is killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def driver(tmp_path_factory, project_root):
    """A driver in a process of its own, with two actors and their children at work."""
    pytest.importorskip("ray")
    script = Path(__file__).with_name("driver_process.py")
    folder = tmp_path_factory.mktemp("driver")
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        process.named = [int(word) for word in process.stdout.readline().split()]
        process.auth_mode = process.stdout.readline().strip()
        assert len(process.named) == 6
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_listens_on_loopback_only_and_asks_for_its_token(driver):
    found = dict(listening(descendants(driver.pid)))
    assert found
    assert [address for address in found if not address.is_loopback] == []
    assert driver.auth_mode == "token"


def test_no_process_of_a_run_outlives_a_killed_driver_by_ten_seconds(driver):
    family = descendants(driver.pid) | set(driver.named)
    assert len(family) > 10
    os.kill(driver.named[1], signal.SIGSTOP)
    driver.kill()
    driver.wait()
    end = time.monotonic() + 10
    while left := [pid for pid in family if alive(pid)]:
        assert time.monotonic() < end, [Path(f"/proc/{pid}/cmdline").read_bytes()[:80] for pid in left]
        time.sleep(0.05)


def descendants(root):
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := status(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    # A guardian of an actor is nobody's child; its arguments name the process that it guards.
    return found | {pid for pid in parents if guarded(pid) in found}


def guarded(pid):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    place = [i for i, word in enumerate(words) if word.endswith(b"guardian.py")]
    return int(words[place[0] + 2]) if place else None


def status(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def alive(pid):
    fields = status(pid)
    return fields is not None and fields[0] != "Z"


def listening(pids):
    """(address, process) of the TCP sockets that these processes listen on."""
    owners = {}
    for pid in pids:
        with suppress(OSError):  # it has ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    owners[str(descriptor.readlink())] = pid
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            owner = owners.get(f"socket:[{fields[9]}]")
            if fields[3] == "0A" and owner is not None:
                yield parse_address(fields[1].partition(":")[0]), owner


def parse_address(text):
    """The kernel writes addresses as words of 32 bits, each in the machine's byte order."""
    words = [
        bytes.fromhex(text[i : i + 8])[:: -1 if sys.byteorder == "little" else 1]
        for i in range(0, len(text), 8)
    ]
    packed = b"".join(words)
    address = IPv6Address(packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed)
    return address.ipv4_mapped or address
