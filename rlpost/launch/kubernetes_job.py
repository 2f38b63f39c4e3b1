"""What `rlpost launch kubernetes` gives to a cluster: a RayJob of KubeRay, and a ConfigMap."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rlpost.config import yaml_text
from rlpost.config.schema import RunConfig
from rlpost.errors import ConfigError
from rlpost.launch.job import LAUNCHER, RUN_ID, Job, Rendered, command_of
from rlpost.launch.kubernetes_files import ConfigFiles, config_files
from rlpost.launch.named_files import named_files
from rlpost.launch.templates import FOLDER as TEMPLATES
from rlpost.launch.templates import render
from rlpost.training.run_directory import LAUNCH
from rlpost.versions import DEPENDENCIES

LONGEST_NAME, LONGEST_LABEL = 47, 63
"""KubeRay makes names of pods and services by adding to that of a RayJob."""
RETRIES = 3
"""Clusters that are started after one was lost."""
DRAIN_MARGIN_S = 30
"""Beside checkpoint.grace_s: for the driver to notice, and for pods to end after the checkpoint."""
MOUNT = "/etc/rlpost"
SCRIPTS = ("start.sh", "drain.sh")
GROUP = 1000
"""The group that volumes are writable for: that of the user in the images of docker/."""
POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "fsGroup": GROUP,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Mapping[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True)
class KubernetesJob:
    """Everything that a cluster is given.

    Attributes:
        name: of the RayJob, its ConfigMap and the Kubernetes job that submits the driver.
        rendered: the manifests, and the command that hands them in.
        unseen: files and folders that exist here under a word of the recipe, and that pods will not find.
    """

    job: Job
    name: str
    rendered: Rendered
    unseen: list[str]


def render_kubernetes(job: Job, root: Path, folder: Path, name: str | None = None) -> KubernetesJob:
    """Everything that would be given to the cluster; nothing is asked or written.

    Args:
        root: the working directory, in which the recipe's words are looked up as files.
        folder: where the manifests will lie on this machine.
        name: where the RayJob is not called as the run.

    Raises:
        ConfigError: the recipe does not say what pods are made of, or where the run directory is.
        UserError: the files that the recipe names are too large to go along.
    """
    config = job.config
    check(job)
    name = name or job_name(job.run_id)
    named = named_files(config.model_dump(mode="json"), root.resolve())
    scripts = {script: (TEMPLATES / "kubernetes" / "base" / script).read_text() for script in SCRIPTS}
    recipe = yaml_text.dump(named.tree)
    folders = {path for path in named.packed if (root / path).is_dir()}
    files = config_files({"recipe.yaml": recipe, **scripts}, root.resolve(), named.packed - folders)
    labels = {"app.kubernetes.io/name": "rlpost", "rlpost/run": label_value(job.run_id)}
    common = {
        "run_id": job.run_id,
        "job_name": name,
        "namespace": config.launch.kubernetes.namespace,
        "folder": MOUNT,
    }
    manifests = {
        "configmap.yaml": render(
            "kubernetes/configmap.yaml.j2",
            **common,
            labels=labels,
            texts=files.texts,
            binaries=files.binaries,
        ),
        "rayjob.yaml": render("kubernetes/rayjob.yaml.j2", **common, **_values(job, name, labels, files)),
    }
    command = ["kubectl", "apply", *(part for file in manifests for part in ("-f", str(folder / file)))]
    return KubernetesJob(job, name, Rendered(manifests, [command]), unseen(config, named.outside | folders))


def _values(job: Job, name: str, labels: Mapping[str, str], files: ConfigFiles) -> dict[str, object]:
    config, kubernetes = job.config, job.config.launch.kubernetes
    stop_s = int(config.checkpoint.grace_s) + DRAIN_MARGIN_S
    queue = {"kueue.x-k8s.io/queue-name": kubernetes.queue} if kubernetes.queue else {}
    setup = config.launch.setup
    return {
        "machines": config.machines.count,
        "labels": labels,
        "job_labels": labels | queue,
        "annotations": {
            "rlpost/run-id": job.run_id,
            "rlpost/run-directory": str(job.directory),
            # KubeRay then leaves the start of Ray to the command of the container.
            **({"ray.io/overwrite-container-cmd": "true"} if setup else {}),
        },
        "queue": kubernetes.queue,
        "retries": RETRIES,
        "ray_version": DEPENDENCIES["ray"].tested,
        "image": kubernetes.image,
        "pull_secret": kubernetes.pull_secret,
        "service_account": kubernetes.service_account,
        "node_selector": kubernetes.node_selector,
        "tolerate": kubernetes.tolerate if config.machines.accelerators else [],
        "setup": "\n".join(["set -e", *setup, "ulimit -n 65536 || true", 'eval "$KUBERAY_GEN_RAY_START_CMD"'])
        if setup
        else "",
        "environment": [*sorted(config.launch.environment.items()), *_environment(job, name, stop_s)],
        "resources": _resources(config),
        "shared_memory": _shared_memory(config),
        "pod_security": POD_SECURITY,
        "container_security": CONTAINER_SECURITY,
        "volumes": kubernetes.volumes,
        "items": files.items,
        "stop_s": stop_s,
        "margin_s": DRAIN_MARGIN_S,
    }


def _environment(job: Job, name: str, stop_s: int) -> list[tuple[str, str]]:
    return [
        (RUN_ID, job.run_id),
        (LAUNCHER, f"kubernetes:{name}"),
        ("RLPOST_RUN_DIR", str(job.directory)),
        ("RLPOST_COMMAND", command_of(job.config, shared=False)),
        ("RLPOST_FILES", MOUNT),
        ("RLPOST_STOP_S", str(stop_s)),
        ("RAY_USAGE_STATS_ENABLED", "0"),
    ]


def _resources(config: RunConfig) -> dict[str, object]:
    machines = config.machines
    accelerators = {"nvidia.com/gpu": machines.accelerators} if machines.accelerators else {}
    return {"cpu": machines.cpus, "memory": _gib(machines.memory_gib or 0.0), **accelerators}


def _shared_memory(config: RunConfig) -> dict[str, str]:
    size = config.machines.shared_memory_gib
    return {"medium": "Memory", **({"sizeLimit": _gib(size)} if size else {})}


def _gib(size: float) -> str:
    return f"{size:.0f}Gi" if size == int(size) else f"{round(size * 1024)}Mi"


def check(job: Job) -> None:
    """Raise a ConfigError for what a manifest needs, and the recipe does not say."""
    config, kubernetes, directory = job.config, job.config.launch.kubernetes, PurePosixPath(job.directory)
    needed = {
        "launch.kubernetes.image": kubernetes.image,
        "machines.accelerators": config.machines.accelerators,
        "machines.cpus": config.machines.cpus,
        "machines.memory_gib": config.machines.memory_gib,
    }
    missing = [key for key, value in needed.items() if value is None]
    if missing:
        raise ConfigError(
            "the recipe does not say what the pods of a run are made of",
            where=", ".join(missing),
            found="nothing",
            remedy="for a machine with 8 GPUs: launch.kubernetes.image=registry.example/rlpost:gpu "
            "machines.accelerators=8 machines.cpus=64 machines.memory_gib=512 (accelerators: 0 without GPUs)",
        )
    if not any(directory.is_relative_to(volume.path) for volume in kubernetes.volumes):
        paths = ", ".join(volume.path for volume in kubernetes.volumes) or "no volumes"
        raise ConfigError(
            "the run directory is on none of the volumes that pods share, so it would be lost with its pod",
            where="launch.output, launch.kubernetes.volumes",
            found=f"{directory}; {paths}",
            needed="a claim that all pods can write to (ReadWriteMany)",
            remedy="for a claim named runs: launch.kubernetes.volumes='[{claim: runs, path: /runs}]' "
            "launch.output=/runs",
        )


def unseen(config: RunConfig, staying: set[str]) -> list[str]:
    """Of files that do not go along, those that are on no volume either."""
    volumes = [volume.path for volume in config.launch.kubernetes.volumes]
    return sorted(
        path for path in staying if not any(PurePosixPath(path).is_relative_to(volume) for volume in volumes)
    )


def job_name(run_id: str) -> str:
    """A run's id as a name of Kubernetes (RFC 1123): its end is kept, because time and chance stand there."""
    text = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")
    if not text[:1].isalpha():
        text = f"run-{text}".rstrip("-")
    if len(text) > LONGEST_NAME:
        tail = text[-21:]
        text = f"{text[: LONGEST_NAME - len(tail)]}{tail}"
    return re.sub(r"-+", "-", text)


def label_value(run_id: str) -> str:
    """A run's id as the value of a label."""
    text = re.sub(r"[^-._a-zA-Z0-9]", "-", run_id)
    if len(text) > LONGEST_LABEL:
        text = text[: LONGEST_LABEL - 21] + text[-21:]
    return text.strip("-._")


def local_folder(job: Job) -> Path:
    """Where the manifests are kept on this machine: in the run directory, where it is seen from here."""
    seen = job.directory.parent.is_dir()
    return (job.directory if seen else Path(job.config.output) / job.run_id) / LAUNCH
