"""Degenerate inputs: every one has a defined result, no NaN, and a graph for backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from estimator_batches import (
    NAN,
    batch_for,
    batch_of,
    evaluate,
    kept_tokens,
    random_batch,
    score_of,
    with_advantage,
)

from rlpost.estimator import (
    ALGORITHMS,
    PARTS,
    Objective,
    TokenBatch,
    build_objective,
)

GROUP_ADVANTAGES = ["leave_one_out", "group_centred", "group_normalised"]
GROUP_ROWS = ["rloo", "grpo", "dr_grpo", "dapo"]


def row(name: str) -> Objective:
    return build_objective({"base": name}, max_response_tokens=5)


@pytest.mark.parametrize("name", GROUP_ADVANTAGES)
@pytest.mark.parametrize("value", [0.0, 1.0, 2.3, 0.1, -1e-30, 1e30])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 63, 64])
def test_equal_rewards_give_exactly_zero(name: str, value: float, size: int) -> None:
    part = PARTS["advantage"][name]()
    batch = batch_of([1] * size, rewards=[value] * size)
    assert part(batch).tolist() == [0.0] * size
    single = replace(batch, reward_S=torch.full((size,), value, dtype=torch.float32))
    assert part(single).tolist() == [0.0] * size


def test_equal_rewards_give_exactly_zero_also_without_an_epsilon() -> None:
    batch = batch_of([1] * 5, groups=[0, 0, 0, 1, 1], rewards=[2.3, 2.3, 2.3, 1.0, 0.0])
    advantage = PARTS["advantage"]["group_normalised"](epsilon=0.0)(batch).tolist()
    assert advantage[:3] == [0.0, 0.0, 0.0]
    assert advantage[3:] == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_dropping_uniform_groups_leaves_demonstrations_in() -> None:
    keep = PARTS["selection"]["drop_uniform"]()
    batch = batch_of([1] * 4, groups=[0, 0, 1, 2], rewards=[1.0, 1.0, 0.0, 0.0], demonstrations=[3])
    assert keep(batch, torch.zeros(0)).keep_S.tolist() == [False, False, False, True]


@pytest.mark.parametrize("name", GROUP_ADVANTAGES)
def test_a_group_of_one_gets_exactly_zero_beside_an_informative_group(name: str) -> None:
    batch = batch_of([2, 1, 1], groups=[4, 9, 9], rewards=[0.7, 1.0, 0.0])
    advantage = PARTS["advantage"][name]()(batch).tolist()
    assert advantage[:2] == [0.0, 0.0]
    assert advantage[2] > 0.49
    assert advantage[3] < -0.49


@pytest.mark.parametrize("name", GROUP_ROWS)
def test_a_step_without_signal_has_loss_and_gradient_exactly_zero(name: str) -> None:
    batch = batch_of([2, 3, 1, 2], rewards=[2.3] * 4, old_logprob=[-1.0] * 8)
    prepared = row(name).prepare(batch)
    output, gradient_N = evaluate(row(name), prepared, torch.full((prepared.batch.N,), -1.3))
    assert float(output.loss.detach()) == 0.0
    assert gradient_N.abs().sum() == 0.0
    assert output.measures.values()["policy/loss"] == 0.0
    assert prepared.measures.values()["signal/informative_group_share"] == 0.0


def test_the_batch_baseline_cancels_equal_rewards_and_ignores_demonstrations() -> None:
    part = PARTS["advantage"]["reward"](baseline="batch")
    assert part(batch_of([1] * 63, rewards=[2.3] * 63)).tolist() == pytest.approx([0.0] * 63, abs=1e-13)
    batch = batch_of([1, 1, 1], rewards=[1.0, 3.0, 0.0], demonstrations=[2])
    assert part(batch).tolist()[:2] == [-1.0, 1.0]


def test_rewards_that_differ_only_by_rounding_size_still_count_as_different() -> None:
    keep = PARTS["selection"]["drop_uniform"]()
    batch = batch_of([1, 1], rewards=[1.0, 1.0 + 1e-15])
    assert keep(batch, torch.zeros(0)).keep_S.tolist() == [True, True]


def test_an_empty_response_keeps_its_reward_in_the_group_and_leaves_the_denominators() -> None:
    objective = row("rloo")
    prepared = objective.prepare(batch_of([2, 0, 1], rewards=[1.0, 0.0, 0.0]))
    assert prepared.terms[0].advantage_N.tolist() == pytest.approx([1.0, 1.0, -0.5])
    assert prepared.terms[0].weight_N.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("garbage", [NAN, float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize(
    "spec",
    [
        *({"base": name} for name in ALGORITHMS),
        {"base": "grpo", "granularity": "sequence", "kl": 0.1, "entropy": 0.1},
        {"base": "grpo", "granularity": {"sequence": {"mean": "product"}}, "denominator": "behaviour"},
        {"base": "grpo", "denominator": "clipped", "mask": "keep", "shaping": ["kl_in_reward"]},
        {"base": "grpo", "denominator": "unit", "mask": "keep"},
    ],
    ids=str,
)
def test_garbage_at_untrained_positions_of_every_input_never_shows(spec: dict, garbage: float) -> None:
    objective = build_objective(spec, max_response_tokens=5)
    results = []
    for filling in (garbage, -1.0):
        batch, logprob_N = batch_for(objective, 9, garbage=filling)
        prepared = objective.prepare(batch)
        current_N = logprob_N[kept_tokens(prepared, batch)]
        entropy_N = torch.where(prepared.batch.mask_N, 0.4, filling).requires_grad_(True)
        leaf = current_N.clone().requires_grad_(True)
        output = objective.loss(leaf, prepared, entropy_N, score_of(objective, leaf))
        output.loss.backward()
        assert leaf.grad is not None
        entropy_gradient_N = entropy_N.grad if entropy_N.grad is not None else torch.zeros(0)
        coefficient_N = objective.coefficients(current_N, prepared)
        results.append((output, leaf.grad, entropy_gradient_N, coefficient_N))
    (first, *first_tensors), (second, *second_tensors) = results
    assert torch.isfinite(first.loss)
    assert torch.equal(first.loss, second.loss)
    assert first.measures.values() == second.measures.values()
    for a, b in zip(first_tensors, second_tensors, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [30.0, -30.0, 700.0, -700.0])
@pytest.mark.parametrize("granularity", ["token", {"sequence": {"mean": "product"}}, "sequence", "turn"])
@pytest.mark.parametrize("denominator", ["old", "behaviour", "clipped"])
def test_extreme_ratios_stay_finite_in_value_gradient_and_measures(
    dtype: torch.dtype, gap: float, granularity: object, denominator: str
) -> None:
    spec = {"base": "grpo", "denominator": denominator, "mask": "keep", "granularity": granularity, "kl": 1.0}
    objective = with_advantage(build_objective(spec), (1.0, -1.0))
    batch = batch_of([2, 2], old_logprob=[-gap] * 4, behaviour_logprob=[-gap] * 4, ref_logprob=[-gap] * 4)
    output, gradient_N = evaluate(objective, objective.prepare(batch), torch.zeros(4, dtype=dtype))
    assert torch.isfinite(output.loss)
    assert torch.isfinite(gradient_N).all()
    values = output.measures.values()
    assert all(torch.isfinite(torch.tensor(v)) for v in values.values())
    bound = 2.718281828459045 ** (20.0 if gap > 0 else -20.0)
    assert values["policy/ratio_max"] == pytest.approx(bound, rel=1e-5)


def test_ppo_lets_no_far_ratio_through_in_the_harmful_direction() -> None:
    objective = with_advantage(build_objective({"base": "grpo"}), (1.0, -1.0))
    batch = batch_of([1, 1], old_logprob=[-30.0, 30.0])
    output, gradient_N = evaluate(objective, objective.prepare(batch), torch.zeros(2, dtype=torch.float64))
    assert gradient_N.tolist() == [0.0, 0.0]
    assert output.measures.values()["policy/loss"] == pytest.approx((-1.2 + 0.8) / 2)
    assert output.measures.values()["policy/clip_share_high"] == 0.5
    assert output.measures.values()["policy/clip_share_low"] == 0.5


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("case", ["no sequence", "only empty responses", "all masked"])
def test_a_batch_with_nothing_to_train_has_loss_zero_and_a_graph(name: str, case: str) -> None:
    lengths = {"no sequence": [], "only empty responses": [0, 0], "all masked": [2, 1]}[case]
    nothing = [NAN] * sum(lengths)
    names = (
        "old_logprob",
        "behaviour_logprob",
        "ref_logprob",
        "teacher_logprob",
        "entropy",
        "value",
        "outcome",
    )
    batch = batch_of(lengths, mask=[0] * sum(lengths), **dict.fromkeys(names, nothing))
    prepared = row(name).prepare(batch)
    output, gradient_N = evaluate(row(name), prepared, torch.full((prepared.batch.N,), NAN))
    assert float(output.loss.detach()) == 0.0
    assert gradient_N.tolist() == [0.0] * prepared.batch.N
    values = output.measures.values()
    assert values["policy/loss"] == 0.0
    assert not any(v != v for v in values.values())
    assert "policy/ratio_mean" not in values
    assert not any(v != v for v in prepared.measures.values().values())
    assert [len(u) for u in prepared.updates()] == ([prepared.batch.S] if prepared.batch.S else [])
    kept = min(len(lengths), {"d3s": 0, "pods": 0, "oreal": 2}.get(name, len(lengths)))
    assert kept == prepared.batch.S


def test_a_step_whose_groups_are_all_dropped_keeps_nothing_and_says_so() -> None:
    batch = batch_of([2, 2], rewards=[1.0, 1.0], old_logprob=[-1.0] * 4)
    prepared = row("dapo").prepare(batch, updates=4)
    values = prepared.measures.values()
    assert prepared.batch.S == 0
    assert list(prepared.updates()) == []
    assert values["signal/dropped_groups"] == 1.0
    assert values["signal/dropped_sequences"] == 2.0
    assert values["signal/trained_token_share"] == 0.0
    output, _ = evaluate(row("dapo"), prepared, torch.zeros(0))
    assert float(output.loss.detach()) == 0.0


def test_an_empty_slice_of_a_prepared_batch_is_a_valid_microbatch() -> None:
    batch, _ = random_batch(0)
    objective = row("grpo")
    part = objective.prepare(batch).rows(torch.zeros(0, dtype=torch.int64))
    output, _ = evaluate(objective, part, torch.zeros(0))
    assert float(output.loss.detach()) == 0.0
    assert output.measures.values()["policy/loss"] == 0.0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_advantages_and_weights_carry_no_gradient(name: str) -> None:
    batch, _ = batch_for(row(name), 1)
    signals = {k: v.clone().requires_grad_(True) for k, v in batch.signals.items()}
    prepared = row(name).prepare(replace(batch, signals=signals))
    assert not any(t.advantage_N.requires_grad or t.weight_N.requires_grad for t in prepared.terms)
    assert not any(target_N.requires_grad for target_N in prepared.value_targets.values())


def test_an_entropy_term_without_an_entropy_says_what_it_needs() -> None:
    objective = build_objective({"base": "grpo", "entropy": 0.1})
    prepared = objective.prepare(batch_of([1, 1], old_logprob=[-1.0, -1.0]))
    with pytest.raises(ValueError, match="needs entropy_N with gradient"):
        objective.loss(torch.zeros(2), prepared)


def test_constants_that_the_run_must_fill_are_asked_for_by_name() -> None:
    batch = batch_of([1, 1], old_logprob=[-1.0, -1.0])
    with pytest.raises(ValueError, match="constant C is not set"):
        ALGORITHMS["dr_grpo"].objective.prepare(batch)
    with pytest.raises(ValueError, match="limit is not set"):
        ALGORITHMS["dapo"].objective.prepare(batch)


def test_a_missing_signal_is_named_beside_those_that_are_there() -> None:
    objective = row("grpo")
    prepared = objective.prepare(batch_of([1, 1], behaviour_logprob=[-1.0, -1.0]))
    with pytest.raises(KeyError, match=r"no signal 'old_logprob', only \['behaviour_logprob'\]"):
        objective.loss(torch.zeros(2), prepared)


def test_demonstrations_alone_report_nothing_of_groups_and_sampled_tokens():
    batch = TokenBatch(
        sequence_N=torch.tensor([0, 0, 1]),
        mask_N=torch.ones(3, dtype=torch.bool),
        turn_N=torch.zeros(3, dtype=torch.int64),
        group_S=torch.tensor([0, 1]),
        reward_S=torch.zeros(2, dtype=torch.float64),
        truncated_S=torch.zeros(2, dtype=torch.bool),
        demonstration_S=torch.ones(2, dtype=torch.bool),
    )
    values = build_objective({"base": "sft"}).prepare(batch).measures.values()
    assert values == {"demonstrations/rows": 2.0, "demonstrations/tokens": 3.0}
