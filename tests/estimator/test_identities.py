"""Equalities between algorithms that hold for every batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from estimator_batches import batch_of, evaluate, random_batch

from rlpost.estimator import PARTS, build_objective


@pytest.mark.parametrize("seed", range(5))
def test_rloo_is_dr_grpo_times_g_over_g_minus_one(seed: int) -> None:
    batch, _ = random_batch(seed)
    rloo_N = PARTS["advantage"]["leave_one_out"]()(batch)
    centred_N = PARTS["advantage"]["group_centred"]()(batch)
    size = {g: batch.group_S.tolist().count(g) for g in batch.group_S.tolist()}
    for s, a, b in zip(batch.sequence_N.tolist(), rloo_N.tolist(), centred_N.tolist(), strict=True):
        G = size[int(batch.group_S[s])]
        assert a == pytest.approx(b * G / (G - 1) if G > 1 else 0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_population_advantages_are_larger_by_the_root_of_g_over_g_minus_one(seed: int) -> None:
    batch, _ = random_batch(seed)
    sample_N = PARTS["advantage"]["group_normalised"](epsilon=0.0)(batch)
    population_N = PARTS["advantage"]["group_normalised"](std="population", epsilon=0.0)(batch)
    five = (batch.group_S == 7)[batch.sequence_N]
    assert torch.allclose(population_N[five], sample_N[five] * (5 / 4) ** 0.5, atol=1e-12)


@pytest.mark.parametrize("name", ["leave_one_out", "group_centred", "group_normalised"])
def test_advantages_of_a_group_add_up_to_zero_whatever_is_added_to_its_rewards(name: str) -> None:
    part = PARTS["advantage"][name]()
    batch = batch_of([1] * 6, groups=[0, 0, 0, 0, 1, 1], rewards=[0.1, 0.9, 0.4, 0.4, 3.0, -1.0])
    advantage = part(batch)
    assert float(advantage[:4].sum()) == pytest.approx(0.0, abs=1e-12)
    assert float(advantage[4:].sum()) == pytest.approx(0.0, abs=1e-12)
    shifted = replace(batch, reward_S=batch.reward_S + torch.tensor([5.0] * 4 + [-2.0] * 2))
    assert part(shifted).tolist() == pytest.approx(advantage.tolist(), abs=1e-9)


RATIO_SPECS = [
    {"base": "grpo"},
    {"base": "grpo", "mask": "dual_clip"},
    {"base": "grpo", "granularity": "sequence"},
    {"base": "dr_grpo"},
    {"base": "dapo"},
    {"base": "grpo", "denominator": "behaviour"},
]


@pytest.mark.parametrize("spec", RATIO_SPECS, ids=str)
def test_on_the_first_step_a_ratio_loss_is_minus_the_mean_advantage_and_reinforces(spec: dict) -> None:
    batch, logprob_N = random_batch(3)
    batch = batch.with_signals(old_logprob=logprob_N, behaviour_logprob=logprob_N)
    objective = build_objective({**spec, "selection": "all"}, max_response_tokens=5)
    prepared = objective.prepare(batch)
    output, gradient_N = evaluate(objective, prepared, logprob_N)
    term = prepared.terms[0]
    values = output.measures.values()
    assert values["policy/loss"] == pytest.approx(-float((term.weight_N * term.advantage_N).sum()), abs=1e-12)
    assert values["policy/surrogate"] == pytest.approx(values["policy/loss"], abs=1e-12)
    assert values["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-12)
    assert values["policy/clip_share_low"] == values["policy/clip_share_high"] == 0.0
    assert torch.allclose(gradient_N, -term.weight_N * term.advantage_N, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        {"base": "grpo"},
        {"base": "dapo"},
        {"base": "grpo", "granularity": {"sequence": {"mean": "product"}}},
        {"base": "grpo", "denominator": "clipped", "mask": "keep"},
    ],
    ids=str,
)
def test_the_on_policy_flag_stands_for_an_old_log_prob_equal_to_the_current_one(spec: dict) -> None:
    batch, logprob_N = random_batch(7)
    batch = batch.rows(torch.arange(8))
    logprob_N = logprob_N[: batch.N]
    objective = build_objective({**spec, "selection": "all"}, max_response_tokens=5)
    explicit = replace(batch, signals={**batch.signals, "old_logprob": logprob_N})
    without = {k: v for k, v in batch.signals.items() if k != "old_logprob"}
    flagged = replace(batch, on_policy=True, signals=without)
    results = [evaluate(objective, objective.prepare(b), logprob_N) for b in (explicit, flagged)]
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][0].measures.values() == results[1][0].measures.values()


@pytest.mark.parametrize("seed", range(3))
def test_the_straight_through_k3_has_the_gradient_of_k2_and_the_value_of_k3(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    found = {}
    for kind in ("k2", "k3", "k3+"):
        objective = build_objective({"base": "reinforce", "kl": {"coefficient": 1.0, "kind": kind}})
        found[kind] = evaluate(objective, objective.prepare(batch), logprob_N)
    value = {k: output.measures.values()["policy/kl_loss"] for k, (output, _) in found.items()}
    assert torch.allclose(found["k3+"][1], found["k2"][1], rtol=0, atol=1e-14)
    assert value["k3+"] == pytest.approx(value["k3"], abs=1e-14)
    assert value["k2"] != pytest.approx(value["k3"], abs=1e-3)


def test_a_wide_clip_is_no_clip() -> None:
    batch, logprob_N = random_batch(4)
    results = []
    for mask in (
        "keep",
        {"clip": {"low": 1.0, "high": 1e6}},
        {"dual_clip": {"low": 1.0, "high": 9.0, "ceiling": 1e6}},
    ):
        objective = build_objective({"base": "grpo", "mask": mask})
        results.append(evaluate(objective, objective.prepare(batch), logprob_N)[1])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_kl_in_the_reward_lowers_each_rollouts_reward_by_its_summed_gap() -> None:
    batch = batch_of(
        [2, 1, 1],
        rewards=[1.0, 1.0, 0.0],
        demonstrations=[2],
        old_logprob=[-1.0, -0.5, -2.0, float("nan")],
        ref_logprob=[-1.5, -0.25, -1.0, float("nan")],
    )
    shaped = PARTS["shaping"]["kl_in_reward"](0.5).reward(batch.reward_S, batch)
    assert shaped.tolist() == pytest.approx([1.0 - 0.5 * 0.25, 1.0 + 0.5, 0.0])


def test_uniform_groups_are_judged_by_the_task_reward_not_by_the_shaped_one() -> None:
    batch = batch_of([1, 9, 1, 1], groups=[0, 0, 1, 1], rewards=[1, 1, 1, 0], old_logprob=[-1.0] * 12)
    objective = build_objective({"base": "dapo"}, max_response_tokens=10)
    prepared = objective.prepare(batch)
    assert prepared.kept_S.tolist() == [2, 3]
    kept_all = build_objective({"base": "dapo", "selection": "all"}, max_response_tokens=10)
    advantage_N = kept_all.prepare(batch).terms[0].advantage_N
    assert float(advantage_N[0]) > 0.7 > -0.7 > float(advantage_N[1])
