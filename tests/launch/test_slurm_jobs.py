"""`rlpost launch slurm` with a real Slurm of two nodes: a node that never comes, and a preemption."""

import json

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from slurm_cluster import slurm_cluster, until

from rlpost.config import load_config
from rlpost.training import train
from rlpost.training.status import read_record

RECIPE = """
name: small
model: {init: tiny, tiny: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64}}
data: {task: addition, template: none, max_prompt_tokens: 16}
rewards: REWARD
rollout: {max_response_tokens: 4, slots: 16}
algorithm: grpo
train: {steps: 12, prompts_per_step: 2, samples_per_prompt: 2, learning_rate: 1e-3}
evaluation: {problems: 4, every: 0}
checkpoint: {every: 100}
scoring: {canary: false}
monitor: {tensorboard: false}
launch: {start_deadline_s: 150}
"""
# Slow, so that there is a middle to be told to end in.
REWARD = """
import time

def reward(completion, answer):
    time.sleep(0.2)
    return float(len(completion) % 3)
"""
NOT_OF_THE_RUN = ("time/", "rollout/batches_ahead")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "reward.py").write_text(REWARD)
    (folder / "small.yaml").write_text(RECIPE.replace("REWARD", str(folder / "reward.py")))
    return folder / "small.yaml"


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_slurm_names_a_node_that_never_comes_and_resumes_a_run_that_it_told_to_end_exactly(
    tmp_path, project_root, recipe
):
    with slurm_cluster(["n1", "n2"], tmp_path, project_root) as slurm:
        lost, run = tmp_path / "lost", tmp_path / "run"
        slurm.stop_node("n2")
        number, _ = slurm.submit(recipe, "--output", lost, "machines.count=2")
        # It is completing until the dead node is back.
        job = slurm.until_over(number, "COMPLETING")
        assert (job["ExitCode"], job["Restarts"]) == ("1:0", "0")
        said = (lost / "launch" / f"slurm-{number}.out").read_text()
        assert "Communication connection failure" in said
        assert said.splitlines()[-1] == "error: 1 node of 2 could not start: n2"
        record = read_record(lost)
        assert (record.state, record.last_line) == ("failed", "1 node of 2 could not start: n2")
        slurm.start_node("n2")

        number, _ = slurm.submit(recipe, "--output", run, "machines.count=2")
        output, metrics = run / "launch" / f"slurm-{number}.out", run / "metrics.jsonl"
        until(
            lambda: (
                slurm.job(number)["JobState"] == "FAILED"
                or (metrics.exists() and metrics.read_text().count("\n") >= 3)
            ),
            "some steps",
            slurm.tails,
        )
        assert slurm.job(number)["JobState"] == "RUNNING", output.read_text()
        raylets = [sum("/raylet " in line for line in slurm.processes(name)) for name in ("n1", "n2")]
        assert raylets == [1, 1]
        token = run / "launch" / f"ray-token-{number}"
        assert token.stat().st_mode & 0o777 == 0o600
        slurm.run("scancel", "--signal=TERM", number)
        until(lambda: slurm.job(number)["Restarts"] == "1", "the job to be queued again", slurm.tails)
        assert not token.exists()
        job = slurm.until_over(number)
        said = output.read_text()
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), said
        assert "resuming after step" in said
        assert token.name not in said
        assert {name: slurm.processes(name) for name in slurm.nodes} == {"n1": [], "n2": []}
        assert read_record(run).launcher == {"kind": "slurm", "job": number}
    undisturbed = train(load_config(recipe), tmp_path / "undisturbed")
    assert steps_of(run) == steps_of(undisturbed)


def steps_of(run):
    """The rows of metrics.jsonl without what differs from machine to machine."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(NOT_OF_THE_RUN)} for row in rows]
