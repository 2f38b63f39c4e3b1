"""Runs in which a gate sends each prompt to its rollouts or to its demonstration."""

import math

import pytest

from rlpost.monitor import read_metrics
from rlpost.training import replay, train


@pytest.mark.slow
def test_hpt_trains_each_prompt_on_one_side_of_its_gate_and_is_replayed_exactly(small_config, tmp_path):
    stage = ("stages.rl.source=both", "stages.rl.algorithm=hpt", "stages.rl.train.updates_per_step=2")
    budget = ("stages.rl.train.steps=2", "evaluation.problems=2", "evaluation.every=0")
    run = train(small_config(*stage, *budget), tmp_path / "run")
    rows = [row for row in read_metrics(run) if row["stage"] == "rl"]
    assert len(rows) == 2
    for row in rows:
        shares = [value for name, value in row.items() if name.startswith("hybrid/pass_count/")]
        assert sum(shares) == pytest.approx(1.0)
        assert row["hybrid/gated_share"] == row["hybrid/pass_count/0"] > 0
        assert row["hybrid/without_demonstration"] == 0
        assert row["policy/loss/demonstrations"] > 0
        assert row["policy/coefficient/demonstrations"] > 0
        tokens = [row[f"policy/trained_tokens/{name}"] for name in ("rollouts", "demonstrations")]
        assert row["learner/trained_tokens"] == sum(tokens)
        assert tokens[1] < row["demonstrations/tokens"] or row["hybrid/gated_share"] == 1
    replayed = replay(run, rows[-1]["step"])
    for name in ("policy/loss", "learner/grad_norm", "learner/trained_tokens"):
        assert math.isclose(replayed[name], replayed[f"recorded/{name}"], rel_tol=1e-6)
