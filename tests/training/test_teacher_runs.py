"""Runs that learn from a teacher's opinion, and from pairs that come with the data."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlpost.doctor.recipe import examine_recipe
from rlpost.errors import CheckpointError, ConfigError
from rlpost.monitor import read_metrics
from rlpost.training import replay, train


@pytest.mark.slow
def test_a_run_learns_from_a_teacher_without_rewards_and_resumes_with_the_same_one_only(
    small_config, finished, tmp_path
):
    teacher = shutil.copytree(finished / "policy", tmp_path / "teacher")
    overrides = [
        "rewards=[]",
        "evaluation={}",
        "stages.rl.algorithm=distil",
        f"teacher={teacher}",
    ]
    config = small_config(*overrides)
    run = train(config, tmp_path / "run")
    rows = [row for row in read_metrics(run) if row["stage"] == "rl"]
    assert len(rows) == 6
    assert all(row["learner/updates"] == 1.0 and row["learner/grad_norm"] > 0.0 for row in rows)
    assert all(row["distil/reverse_kl"] != 0.0 and "reward/part/digits" not in row for row in rows)
    again = replay(run, 8, report=lambda line: None)
    assert again["policy/loss"] == pytest.approx(again["recorded/policy/loss"], rel=1e-5)
    findings = {finding.name: finding for finding in examine_recipe(config)}
    assert findings["teacher of stage rl"].level == "ok"

    # The same place, another model: the run does not go on with it.
    weights = load_file(teacher / "model.safetensors")
    moved = {name: tensor + 0.01 * torch.ones_like(tensor) for name, tensor in weights.items()}
    save_file(moved, teacher / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="teacher of stage rl is"):
        train(config, run, resume=True)
    shutil.rmtree(teacher)
    with pytest.raises(ConfigError, match="there is nothing at"):
        train(config, tmp_path / "none")
    findings = {finding.name: finding for finding in examine_recipe(config)}
    assert findings[f"model {teacher}"].level == "error"
    assert findings["teacher of stage rl"].level == "not tried"


@pytest.mark.slow
def test_a_run_learns_which_of_two_demonstrations_is_better(small_config, tmp_path):
    pairs = [
        "stages.rl.source=demonstrations",
        "stages.rl.data.rejected_column=rejected",
        "stages.rl.train.samples_per_prompt=1",
        "stages.rl.train.prompts_per_step=16",
        "stages.rl.train.learning_rate=0.001",
        "evaluation={}",
    ]
    for name in ("dpo", "orpo"):
        run = train(small_config(*pairs, f"stages.rl.algorithm={name}"), tmp_path / name)
        rows = [row for row in read_metrics(run) if row["stage"] == "rl"]
        assert all(row["preference/pairs"] == 16.0 for row in rows)
        assert all(row["learner/updates"] == 1.0 and row["learner/grad_norm"] > 0.0 for row in rows)
        if name == "dpo":
            assert rows[0]["preference/loss"] == pytest.approx(math.log(2.0), abs=1e-6)
            assert (rows[0]["preference/accuracy"], rows[0]["preference/margin"]) == (0.0, 0.0)
        assert "eval" in json.loads((run / "summary.json").read_text())
