"""Stages whose batches hold each prompt's samples and then its demonstration."""

import json
import math
from dataclasses import replace

import pytest
import torch

from rlpost.config import stage_objective
from rlpost.data import PromptSampler
from rlpost.data.conversation import unsampled
from rlpost.data.trajectory import Prompt, RewardResult, Trajectory, Turn
from rlpost.doctor.recipe import data_sets
from rlpost.estimator import DropUniform, build_objective
from rlpost.monitor import read_metrics
from rlpost.training import replay, train
from rlpost.training.recording import read_rollouts
from rlpost.training.rounds import Gathered, gather
from rlpost.training.run_directory import RunDirectory
from rlpost.training.saving import STATE
from rlpost.training.sources import Demonstrations, step_data
from rlpost.training.stage_data import data_metrics, load_stages
from rlpost.training.state import RunState

MIXED = (
    "stages.rl.source=both",
    "stages.rl.algorithm={base: grpo, terms: {rollouts: {correction: [{truncated: {}}]}, "
    "demonstrations: {rows: demonstrations, weight: 0.5, advantage: constant, denominator: current, "
    "aggregation: token_mean}}}",
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


def test_a_step_of_which_no_sample_could_be_scored_learns_from_its_demonstrations(small_config):
    stage = small_config(*MIXED).stages[1]
    prompts = [shown("a", 6, 2), shown("b", 7, 7, 2)]
    sampled = [t for prompt in prompts for t in said(prompt, None, None)]
    data = step_data(Gathered(2, sampled, members=prompts), stage_objective(stage), stage, {}, version=0)
    assert data.batch.signal("behaviour_logprob").isnan().all()
    assert data.metrics["demonstrations/alone"] == 2 and data.metrics["rollout/dropped_samples"] == 4
    objective = stage_objective(stage)
    prepared = objective.prepare(data.batch.with_signals(old_logprob=torch.zeros(5)))
    weight_N = objective.coefficients(torch.zeros(5), prepared)
    assert weight_N.tolist() == pytest.approx([-0.5 / 5] * 5)


def test_prompts_without_a_demonstration_are_loaded_for_mixed_stages_alone(
    small_config, tiny_tokenizer, tmp_path
):
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "shown": None if i % 2 else "2"} for i in range(6)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ("data.task=null", f"data.path={path}", "data.limit=null", "data.demonstration_column=shown")
    config = small_config(*MIXED, *source, "data.max_broken_share=0.5")
    data = load_stages(config, tiny_tokenizer)
    assert len(data["warmup"]) == 3 and len(data["rl"]) == 6
    assert data_metrics(data["warmup"])["data/rows_broken"] == 3
    metrics = data_metrics(data["rl"])
    assert metrics["data/rows_broken"] == 0 and metrics["data/demonstrations_missing"] == 3
    assert [(s.readers, s.mixed) for s in data_sets(config, None)[:2]] == [
        (("stage warmup",), False),
        (("stage rl",), True),
    ]


def test_with_refilling_a_prompt_that_is_passed_over_leaves_with_its_demonstration(small_config):
    stage = small_config(*MIXED).stages[1]
    prompts = [shown(f"p{i}", 6, 2) for i in range(6)]
    even = [p.id for p in prompts[::2]]
    objective = stage_objective(stage)
    objective = replace(objective, selection=(DropUniform(refill=True, max_rounds=3),))

    def sample(asked):
        return [t for p in asked for t in said(p, 1.0, 1.0 if p.id in even else 0.0)]

    gathered = gather(PromptSampler(prompts, 2, seed=0), sample, objective, wanted=2)
    data = step_data(gathered, objective, stage, {}, version=0)
    assert len(gathered.groups) == 2 and gathered.prompts > 2
    assert data.batch.demonstration_S.tolist() == [False, False, True] * 2
    assert not set(data.prompt_ids) & set(even) and len(set(data.prompt_ids)) == 2


def test_a_prompts_samples_and_its_demonstration_stay_in_one_update_when_others_lack_theirs(small_config):
    stage = small_config(*MIXED).stages[1]
    prompts = [shown("a", 6, 2), Prompt("b", "", (1,)), Prompt("c", "", (1,)), shown("d", 7, 2)]
    groups = [said(prompt, 0.0, 1.0) for prompt in prompts]
    sampled = [t for group in groups for t in group]
    objective = stage_objective(stage)
    gathered = Gathered(4, sampled, sampled, groups, members=prompts)
    batch = step_data(gathered, objective, stage, {}, version=0).batch
    known = batch.with_signals(old_logprob=torch.zeros(batch.N))
    # Of ten rows five would be half of them, and the border inside of the group of b.
    assert batch.group_S.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert objective.prepare(known, updates=2).update_S.tolist() == [0] * 5 + [1] * 5
    assert objective.prepare(known, updates=3).update_S.tolist() == [0] * 5 + [1] * 2 + [2] * 3
    assert objective.prepare(known, updates=10).update_S.tolist() == batch.group_S.tolist()
    assert objective.prepare(known.rows(torch.arange(0)), updates=2).update_S.tolist() == []


def test_a_demonstrated_pair_is_never_cut_by_an_update(small_config):
    stage = small_config().stages[0]
    turns = [unsampled(ids, "", by_policy=True) for ids in ((6, 2), (7, 7, 2))]
    pairs = [Prompt(f"p{i}", "", (1,), demonstration=turns[:1], rejected=turns[1:]) for i in range(6)]
    objective = build_objective({"base": "dpo"})
    data = Demonstrations(stage).collect(PromptSampler(pairs, 6, seed=0), objective, RunState())
    assert data.prompt_ids[::2] == data.prompt_ids[1::2] and data.samples == 6
    assert data.batch.reward_S.tolist() == [1.0, 0.0] * 6
    known = data.batch.with_signals(
        **{name: torch.zeros(data.batch.N) for name in ("old_logprob", "ref_logprob")}
    )
    prepared = objective.prepare(known, updates=3)
    assert prepared.update_S.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert not objective.prepare(known.rows(torch.arange(0, 12, 2))).has_signal
    assert prepared.has_signal


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_mixed_stage_learns_from_both_and_is_replayed_exactly(small_config, tmp_path, staleness):
    budget = ("stages.rl.train.steps=3", "evaluation.problems=2", "evaluation.every=0")
    schedule = (f"stages.rl.train.max_staleness={staleness}", "stages.rl.train.updates_per_step=2")
    run = train(small_config(*MIXED, *budget, *schedule), tmp_path / "run")
    rows = [row for row in read_metrics(run) if row["stage"] == "rl"]
    assert len(rows) == 3
    for row in rows:
        assert row["rollout/samples"] == 16
        assert row["demonstrations/rows"] == 4
        assert row["policy/loss/demonstrations"] > 0
        assert row["policy/trained_tokens/demonstrations"] == row["demonstrations/tokens"] > 4
        assert row["demonstrations/missing"] == row["demonstrations/alone"] == 0
        assert row["mismatch/unknown_tokens"] == 0
    assert rows[-1]["rollout/version_lag_max"] == staleness
    asked = {t.prompt.id for step in (5, 6, 7) for t in read_rollouts(RunDirectory(run).rollouts(step))}
    state = RunState.load(max((run / "checkpoints").glob("step-*")) / STATE)
    assert set(state.prompts) == asked
    assert sum(statistics.samples for statistics in state.prompts.values()) == 3 * 16
    replayed = replay(run, 6, report=lambda line: None)
    for name in ("policy/loss", "learner/grad_norm", "learner/trained_tokens"):
        assert math.isclose(replayed[name], replayed[f"recorded/{name}"], rel_tol=1e-6)


@pytest.mark.slow
def test_dialogues_are_learnt_beside_the_episodes_of_their_environment(small_config, tmp_path):
    task = ("data.task=guess", "data.template=chat", "data.max_prompt_tokens=200", "data.answer_column=null")
    limits = (
        "rollout.max_response_tokens=8",
        "model.tiny.max_positions=600",
        "rewards=[]",
        "environment=guess",
    )
    budget = ("stages.rl.train.steps=1", "stages.warmup.train.steps=1", "train.tokens_per_microbatch=1200")
    run = train(small_config(*MIXED, *task, *limits, *budget, "evaluation.problems=1"), tmp_path / "run")
    row = read_metrics(run)[-1]
    assert row["stage"] == "rl" and row["demonstrations/rows"] == 4
    assert row["policy/trained_tokens/demonstrations"] == row["demonstrations/tokens"]
    said_by_others = row["policy/trained_tokens/rollouts"]
    assert said_by_others > 0 and row["mismatch/unknown_tokens"] == 0
