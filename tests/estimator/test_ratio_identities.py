"""Equalities of ratio losses on the first step and between rows; extreme ratios stay finite."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from estimator_batches import NAN, batch_of, evaluate, random_batch, with_advantage

from rlpost.estimator import KL, CompositionError, build_objective

ROWS = ["gspo", "gspo_token", "gmpo", "luspo", "cispo", "sapo", "dppo", "dual_clip", "opsm", "dcpo"]


def first_step(seed: int) -> tuple:
    """Rollouts whose old and sampler's policies are the current one."""
    batch, logprob_N = random_batch(seed)
    return batch.with_signals(old_logprob=logprob_N, behaviour_logprob=logprob_N), logprob_N


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("seed", range(3))
def test_on_the_first_step_every_row_reinforces_and_has_its_papers_value(name: str, seed: int) -> None:
    batch, logprob_N = first_step(seed)
    objective = build_objective({"base": name})
    prepared = objective.prepare(batch)
    output, gradient_N = evaluate(objective, prepared, logprob_N)
    weighted_N = prepared.terms[0].weight_N * prepared.terms[0].advantage_N
    assert torch.allclose(gradient_N, -weighted_N, rtol=0, atol=1e-12)
    factor_N = torch.ones_like(weighted_N)
    if name == "cispo":
        factor_N = torch.where(batch.mask_N, logprob_N, 0.0)
    if name == "sapo":
        factor_N = torch.where(weighted_N > 0, torch.full_like(weighted_N, 2.0), 2.0 / 1.05)
    values = output.measures.values()
    assert values["policy/loss"] == pytest.approx(-float((weighted_N * factor_N).sum()), abs=1e-12)
    assert values["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-12)
    assert values["policy/clip_share_low"] == values["policy/clip_share_high"] == 0.0


@pytest.mark.parametrize("name", ROWS)
def test_the_on_policy_flag_spares_the_old_log_prob_of_ratios_and_masks(name: str) -> None:
    batch, logprob_N = first_step(7)
    objective = build_objective({"base": name})
    without = {k: v for k, v in batch.signals.items() if k != "old_logprob"}
    flagged = replace(batch, on_policy=True, signals=without)
    assert objective.signals_for(on_policy=True) == objective.signals - {"old_logprob"}
    results = [evaluate(objective, objective.prepare(b), logprob_N) for b in (batch, flagged)]
    rollout_N = ~batch.demonstration_S[batch.sequence_N]
    assert torch.equal(results[0][1][rollout_N], results[1][1][rollout_N])
    losses = [output.measures.values()["policy/loss"] for output, _ in results]
    assert losses[0] == losses[1]


def test_on_policy_the_weighted_kl_needs_no_old_log_prob_and_is_the_other_weighted_one() -> None:
    batch, logprob_N = random_batch(2)
    without = {k: v for k, v in batch.signals.items() if k != "old_logprob"}
    flagged = replace(batch, on_policy=True, signals=without)
    gradients = []
    for kind in ("k3_old", "k3w"):
        objective = build_objective({"base": "reinforce", "kl": {"coefficient": 1.0, "kind": kind}})
        assert objective.signals_for(on_policy=True) == {"ref_logprob"}
        gradients.append(evaluate(objective, objective.prepare(flagged), logprob_N)[1])
    assert torch.equal(*gradients)
    assert KL(1.0, "k3_old").signals == {"ref_logprob", "old_logprob"}


@pytest.mark.parametrize("seed", range(5))
def test_gspo_token_is_gspo_where_the_advantage_is_constant_over_a_response(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    results = []
    for base in ("gspo", "gspo_token"):
        objective = build_objective({"base": base, "mask": {"clip": {"low": 0.2, "high": 0.2}}})
        results.append(evaluate(objective, objective.prepare(batch), logprob_N))
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][0].measures.values() == results[1][0].measures.values()


@pytest.mark.parametrize("seed", range(3))
def test_dcpo_on_a_first_visit_with_fixed_bounds_is_grpo_over_the_population_std(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    unseen = {k: torch.zeros_like(v) for k, v in batch.sequence_signals.items()}
    batch = replace(batch, sequence_signals=unseen)
    scale = {"sequence_sum_token_mean": {"scale": "mean_over_responses"}}
    dcpo = build_objective({"base": "dcpo", "mask": "clip", "aggregation": scale})
    grpo = build_objective(
        {"base": "grpo", "advantage": {"group_normalised": {"std": "population", "epsilon": 0}}}
    )
    results = [evaluate(o, o.prepare(batch), logprob_N) for o in (dcpo, grpo)]
    assert torch.allclose(results[0][1], results[1][1], rtol=0, atol=1e-12)
    assert results[0][1].abs().sum() > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_luspo_is_gspo_with_each_response_weighted_by_its_length(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    mask = {"clip": {"low": 0.2, "high": 0.2}}
    gspo, luspo = (build_objective({"base": base, "mask": mask}) for base in ("gspo", "luspo"))
    results = [evaluate(o, o.prepare(batch), logprob_N)[1] for o in (gspo, luspo)]
    length_S = torch.bincount(batch.sequence_N[batch.mask_N], minlength=batch.S)
    assert torch.allclose(results[1], results[0] * length_S[batch.sequence_N], rtol=0, atol=1e-12)


def test_an_average_per_prompt_of_one_prompt_is_the_average_itself() -> None:
    batch, logprob_N = random_batch(4)
    batch = replace(batch, group_S=torch.full_like(batch.group_S, 3))
    for inside in ("token_mean", "token_sum", "sequence_mean_token_sum", "sequence_mean_token_mean"):
        both = [
            build_objective({"base": "grpo", "aggregation": aggregation})
            for aggregation in (inside, {"prompt_mean": {"inside": inside}})
        ]
        gradients = [evaluate(o, o.prepare(batch), logprob_N)[1] for o in both]
        assert torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-15)


def test_gmpo_is_cut_by_the_sign_of_tokens_that_a_correction_rejected_too() -> None:
    correction = {"banded": {"low": 0.5, "high": 2.0}}
    objective = with_advantage(build_objective({"base": "gmpo", "correction": correction}), (1.0, -1.0))
    batch = batch_of([2, 1], old_logprob=[-2.0, -1.0, -1.0], behaviour_logprob=[-9.0, -1.0, -1.0])
    _, gradient_N = evaluate(objective, objective.prepare(batch), torch.tensor([-1.0, -1.0, -1.0]).double())
    # The first token is rejected and cut from 1 to 0.4: the ratio of the second is exp(0.4 / 2).
    expected = [0.0, -math.exp(0.2) / 4, 0.5]
    assert gradient_N.tolist() == pytest.approx(expected, abs=1e-12)


def test_an_unknown_log_prob_of_the_sampler_is_a_ratio_of_one_in_the_two_policy_form() -> None:
    objective = with_advantage(build_objective({"base": "dppo"}), (1.0,))
    batch = batch_of([2], behaviour_logprob=[NAN, -1.0])
    output, gradient_N = evaluate(objective, objective.prepare(batch), torch.tensor([-2.0, -1.0]).double())
    assert gradient_N.tolist() == pytest.approx([-0.5, -0.5])
    assert output.measures.values()["policy/ratio_mean"] == 1.0


EXTREME = [
    *({"base": name} for name in (*ROWS, "dpo")),
    {"base": "grpo", "denominator": "shaped_unit", "mask": "keep"},
    {"base": "grpo", "denominator": {"unit": {"loss": "log_probability"}}, "mask": "keep"},
    *({"base": "grpo", "kl": {"coefficient": 1.0, "kind": kind}} for kind in ("k2", "k3w", "k3_old", "abs")),
    *(
        {"base": "grpo", "correction": [{name: options}, "truncated"]}
        for name, options in [
            ("banded", {"level": "sequence", "low": 0.0, "high": 1e30}),
            ("ratio_gate", {"statistic": "k3", "high": 1e30}),
            ("ratio_gate", {"statistic": "product", "low": 0.0, "high": 1e30}),
        ]
    ),
    {"base": "grpo", "correction": [{"truncated": {"ceiling": float("inf")}}, "self_normalised"]},
    {"base": "grpo", "aggregation": "prompt_mean"},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [30.0, -30.0, 700.0, -700.0])
@pytest.mark.parametrize("spec", EXTREME, ids=str)
def test_ratios_of_e_to_the_thirty_and_nan_where_nothing_is_trained_give_finite_results(
    spec: dict, gap: float, dtype: torch.dtype
) -> None:
    objective = build_objective(spec)
    far = [-1.0 - gap, -1.0, NAN] * 2
    batch = batch_of(
        [3, 3],
        mask=[1, 1, 0] * 2,
        rewards=[1.0, 0.0],
        old_logprob=far,
        ref_logprob=far,
        behaviour_logprob=[-1.0, -1.0 + gap, NAN] * 2,
    )
    prepared = objective.prepare(batch)
    logprob_N = torch.tensor([-1.0, -1.0 - abs(gap), NAN] * 2, dtype=dtype)
    output, gradient_N = evaluate(objective, prepared, logprob_N)
    assert torch.isfinite(output.loss)
    assert torch.isfinite(gradient_N).all()
    assert (gradient_N[~batch.mask_N] == 0).all()
    values = {**output.measures.values(), **prepared.measures.values()}
    assert all(torch.isfinite(torch.tensor(v)) for v in values.values())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"base": "dppo", "correction": "truncated"}, "denominator `behaviour` already corrects"),
        ({"base": "sft", "correction": "truncated"}, "demonstrations were not sampled"),
        ({"correction": "self_normalised"}, "put `truncated` or `banded` first"),
        ({"correction": {"banded": {"low": 2.0, "high": 1.0}}}, "the band must have 0 <= low < high"),
        ({"correction": {"ratio_gate": {"high": 0.5}}}, "found [0.99, 0.5]"),
        ({"correction": {"truncated": {"ceiling": 0}}}, "ceiling must be above 0, found 0"),
        ({"correction": {"truncated": {"level": "turn"}}}, "needed one of token, sequence"),
        ({"correction": ["truncated", "truncated"]}, "correction holds the same part twice"),
        ({"granularity": "sequence", "mask": "dynamic_clip"}, "mask `dynamic_clip` compares a token's own"),
        ({"granularity": "sequence", "mask": "total_variation"}, "use granularity `token`"),
        ({"mask": ["clip", "soft_gate"]}, "mask `soft_gate` must come first in a list"),
        ({"denominator": "current", "mask": "soft_gate"}, "a clip never acts with denominator `current`"),
        (
            {"denominator": "current", "mask": ["keep", "clip"]},
            "a clip never acts with denominator `current`",
        ),
        ({"denominator": "shaped_unit"}, "no meaning for denominator `shaped_unit`, whose ratio is pi"),
        (
            {"denominator": "unit", "mask": "keep", "granularity": "clipped_geometric"},
            "a clip around 1 has no meaning for denominator `unit`",
        ),
        (
            {"denominator": "shaped_unit", "mask": "keep", "granularity": "sequence"},
            "denominator `shaped_unit` shapes a token's probability",
        ),
        ({"base": "reinforce", "granularity": "clipped_geometric"}, "`clipped_geometric` has no effect"),
        ({"base": "sft", "mask": "off_policy_sequence"}, "demonstrations have no old policy"),
        ({"base": "sft", "gate": "pass_rate"}, "gate `pass_rate` counts rollouts that succeed"),
        ({"base": "sft", "advantage": "leave_one_out"}, "demonstrations have no reward"),
        ({"kl": {"kind": "k1"}}, "k1 has expected gradient 0 as a loss, it belongs in the reward"),
        ({"kl": {"kind": "k4"}}, "kl.kind: found 'k4', needed one of k1, k2, k3, k3+, k3w, k3_old, abs"),
        ({"kl": {"target": -1}}, "kl: target must be above 0, found -1"),
        ({"kl": {"coefficient": 0, "target": 1}}, "it cannot start at 0"),
        ({"kl": {"horizon": 0}}, "kl: horizon must be above 0, found 0"),
        ({"entropy": {"target": 0.0}}, "entropy: target and step must be above 0"),
        ({"entropy": {"coefficient": 2.0, "target": 1.0}}, "must lie in [0, maximum = 1], found 2"),
        ({"mask": {"dynamic_clip": {"ceiling": 1}}}, "ceiling must exceed 1, found 1"),
        ({"mask": {"dynamic_clip": {"low": 0}}}, "low and high must be above 0, found 0 and 0.2"),
        ({"mask": {"soft_gate": {"negative": 0}}}, "positive and negative must be above 0, found 1 and 0"),
        ({"mask": {"total_variation": {"high": 2}}}, "low and high must lie in (0, 1], found 0.2 and 2"),
        ({"mask": {"off_policy_sequence": {"threshold": -1}}}, "threshold must be 0 or above, found -1"),
        ({"mask": "keep", "granularity": {"clipped_geometric": {"low": 0}}}, "low and high must be above 0"),
        (
            {"mask": "keep", "denominator": {"shaped_unit": {"constant": 0}}},
            "constant must be above 0, found 0",
        ),
        (
            {"aggregation": {"prompt_mean": {"constant": 3}}},
            "constant has no meaning with inside 'token_mean'",
        ),
        (
            {"aggregation": {"prompt_mean": {"inside": "sequence_sum_over_constant"}}},
            "the aggregation constant is not set and there is no maximum response length",
        ),
        ({"base": "dpo", "advantage": {"preference": {"beta": 0}}}, "beta must be above 0, found 0"),
        (
            {"base": "dpo", "advantage": {"preference": {"label_smoothing": 0.5}}},
            "label_smoothing must lie in [0, 0.5), found 0.5",
        ),
        (
            {"base": "dpo", "advantage": {"preference": {"kind": "ipo", "label_smoothing": 0.1}}},
            "label_smoothing belongs to kind dpo",
        ),
    ],
    ids=str,
)
def test_parts_that_cannot_act_together_are_refused_with_the_reason(spec: dict, reason: str) -> None:
    with pytest.raises(CompositionError) as caught:
        build_objective(spec)
    assert reason in str(caught.value)


def test_a_constant_inside_a_prompt_mean_is_filled_by_the_run() -> None:
    aggregation = {"prompt_mean": {"inside": "sequence_sum_over_constant"}}
    (term,) = build_objective({"base": "grpo", "aggregation": aggregation}, max_response_tokens=64).terms
    assert term.aggregation.constant == 64.0
