"""The sections `machines` and `launch`: what a run is started on, and how; they never touch its result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlpost.config.section import Section


class MachinesConfig(Section):
    """What `rlpost launch` asks for, `rlpost check` compares with. Null: as the machine that asks."""

    count: int = Field(default=1, ge=1)
    """Machines, all alike."""
    accelerators: int | None = Field(default=None, ge=0)
    """Accelerators of each machine; 0 for none."""
    accelerator_gib: float | None = Field(default=None, gt=0)
    """GiB of memory of each accelerator."""
    cpus: int | None = Field(default=None, ge=1)
    """CPUs of each machine."""
    memory_gib: float | None = Field(default=None, gt=0)
    """GiB of host memory of each machine."""
    shared_memory_gib: float | None = Field(default=None, gt=0)
    """GiB of shared memory (/dev/shm) of each machine."""


class SlurmConfig(Section):
    """Read by `rlpost launch slurm`; null leaves a choice to the cluster."""

    partition: str | None = None
    """The partition to queue in."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """The quality of service."""
    time: str | None = None
    """The time limit, in Slurm's notation: `12:00:00`, `2-00:00:00`."""
    notice_s: int = Field(default=300, ge=1)
    """Seconds before the time limit at which the run is told to save a checkpoint and to end."""
    requeue: bool = True
    """A run that was told to end, by preemption or its time limit, is queued again and goes on."""
    options: list[str] = []
    """Further lines for the head of the script, as after `#SBATCH`: `--constraint=h100`."""


class KubernetesVolume(Section):
    """A claim that every pod mounts."""

    claim: str
    """The name of a PersistentVolumeClaim that many pods can write to (ReadWriteMany)."""
    path: str
    """Where pods see it."""


class KubernetesConfig(Section):
    """Read by `rlpost launch kubernetes`, which writes a RayJob for KubeRay."""

    namespace: str = "default"
    """The namespace of everything that is made."""
    image: str | None = None
    """The image with rlpost and its dependencies, built from docker/; needed to launch."""
    pull_secret: str | None = None
    """The name of a secret with which the image is pulled."""
    service_account: str | None = None
    """The service account of all pods."""
    queue: str | None = None
    """A Kueue queue that the job waits in."""
    volumes: list[KubernetesVolume] = []
    """What pods share; `launch.output` must lie on one of them."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that pods run on."""
    tolerate: list[str] = ["nvidia.com/gpu"]
    """Keys of taints that pods with accelerators tolerate."""


class RayJobsConfig(Section):
    """Read by `rlpost launch ray`, which hands the run to a Ray cluster as a job."""

    address: str | None = None
    """The address of the cluster's job server, such as `http://head:8265`. Null: the environment variable
    RAY_API_SERVER_ADDRESS, or a cluster of this machine."""
    exclude: list[str] = []
    """Patterns, as in .gitignore, of what is left out when the working directory is packed, beside run
    directories, environments and version control."""
    driver_cpus: float = Field(default=0.0, ge=0)
    """CPUs that Ray holds for the driver, on whichever machine has them. 0 holds none, and runs the driver
    on the cluster's head."""


class LaunchConfig(Section):
    """How `rlpost launch` starts a run."""

    output: str | None = None
    """The folder of run directories, as all machines of the run see it. Null: `output`."""
    environment: dict[str, str] = {}
    """Environment variables of every process of the run. They are written to files: no secrets."""
    setup: list[str] = []
    """Shell lines that run on every machine before anything else: `module load cuda`."""
    start_deadline_s: float = Field(default=600.0, gt=0)
    """Longest wait for all machines to come; after it the launch fails and names those that are missing."""
    rlpost: str | None = None
    """The command `rlpost` on the machines of the run. Null: that of this environment where machines share it
    (local, Slurm), `rlpost` elsewhere."""
    slurm: SlurmConfig = SlurmConfig()
    """Read by `rlpost launch slurm`."""
    kubernetes: KubernetesConfig = KubernetesConfig()
    """Read by `rlpost launch kubernetes`."""
    ray: RayJobsConfig = RayJobsConfig()
    """Read by `rlpost launch ray`."""


Launcher = Literal["local", "ray", "slurm", "kubernetes"]
"""What a run can be started with."""
