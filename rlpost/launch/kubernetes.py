"""`rlpost launch kubernetes`: a run as a RayJob of KubeRay, followed to its end."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlpost.errors import INTERRUPTED, TERMINATED, DeadlineError, RlpostError
from rlpost.launch.directory import write_files
from rlpost.launch.job import Job
from rlpost.launch.kubectl import Kubectl, KubectlError
from rlpost.launch.kubernetes_job import KubernetesJob, job_name, label_value, local_folder, render_kubernetes
from rlpost.training.status import write_submitted

Report = Callable[[str], None]

POLL_S = 2.0
SILENCE_S = 300.0
"""Longest time without an answer of the API server, after which following is given up; the run is not."""
LONGEST_REASON = 300


def launch_kubernetes(job: Job, detach: bool, report: Report) -> int:
    """Submit a run and follow it; the exit status of the command line.

    Args:
        detach: return once the cluster has the job.
        report: takes what is said beside the run's own output.

    Raises:
        UserError: the recipe, kubectl or the run directory is not fit for it.
        RlpostError: the cluster refused the job, did not start it in time, or fell silent.
    """
    kubectl = Kubectl(job.config.launch.kubernetes.namespace)
    # Rendered before the cluster is asked anything: a wrong recipe needs no cluster.
    launched = render_kubernetes(job, Path.cwd(), local_folder(job))
    name = free_name(kubectl, launched.name)
    if name != launched.name:
        launched = render_kubernetes(job, Path.cwd(), local_folder(job), name)
    warn(launched, report)
    submit(kubectl, launched)
    advice = how_to(kubectl, launched)
    report(f"run {job.run_id} is RayJob {name} in namespace {kubectl.namespace}")
    report(f"its directory, in its pods, is {job.directory}")
    if detach:
        report(advice)
        return 0
    try:
        status, cause = Follower(kubectl, launched, report).until_end()
    except KeyboardInterrupt:
        report(f"\nthe run goes on without this terminal\n{advice}")
        return INTERRUPTED
    if status == TERMINATED:
        report(f"run {job.run_id} was stopped; the same command with --output {job.directory} goes on")
    elif status:
        report(f"error: run {job.run_id} failed with status {status}: {cause}")
    else:
        report(f"run {job.run_id} is done: {job.directory}")
    return status


def how_to(kubectl: Kubectl, launched: KubernetesJob) -> str:
    """How a user looks after the run by hand."""
    follow = shlex.join(kubectl.command("logs", "--follow", f"job/{launched.name}"))
    stop = shlex.join(kubectl.command("delete", "rayjob", launched.name))
    return f"follow it: {follow}\nstop it, which saves a checkpoint first: {stop}"


def free_name(kubectl: Kubectl, name: str) -> str:
    """A name that no RayJob has: the run's own, and with a number when the run goes on."""
    number, free = 1, name
    while kubectl.get("rayjob", free):
        number += 1
        free = job_name(f"{name}-{number}")
    return free


def warn(launched: KubernetesJob, report: Report) -> None:
    """Say which files of this machine the run will not find."""
    for path in launched.unseen:
        report(f"warning: {path} stays here; if the recipe means it, it must be on a volume, or in the image")


def submit(kubectl: Kubectl, launched: KubernetesJob) -> None:
    """Write the manifests, and hand them to the cluster."""
    job = launched.job
    folder = local_folder(job)
    write_files(folder.parent, launched.rendered)
    if folder.parent == job.directory:
        write_submitted(job.directory, job.run_id, "kubernetes", launched.name, job.config.name)
    for command in launched.rendered.commands:
        kubectl.call(*command[1:])
    # The ConfigMap goes when the RayJob does.
    metadata = kubectl.get("rayjob", launched.name).get("metadata", {})
    owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": launched.name, "uid": metadata.get("uid")}
    patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
    kubectl.call("patch", "configmap", launched.name, "--type", "merge", "--patch", patch)


class Follower:
    """Says how a RayJob stands, and lets its driver's output through, attempt after attempt."""

    def __init__(self, kubectl: Kubectl, launched: KubernetesJob, report: Report) -> None:
        self.kubectl, self.name, self.job, self.report = kubectl, launched.name, launched.job, report
        self.deadline_s = self.job.config.launch.start_deadline_s
        self._said = self._shown_until = ""
        self._since = self._heard = time.monotonic()

    def until_end(self) -> tuple[int, str]:
        """The exit status of the run, and one line on why it failed.

        Raises:
            DeadlineError: pods did not come in time, and the job was taken back; or the cluster fell silent.
            RlpostError: somebody deleted the job.
        """
        while True:
            state, status = self._state()
            if state in ("Complete", "Failed"):
                return _end(state, status)
            if state == "Running":
                self._since = time.monotonic()
                self._output()
            elif state in ("Suspended", "Suspending"):
                self._since = time.monotonic()
                queue = self.job.config.launch.kubernetes.queue
                self._say(
                    f"RayJob {self.name} waits in queue {queue}" if queue else f"{self.name} is suspended"
                )
            elif state:
                self._shown_until = ""
                self._waiting(state)
            time.sleep(POLL_S)

    def _output(self) -> None:
        """Let the driver's output through until it ends, or until the connection does."""
        again = [f"--since-time={self._shown_until}"] if self._shown_until else []
        self.kubectl.follow("logs", "--follow", "--pod-running-timeout=60s", *again, f"job/{self.name}")
        self._shown_until = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    def _state(self) -> tuple[str, dict[str, Any]]:
        """Where the RayJob is in its life, and its whole status; "" where the cluster gave no answer."""
        try:
            found = self.kubectl.get("rayjob", self.name)
        except (KubectlError, DeadlineError) as error:
            silent = time.monotonic() - self._heard
            if silent > SILENCE_S:
                again = shlex.join(self.kubectl.command("get", "rayjob", self.name))
                raise DeadlineError(
                    "the cluster fell silent; the run may go on without this terminal",
                    where=f"RayJob {self.name}",
                    found=f"no answer for {silent:.0f} s: {error.details['found']}",
                    remedy=f"look again later: {again}",
                ) from None
            self._say(f"lost the cluster, trying again for {SILENCE_S:.0f} s")
            return "", {}
        self._heard = time.monotonic()
        if not found:
            raise RlpostError("the RayJob is gone: somebody deleted it", where=f"RayJob {self.name}")
        status = found.get("status", {})
        suspended = "Suspended" if found["spec"].get("suspend") else "Initializing"
        return status.get("jobDeploymentStatus") or suspended, status

    def _waiting(self, state: str) -> None:
        pods = self._pods()
        ready = sum(1 for reason in pods.values() if not reason)
        count = self.job.config.machines.count
        self._say(f"{state.lower()}: {ready} of {count} machines are ready")
        waited = time.monotonic() - self._since
        if waited <= self.deadline_s:
            return
        missing = [f"{name}: {reason}" for name, reason in sorted(pods.items()) if reason]
        if len(pods) < count:
            missing.append(f"{count - len(pods)} without a pod: {self._events()}")
        self.kubectl.call("delete", "rayjob", self.name, "--wait=false")
        raise DeadlineError(
            "the machines of the run did not come, and its job was taken back",
            where=f"RayJob {self.name} in namespace {self.kubectl.namespace}",
            found=f"after {waited:.0f} s {ready} of {count} are ready; missing:\n    "
            + "\n    ".join(missing),
            needed=f"all within launch.start_deadline_s: {self.deadline_s:g}",
            remedy="see what nodes have left: kubectl describe nodes; or raise launch.start_deadline_s",
        )

    def _pods(self) -> dict[str, str]:
        """Pods that are machines of the run, and what each one waits for; "" for one that is ready."""
        chosen = f"rlpost/run={label_value(self.job.run_id)},ray.io/node-type in (head,worker)"
        found = self.kubectl.get("pods", "--selector", chosen)
        return {pod["metadata"]["name"]: _reason(pod) for pod in found.get("items", [])}

    def _events(self) -> str:
        """The last thing that the cluster said about the job."""
        chosen = f"involvedObject.name={self.name},type=Warning"
        items = self.kubectl.get("events", "--field-selector", chosen).get("items", [])
        return _short(items[-1].get("message", "")) if items else "the operator of KubeRay has made none"

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.report(text)


def _end(state: str, status: dict[str, Any]) -> tuple[int, str]:
    if state == "Complete" and status.get("jobStatus") != "FAILED":
        return 0, ""
    message = status.get("message") or status.get("reason") or "KubeRay gives no reason"
    code = re.search(r"exit code (\d+)", message)
    said = [line for line in message.splitlines() if line.startswith("error: ")]
    return int(code[1]) if code else 1, _short(said[-1].removeprefix("error: ") if said else message)


def _reason(pod: dict[str, Any]) -> str:
    status = pod.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", [])}
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    for entry in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = entry.get("state", {})
        held = state.get("waiting") or state.get("terminated")
        if held and held.get("reason") not in (None, "PodInitializing", "ContainerCreating", "Completed"):
            return _short(f"{held['reason']}: {held.get('message', 'no message')}")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return _short(f"not scheduled: {scheduled.get('message', 'no message')}")
    return f"{status.get('phase', 'unknown').lower()}, not ready"


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]} ..."
