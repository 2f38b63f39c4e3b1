"""Runs that train adapters: two stages, a reference, resuming, replaying."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from rlpost.errors import CheckpointError
from rlpost.monitor import read_metrics
from rlpost.training import replay, train

LORA = ("model.lora={rank: 4}", "stages.rl.algorithm={base: grpo, kl: 0.1}", "evaluation.every=0")


def learnt(run_dir):
    """All metrics but times."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(run_dir)]


def policy(run_dir):
    return {name: (run_dir / "policy" / name).read_bytes() for name in FILES}


FILES = ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")


@pytest.mark.slow
def test_a_run_with_adapters_goes_through_stages_resumes_in_each_and_replays_exactly(small_config, tmp_path):
    config, run_dir = small_config(*LORA, "checkpoint.keep=9"), tmp_path / "run"
    train(config, run_dir)
    rows, written = learnt(run_dir), policy(run_dir)
    # 7 layers of each of 2 blocks: 4 x (4 x 64 + 3 x 96).
    assert {row["learner/trainable_parameters"] for row in rows} == {2 * 4 * (4 * 64 + 3 * 96)}
    assert rows[4]["policy/kl_ref_k3"] == pytest.approx(0.0, abs=1e-6)
    assert rows[-1]["policy/kl_ref_k3"] > 1e-6
    factors = load_file(run_dir / "policy" / "adapter" / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.layers.") for name in factors)
    result = replay(run_dir, 9, report=lambda text: None)
    assert result["policy/loss"] == result["recorded/policy/loss"]

    # As if the run had been lost at the end, in the second stage, and in the first one.
    for last in (10, 8, 2):
        for later in sorted((run_dir / "checkpoints").glob("step-*")):
            if int(later.name.removeprefix("step-")) > last:
                shutil.rmtree(later)
        shutil.rmtree(run_dir / "policy")
        train(config, run_dir, resume=True)
        assert learnt(run_dir) == rows
        assert policy(run_dir) == written

    facts = run_dir / "checkpoints" / "step-000010" / "learner" / "learner.json"
    assert json.loads(facts.read_text())["base"]["init"] == "tiny"
    with pytest.raises(CheckpointError, match=r"model\.lora"):
        train(small_config(*LORA[1:]), run_dir, resume=True)
