"""Stages whose batches hold each prompt's samples and then its demonstration."""

import math

import pytest

from rlpost.config import stage_objective
from rlpost.data.conversation import unsampled
from rlpost.data.trajectory import Prompt, RewardResult, Trajectory, Turn
from rlpost.monitor import read_metrics
from rlpost.training import replay, train
from rlpost.training.rounds import Gathered
from rlpost.training.sources import step_data

MIXED = (
    "stages.rl.source=both",
    "stages.rl.algorithm={base: grpo, terms: {demonstrations: {rows: demonstrations, weight: 0.5, "
    "advantage: constant, denominator: current, aggregation: token_mean}}}",
)


def shown(name, *token_ids):
    return Prompt(name, "", (1,), demonstration=(unsampled(token_ids, "", by_policy=True),))


def said(prompt, *rewards):
    turn = Turn((5,), "x", True, (-0.5,), (0,))
    results = [RewardResult(r, "error" if r is None else "scored") for r in rewards]
    return [
        Trajectory(f"{prompt.id}-{k}", prompt, (turn,), "eos", k, result) for k, result in enumerate(results)
    ]


def test_a_step_holds_every_prompts_scored_samples_and_its_demonstration(small_config):
    stage = small_config(*MIXED).stages[1]
    hard, plain, lost = shown("hard", 6, 2), Prompt("plain", "", (1,)), shown("lost", 7, 8, 2)
    groups = [said(hard, 0.0, 1.0), said(plain, 1.0)]
    sampled = [t for group in groups for t in group] + said(lost, None)
    gathered = Gathered(3, sampled, sampled[:3], groups, members=[hard, plain, lost])
    data = step_data(gathered, stage_objective(stage), stage, {}, version=0)
    assert data.prompt_ids == ["hard", "hard", "hard", "plain", "lost"]
    assert data.batch.group_S.tolist() == [0, 0, 0, 1, 2]
    assert data.batch.demonstration_S.tolist() == [False, False, True, False, True]
    assert data.batch.reward_S.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert data.batch.length_S.tolist() == [1, 1, 2, 1, 3]
    assert data.samples == 4
    assert data.metrics["demonstrations/missing"] == 1.0
    assert data.metrics["demonstrations/alone"] == 1.0


@pytest.mark.slow
def test_a_mixed_stage_learns_from_both_and_is_replayed_exactly(small_config, tmp_path):
    budget = ("stages.rl.train.steps=3", "evaluation.problems=2", "evaluation.every=0")
    run = train(small_config(*MIXED, *budget), tmp_path / "run")
    rows = [row for row in read_metrics(run) if row["stage"] == "rl"]
    assert len(rows) == 3
    for row in rows:
        assert row["rollout/samples"] == 16
        assert row["policy/loss/demonstrations"] > 0
        assert row["policy/trained_tokens/demonstrations"] > 4
        assert row["demonstrations/missing"] == row["demonstrations/alone"] == 0
        assert row["mismatch/unknown_tokens"] == 0
        assert row["mismatch/logprob_gap_max"] < 1e-4
    replayed = replay(run, 6)
    for name in ("policy/loss", "learner/grad_norm", "learner/trained_tokens"):
        assert math.isclose(replayed[name], replayed[f"recorded/{name}"], rel_tol=1e-6)
