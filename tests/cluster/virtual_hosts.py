"""Virtual hosts: machines made of this one's namespaces, on a network of their own.

Each has its own hostname, address, process ids, /dev/shm and Ray sessions; the disk is shared, as a cluster's
file system is. It takes root and `ip`. The process that made the hosts reaches them over their bridge.
"""

import ctypes
import fcntl
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

PRIVATE = ("/dev/shm", "/tmp/ray")
PREFIX = "vh"
"""Of the names of network devices; the hexadecimal process id follows, so that no two processes share any."""
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000,
)  # fmt: skip
# Process 1 of a host: reaps what is left to it, and ends with the process that holds its standard input.
INIT = """
import os, signal
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
print("up", flush=True)
while os.read(0, 1):
    pass
"""

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class VirtualHost:
    """One machine; made by `virtual_hosts`.

    Attributes:
        name: its hostname, which all hosts of its network resolve.
        address: its IPv4 address.
        root: its file system as seen from outside, until it ends: `root / "tmp/ray"` is its own one.
    """

    def __init__(self, name, address, device):
        self.name, self.address, self.device = name, address, device
        self.children = []
        # Namespaces belong to threads: what this one starts is born in them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        try:
            self.init = self._thread.submit(self._make).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self.root = Path(f"/proc/{self.init.pid}/root")

    def _make(self):
        flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
        if _libc.unshare(flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "unshare")
        socket.sethostname(self.name)
        init = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", INIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        init.stdout.readline()
        init.stdout.close()
        return init

    def prepare(self, network, hosts, private):
        """Connect it, and give it what is its own.

        Args:
            network: the address of the bridge and the length of the network's prefix.
            hosts: the file /etc/hosts.
        """
        gateway, length = network
        command(f"ip link add {self.device} type veth peer name eth0 netns {self.init.pid}")
        command(f"ip link set {self.device} master {bridge_of(self.device)} up")
        for line in (
            "mount --make-rprivate /",
            "mount -t proc proc /proc",
            f"mount --bind {hosts} /etc/hosts",
            *(f"mount -t tmpfs tmpfs {path}" for path in private),
            "ip link set lo up",
            f"ip addr add {self.address}/{length} dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {gateway}",
        ):
            self._thread.submit(command, line).result()

    def popen(self, args, **settings):
        """As subprocess.Popen; the process's number is that of the outside."""
        child = self._thread.submit(subprocess.Popen, args, **settings).result()
        self.children.append(child)
        return child

    def run(self, args, timeout=120, check=True, env=None):
        """Run a command to its end; the CompletedProcess with its output and errors as text."""
        child = self.popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            output, errors = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        if check and child.returncode:
            raise AssertionError(f"{args} on {self.name}: status {child.returncode}\n{output}\n{errors}")
        return subprocess.CompletedProcess(args, child.returncode, output, errors)

    def end(self):
        """The machine is switched off: its network falls silent, then all its processes are gone."""
        if self.init.returncode is not None:
            return
        with suppress(subprocess.CalledProcessError):  # the network was never made
            command(f"ip link del {self.device}")
        self.init.kill()
        # The kernel lets go of process 1 last, after those that are ours to reap.
        for child in self.children:
            child.wait()
        self.init.wait()
        self.init.stdin.close()
        self._thread.shutdown()


@contextmanager
def virtual_hosts(names, private=PRIVATE):
    """A list of `VirtualHost`s, connected with each other and with this process; all end on exit.

    Where namespaces are not permitted the test is skipped.

    Args:
        private: folders of which each host has its own, empty at first.
    """
    refuse()
    number, names = next(_numbers), list(names)
    bridge = f"{PREFIX}{os.getpid():x}x{number}"
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="virtual-hosts-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        network = make_bridge(bridge)
        stack.callback(command, f"ip link del {bridge}")
        gateway = network[0]
        addresses = [gateway.rpartition(".")[0] + f".{n}" for n in range(2, 2 + len(names))]
        lines = ["127.0.0.1 localhost", *(f"{a} {n}" for a, n in zip(addresses, names, strict=True))]
        (folder / "hosts").write_text("".join(f"{line}\n" for line in lines))
        for path in private:
            Path(path).mkdir(parents=True, exist_ok=True)
        found = []
        for n, (name, address) in enumerate(zip(names, addresses, strict=True)):
            try:
                host = VirtualHost(name, address, f"{bridge}n{n}")
            except OSError as error:
                pytest.skip(f"virtual hosts need namespaces: {error}")
            stack.callback(host.end)
            host.prepare(network, folder / "hosts", private)
            found.append(host)
        yield found


def refuse():
    """Skip the test where there can be no hosts."""
    if not sys.platform.startswith("linux"):
        pytest.skip("virtual hosts need Linux")
    if os.geteuid() != 0:
        pytest.skip("virtual hosts need root")
    for program in ("ip", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"virtual hosts need the command {program}")


def make_bridge(name):
    """A bridge with an address of a private network that nobody here uses; the address and prefix length."""
    with Path(tempfile.gettempdir(), "virtual-hosts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_stale()
        used = {line.split()[3].rpartition(".")[0] for line in command("ip -4 -o addr").splitlines()}
        free = [p for a in range(64, 128) for b in range(256) if (p := f"10.{a}.{b}") not in used]
        gateway = random.choice(free) + ".1"
        try:
            command(f"ip link add {name} type bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"virtual hosts need a bridge: {error.stderr.strip()}")
        command(f"ip addr add {gateway}/24 dev {name}")
        command(f"ip link set {name} up")
    return gateway, 24


def remove_stale():
    """Bridges of processes that were killed; their hosts have ended with them."""
    for name in re.findall(rf"^\d+: ({PREFIX}[0-9a-f]+x\d+):", command("ip -o link"), re.MULTILINE):
        if not Path("/proc", str(int(name[len(PREFIX) :].partition("x")[0], 16))).exists():
            command(f"ip link del {name}")


def bridge_of(device):
    """The bridge that a host's device is plugged into."""
    return device.rpartition("n")[0]


def command(line):
    """What a command prints."""
    done = subprocess.run(line.split(), capture_output=True, text=True, check=True)
    return done.stdout
