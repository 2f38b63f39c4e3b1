"""Submitting to a cluster and following: against a `kubectl` that answers from files."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rlpost.errors import DeadlineError, RlpostError, UserError
from rlpost.launch import Job, kubernetes, make_job
from rlpost.launch.kubectl import Kubectl, KubectlError
from rlpost.launch.kubernetes import launch_kubernetes

ROOT = Path(__file__).parents[2]
RUN = "quickstart-20260102-030405-ab12"
KUBECTL = r"""#!/bin/bash
cd "$(dirname "$0")"
echo "$*" >> calls
case "$*" in
  *"json rayjob"*)
    n=$(cat count 2>/dev/null || echo 0)
    echo $((n + 1)) > count
    if [ -e "rayjob.$n" ]; then cat "rayjob.$n"; else cat rayjob.last; fi ;;
  *"json pods"*) cat pods ;;
  *"json events"*) cat events ;;
  *" logs "*) echo "step 1 of 2" ;;
  apply*|*" apply "*) if [ -e refusal ]; then cat refusal >&2; exit 1; fi ;;
esac
"""
Cluster = Callable[..., Path]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Makes a cluster of what it says of the RayJob, question after question."""

    def make(*answers: dict[str, Any], pods: list[dict[str, Any]] | None = None) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "kubectl").write_text(KUBECTL)
        (folder / "kubectl").chmod(0o755)
        for number, answer in enumerate(answers):
            (folder / f"rayjob.{number}").write_text(json.dumps(answer) if answer else "")
        (folder / "rayjob.last").write_text(json.dumps(answers[-1]) if answers else "")
        (folder / "pods").write_text(json.dumps({"items": pods or []}))
        (folder / "events").write_text(json.dumps({"items": [{"message": "exceeded quota: team-a"}]}))
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setattr(kubernetes, "POLL_S", 0.01)
        monkeypatch.chdir(tmp_path)
        return folder

    return make


def said(state: str | None, suspended: bool = False, **status: Any) -> dict[str, Any]:
    deployment = {"jobDeploymentStatus": state} if state else {}
    return {"metadata": {"uid": "u-1"}, "spec": {"suspend": suspended}, "status": deployment | status}


def pod(name: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": "Pending"} | status}


@functools.cache
def job(*overrides: str) -> Job:
    settings = [
        *("launch.kubernetes.image=rlpost:1.0", "launch.kubernetes.queue=team-a", "machines.count=3"),
        *("machines.accelerators=0", "machines.cpus=1", "machines.memory_gib=1"),
        "launch.kubernetes.volumes=[{claim: runs, path: /no/such/runs}]",
    ]
    made = make_job(
        ROOT / "configs" / "quickstart.yaml",
        [*settings, *overrides],
        "kubernetes",
        Path(f"/no/such/runs/{RUN}"),
        datetime(2026, 1, 2),
    )
    return Job(RUN, made.config, made.directory)


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def test_a_job_is_followed_from_its_queue_to_its_end(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = cluster(
        {},
        said(None, suspended=True),
        said(None, suspended=True),
        said("Initializing"),
        said("Running"),
        said("Running"),
        said("Retrying"),
        said("Running"),
        said("Complete", jobStatus="SUCCEEDED"),
        pods=[pod("head", **READY), pod("worker")],
    )
    lines: list[str] = []
    assert launch_kubernetes(job(), False, lines.append) == 0
    assert lines == [
        f"run {RUN} is RayJob {RUN} in namespace default",
        f"its directory, in its pods, is /no/such/runs/{RUN}",
        f"RayJob {RUN} waits in queue team-a",
        "initializing: 1 of 3 machines are ready",
        "retrying: 1 of 3 machines are ready",
        f"run {RUN} is done: /no/such/runs/{RUN}",
    ]
    assert capfd.readouterr().out == "step 1 of 2\n" * 3, "the connection broke once"
    calls = (folder / "calls").read_text()
    shown = [line for line in calls.splitlines() if " logs " in line]
    assert ["--since-time=" in line for line in shown] == [False, True, False], "a new attempt is shown whole"
    manifests = [f"-f runs/{RUN}/launch/{name}.yaml" for name in ("configmap", "rayjob")]
    assert f"--namespace default apply {' '.join(manifests)}\n" in calls
    assert '"kind": "RayJob", "name": "quickstart-20260102-030405-ab12", "uid": "u-1"' in calls
    assert sorted(path.name for path in Path(f"runs/{RUN}/launch").iterdir()) == [
        "configmap.yaml",
        "rayjob.yaml",
    ]


def test_machines_that_do_not_come_are_named_with_the_reason_and_the_job_is_taken_back(
    cluster: Cluster,
) -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/5 nodes: insufficient cpu"}
    pull = {"waiting": {"reason": "ImagePullBackOff", "message": "rlpost:1.0 is not found"}}
    folder = cluster(
        {},
        said("Initializing"),
        pods=[pod("head", conditions=[unschedulable]), pod("worker", containerStatuses=[{"state": pull}])],
    )
    with pytest.raises(DeadlineError) as raised:
        launch_kubernetes(job("launch.start_deadline_s=0.05"), False, lambda line: None)
    text = str(raised.value)
    assert "head: not scheduled: 0/5 nodes: insufficient cpu" in text
    assert "worker: ImagePullBackOff: rlpost:1.0 is not found" in text
    assert "1 without a pod: exceeded quota: team-a" in text
    assert f"--namespace default delete rayjob {RUN} --wait=false\n" in (folder / "calls").read_text()


@pytest.mark.parametrize(
    ("message", "status", "line"),
    [
        (
            "Job entrypoint command failed with exit code 2, last logs:\nerror: no such model\n",
            2,
            f"error: run {RUN} failed with status 2: no such model",
        ),
        ("Job entrypoint command failed with exit code 143", 143, f"run {RUN} was stopped;"),
        ("", 1, f"error: run {RUN} failed with status 1: AppFailed"),
    ],
)
def test_a_failed_job_has_the_status_and_the_last_words_of_its_run(
    cluster: Cluster, message: str, status: int, line: str
) -> None:
    cluster({}, said("Failed", message=message, reason="AppFailed"))
    lines: list[str] = []
    assert launch_kubernetes(job(), False, lines.append) == status
    assert lines[-1].startswith(line)


def test_a_name_that_is_taken_gets_a_number_and_a_deleted_job_is_said_to_be_gone(cluster: Cluster) -> None:
    folder = cluster(said("Failed"), {}, said("Initializing"), {})
    with pytest.raises(RlpostError, match="somebody deleted it"):
        launch_kubernetes(job(), False, lambda line: None)
    assert f"json rayjob {RUN}-2\n" in (folder / "calls").read_text()


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        ('no matches for kind "RayJob" in version "ray.io/v1"', "install the KubeRay operator"),
        ('rayjobs.ray.io is forbidden: User "me" cannot create', "ask for the right"),
        ('namespaces "default" not found', "kubectl create namespace default"),
        ("connection refused", "kubectl config current-context"),
    ],
)
def test_what_kubectl_refuses_is_one_message_with_a_remedy(
    cluster: Cluster, refusal: str, remedy: str
) -> None:
    folder = cluster({})
    (folder / "refusal").write_text(refusal)
    with pytest.raises(KubectlError) as raised:
        launch_kubernetes(job(), False, lambda line: None)
    assert refusal in str(raised.value)
    assert remedy in str(raised.value)


def test_without_kubectl_one_message_names_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--dry-run"):
        Kubectl("default")
