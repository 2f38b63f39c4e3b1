"""`rlpost launch ray` on a Ray cluster of three machines that asks for a token."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from forwarder import forwarder
from ray_hosts import PATIENCE_S, ray_hosts

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]


class Launch:
    """A command `rlpost launch ray`, whose output is read while it runs."""

    def __init__(self, cluster, folder, *words, terminal=False, **variables):
        self.output = folder / f"launch-{time.monotonic_ns()}.txt"
        self.terminal, inner = pty.openpty() if terminal else (None, subprocess.DEVNULL)
        command = [sys.executable, "-m", "rlpost.cli", "launch", "ray", "quickstart_ray.yaml"]
        command += ["--address", cluster.address, *words]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=cluster.environment | variables,
                stdin=inner,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        if terminal:
            os.close(inner)

    @property
    def said(self):
        return self.output.read_text()

    def await_words(self, pattern, times=1):
        end = time.monotonic() + PATIENCE_S
        while len(re.findall(pattern, self.said)) < times:
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.1)

    def interrupt(self, answer=None):
        questions = self.said.count("[s]top the run")
        self.process.send_signal(signal.SIGINT)
        if answer:
            self.await_words(re.escape("[s]top the run"), questions + 1)
            os.write(self.terminal, answer.encode() + b"\n")

    def end(self):
        """Its exit status, and the last line that it said."""
        status = self.process.wait(PATIENCE_S)
        if self.terminal is not None:
            os.close(self.terminal)
        return status, self.said.strip().splitlines()[-1]


def steps_of(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def places(run):
    """For each actor the machines that its processes were on, in their order."""
    logs = sorted((run / "logs").glob("*-*.log"))
    return {log.stem: re.findall(r"^--- .* on (\w+), process", log.read_text(), re.MULTILINE) for log in logs}


def test_a_run_on_a_cluster_is_followed_stopped_resumed_and_goes_on_without_a_machine_of_a_learner_rank(
    tmp_path, project_root
):
    pytest.importorskip("ray")
    work, run = tmp_path / "work", tmp_path / "run"
    work.mkdir()
    shutil.copy(project_root / "configs" / "quickstart_ray.yaml", work)
    short = [
        f"launch.rlpost='{sys.executable} -m rlpost.cli'",
        f"launch.environment={{PYTHONPATH: '{project_root}', OMP_NUM_THREADS: '1'}}",
        *("stages.warmup.train.steps=2", "stages.rl.train.steps=120", "evaluation.problems=8"),
        *(
            "stages.rl.train.prompts_per_step=8",
            "stages.warmup.train.prompts_per_step=8",
            "checkpoint.every=1000",
        ),
        # So that each of the three machines has one actor.
        *("cluster.learner_ranks=2", "rollout.workers=1"),
        *("--output", str(run)),
    ]
    with ray_hosts(["head", "one", "two"], tmp_path, project_root) as cluster:
        refused = {
            "the cluster does not accept the token": Launch(
                cluster, work, *short, "--no-check", RAY_AUTH_TOKEN="wrong", RAY_AUTH_TOKEN_PATH=""
            ),
            "the cluster asks for a token": Launch(
                cluster, work, *short, "--no-check", RAY_AUTH_MODE="disabled"
            ),
        }
        first = Launch(cluster, work, *short, terminal=True)
        for message, launch in refused.items():
            assert launch.end()[0] == 2
            assert re.search(rf"error: {message}\n.*\n.*\n +remedy: .*RAY_AUTH_TOKEN_PATH", launch.said), (
                launch.said
            )
            assert "wrong" not in launch.said
        first.await_words(r"rl \d+/120")
        first.interrupt("c")
        first.await_words(r"rl \d+/120", first.said.count("/120") + 1)
        first.interrupt("s")
        status, last = first.end()
        assert status == 143, first.said[-3000:]
        assert "was stopped; go on with: rlpost launch ray" in last
        record = json.loads((run / "run.json").read_text())
        assert (record["state"], record["launcher"]) == ("stopped", {"kind": "ray", "job": record["id"]})
        stopped_after = max(steps_of(run))
        assert first.said.count("stage rl: 120 steps") == 1

        name = record["id"] + "-2"
        with forwarder((cluster.hosts[0].address, 8265)) as network:
            cluster.address = f"http://127.0.0.1:{network.port}"
            second = Launch(cluster, work, *short, "checkpoint.every=5")
            second.await_words(r"rl \d+/120")
            network.cut(4.0)
            third = Launch(cluster, work, *short)
            found = places(run)
            assert sorted(found) == ["learner-0", "learner-1", "rollout-worker-0"]
            assert sorted(hosts[-1] for hosts in found.values()) == ["head", "one", "two"]
            # The driver is on the head. One of the two ranks is not.
            rank, lost = next((name, hosts[-1]) for name, hosts in found.items() if hosts[-1] != "head")
            next(host for host in cluster.hosts if host.name == lost).end()
            assert third.end()[0] == 2
            assert re.search(rf"going on\n.*\n +found: +run {record['id']}.*\n.*rlpost stop", third.said)
            status, last = second.end()
        assert f"is job {name} of the Ray cluster" in second.said
        assert "lost the connection" in second.said
        # Each piece once, though it was read twice.
        assert second.said.count(f"resuming after step {stopped_after}\n") == 1
        assert second.said.count("Running entrypoint") == 1
        record = json.loads((run / "run.json").read_text())
        assert record["exit_status"] == status, second.said[-3000:]
        assert (record["state"], status, last) == ("done", 0, f"run {record['id']} is done: {run}")
    assert steps_of(run) == list(range(1, 123))
    died = rf"learner {rank[-1]} (died|is silent)\n +where: +\w+, on {lost}, process \d+\n"
    assert re.search(died, second.said), second.said[-3000:]
    assert f"{lost} no longer answers: others take over what ran there" in second.said
    assert re.search(r"going on after step \d+\n", second.said)
    assert places(run)[rank][-1] != lost
    names = [json.loads(line)["id"] for path in sorted((run / "rollouts").glob("*")) for line in path.open()]
    assert len(set(names)) == len(names) == 120 * 64
