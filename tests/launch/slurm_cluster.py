"""A real Slurm on virtual hosts: a controller and some nodes, each with a munged of its own."""

import os
import re
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cluster"))

from virtual_hosts import PRIVATE, virtual_hosts

PATIENCE_S = 400
MUNGE = "/run/munge"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={controller}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MessageTimeout=10
KillWait={kill_wait}
MinJobAge=3600
OverTimeLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=1:00:00 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=1:00:00 PriorityTier=2 PreemptMode=OFF
"""


class SlurmCluster:
    """Slurm on `hosts`; the first is the controller, where jobs are submitted.

    Attributes:
        nodes: the hosts that jobs run on, by name.
        environment: for commands of Slurm's users.
    """

    def __init__(self, hosts, folder, root, cpus, kill_wait):
        self.control, *nodes = hosts
        self.nodes = {host.name: host for host in nodes}
        self.folder = folder
        lines = [f"NodeName={h.name} NodeAddr={h.address} CPUs={cpus} State=UNKNOWN" for h in nodes]
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                controller=self.control.name,
                address=self.control.address,
                folder=folder,
                kill_wait=kill_wait,
                nodes="\n".join(lines),
            )
        )
        (folder / "state").mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_", "RLPOST_"))}
        self.environment = kept | {
            "SLURM_CONF": str(configuration),
            "PYTHONPATH": str(root),
            "PATH": f"{kept['PATH']}:/usr/sbin:/usr/bin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        for host in hosts:
            self.start(host, "munged", "--foreground", "--force", f"--key-file={key}", "--num-threads=2")
        for host in hosts:
            until(lambda host=host: (host.root / MUNGE[1:] / "munge.socket.2").exists(), "munged")
        self.start(self.control, "slurmctld", "-D", "-c")
        self._daemons = {}
        for name in self.nodes:
            self.start_node(name, wait=False)
        until(lambda: self.idle() == len(nodes), "the nodes", self.tails)

    def start(self, host, program, *arguments):
        """A daemon in the foreground."""
        path = shutil.which(program, path=self.environment["PATH"])
        with (self.folder / f"{program}-{host.name}.out").open("w") as log:
            return host.popen([path, *arguments], env=self.environment, stdout=log, stderr=log)

    def start_node(self, name, wait=True):
        """The slurmd of a node."""
        self._daemons[name] = self.start(self.nodes[name], "slurmd", "-D", "-N", name)
        if wait:
            until(lambda: self.idle() == len(self.nodes), name, self.tails)

    def stop_node(self, name):
        """Slurm cannot reach the node any more, and does not know that yet."""
        self._daemons[name].kill()
        self._daemons[name].wait()

    def run(self, *command, check=True, timeout=120):
        """What a command prints where jobs are submitted."""
        done = self.control.run(list(command), timeout=timeout, check=check, env=self.environment)
        return done.stdout

    def idle(self):
        """How many nodes wait for work."""
        states = self.run("sinfo", "--noheader", "--Node", "--partition=all", "--format=%T", check=False)
        return states.split().count("idle")

    def submit(self, *arguments):
        """`rlpost launch slurm ...`; the job's number, and all that was said."""
        said = self.run(
            sys.executable, "-m", "rlpost.cli", "launch", "slurm", "--no-check", *map(str, arguments)
        )
        return re.search(r"as Slurm job (\d+)", said)[1], said

    def job(self, number):
        """What Slurm knows of a job, by key."""
        said = self.run("scontrol", "--oneliner", "show", "job", str(number))
        return dict(pair.split("=", 1) for pair in said.splitlines()[0].split() if "=" in pair)

    def until_over(self, number, *others, timeout=PATIENCE_S):
        """Wait for a job's end, or for one of other states; what Slurm knows of it then."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", *others}
        until(lambda: self.job(number)["JobState"] in ended, f"job {number}", self.tails, timeout)
        return self.job(number)

    def processes(self, name):
        """The command lines on a node, but those of the machine itself."""
        own = ("munged", "slurmd", "slurmstepd")
        found = []
        for entry in (self.nodes[name].root / "proc").iterdir():
            if not entry.name.isdecimal() or entry.name == "1":
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if line and not Path(line.split()[0].rstrip(":")).name.startswith(own):
                found.append(line)
        return found

    def tails(self):
        """The ends of all logs, for the message of a test that fails."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


def until(condition, what, tails=lambda: "", timeout=PATIENCE_S):
    """Wait for a condition."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s\n{tails()}")
        time.sleep(0.5)


@contextmanager
def slurm_cluster(names, folder, root, cpus=1, kill_wait=30):
    """A `SlurmCluster` whose nodes have these names; all of it ends on exit.

    Args:
        folder: for its files, which all hosts see.
        root: of the project.
    """
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
    with virtual_hosts(["control", *names], private=(*PRIVATE, MUNGE)) as hosts:
        yield SlurmCluster(hosts, folder, root, cpus, kill_wait)
