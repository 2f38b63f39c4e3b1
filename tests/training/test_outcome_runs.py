"""Runs of OREAL: a token reward model that warms up, then learns with the policy, resumes and replays."""

import shutil

import pytest

from rlpost.monitor import read_metrics
from rlpost.training import replay, train

OREAL = (
    "stages.rl.algorithm=oreal",
    "stages.rl.critic={learning_rate: 0.003, warmup_steps: 1}",
    "stages.rl.train={steps: 3, prompts_per_step: 8, samples_per_prompt: 8}",
    "stages.warmup.train={steps: 25, prompts_per_step: 60, samples_per_prompt: 1, learning_rate: 0.01}",
    "checkpoint={every: 26, keep: 9}",
    "data.task_options={digits: 1}",
    "data.limit=60",
    "evaluation.every=0",
)


def learnt(run_dir):
    """The metrics of the stage with the model, but for times."""
    rows = [row for row in read_metrics(run_dir) if row["stage"] == "rl"]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.mark.slow
def test_a_run_with_a_token_reward_model_learns_resumes_and_replays_exactly(small_config, tmp_path):
    config, run_dir = small_config(*OREAL), tmp_path / "run"
    train(config, run_dir)
    rows = learnt(run_dir)
    kept = [row["selection/kept_sequence_share"] * 64 for row in rows]
    assert [row["critic/updates"] for row in rows] == [1, 1, 1]
    assert [row["learner/updates"] for row in rows] == [0, 1, 1]
    for row, number in zip(rows, kept, strict=True):
        uniform = row["selection/all_right_prompts"] + row["selection/all_wrong_prompts"]
        assert number == pytest.approx(2 * (8 - uniform)) and number > 0
    # A head of zeros gives nothing; what it has learnt from the first step weighs tokens in the second.
    assert rows[0]["credit/zero_share"] == 1.0 and rows[0]["critic/outcome_loss"] == pytest.approx(0.6931472)
    assert rows[1]["credit/zero_share"] < 1.0
    assert rows[1]["policy/loss/wrong"] > 0.0
    assert rows[1]["policy/trained_tokens/right"] > 0
    result = replay(run_dir, 27, report=lambda text: None)
    for name in ("critic/outcome_loss", "critic/grad_norm", "policy/loss", "learner/grad_norm"):
        assert result[name] == result[f"recorded/{name}"]

    shutil.rmtree(run_dir / "checkpoints" / "step-000028")
    train(config, run_dir, resume=True)
    assert learnt(run_dir) == rows
