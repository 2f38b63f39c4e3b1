"""SFT, then OTR, then DCPO in one run on Ray, vLLM and DeepSpeed, whose driver is killed in the later two."""

import os
import signal
from importlib.util import find_spec

import pytest
from driver_runs import PATIENCE_S, driver, wait_until
from fault_runs import alive, asked, column, tokens

from rlpost.monitor import read_metrics

pytestmark = [
    pytest.mark.cluster,
    *(
        pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
        for name in ("ray", "vllm", "deepspeed")
    ),
    pytest.mark.timeout(900),
]

RECIPE = """
name: stages
model:
  init: tiny
  tiny: {hidden_size: 32, layers: 2, heads: 1, intermediate_size: 64, max_positions: 64}
data: {task: addition, limit: 200, template: none, max_prompt_tokens: 16, demonstration_column: demonstration}
rewards: FOLDER/digits.py
rollout: {engine: vllm, max_response_tokens: 8, vllm: {kv_cache_gib: 0.1, max_model_len: 64}}
stages:
  - {name: sft, source: demonstrations, algorithm: sft, train: {samples_per_prompt: 1}}
  - name: otr
    source: demonstrations
    algorithm: {base: otr, actions: {one_token: {samples: 16}}}
    train: {samples_per_prompt: 1}
  - {name: dcpo, algorithm: dcpo, train: {samples_per_prompt: 4}}
train: {steps: 10, prompts_per_step: 8, learning_rate: 0.001}
evaluation: {problems: 4}
monitor: {tensorboard: false}
cluster: {mode: ray, threads: 1, deadline_s: 300}
learner: {backend: deepspeed, zero_stage: 2, bucket_mib: 8}
"""
STEPS, STRUCK = 30, (17, 27)
"""Each stage has 10 steps, and checkpoints after 5 and 10; the driver is killed after 7. Inline also in
the first stage: tests/training/test_stage_pipeline.py."""


def learnt(run):
    """Every step's metrics but those that are times, or count what happened to processes."""
    processes = ("time/", "rollout/worker_restarts", "rollout/resubmitted", "rollout/batches_ahead")
    return [{k: v for k, v in row.items() if not k.startswith(processes)} for row in read_metrics(run)]


def killed_after(run, step):
    """Let the driver make so many steps, then kill it, and wait until nothing is left of it."""
    wait_until(lambda: run.steps() >= step or run.process.poll() is not None, "no progress")
    assert run.process.poll() is None, run.said[-2000:]
    family = run.family()
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait(PATIENCE_S)
    wait_until(lambda: not any(map(alive, family)), "processes are left", 60.0)


def test_a_driver_killed_in_two_of_three_stages_makes_the_steps_since_its_checkpoint_again_exactly(
    tmp_path,
):
    before, sampled = [], {}
    for step in (*STRUCK, None):
        settings = ("checkpoint.every=5", "cluster.learner_ranks=1")
        with driver(tmp_path, *settings, resume=bool(before), recipe=RECIPE) as run:
            if step is None:
                assert run.process.wait(PATIENCE_S) == 0, run.said[-2000:]
            else:
                killed_after(run, step)
            found, made = learnt(run.run), tokens(run.run)
        if before:
            assert run.resumed_after() < len(before), "no step was made again"
        assert found[: len(before)] == before
        assert {key: made[key] for key in sampled} == sampled
        before, sampled = found, made
    assert column(run.run, "step") == list(range(1, STEPS + 1))
    assert [row["stage"] for row in read_metrics(run.run)] == ["sft"] * 10 + ["otr"] * 10 + ["dcpo"] * 10
    assert sorted(asked(run.run)) == list(range(21, 31))
