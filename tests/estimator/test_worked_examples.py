"""Hand-computed numbers: losses and gradients of the parts and rows, to six digits."""

from __future__ import annotations

import pytest
import torch
from estimator_batches import NAN, Given, batch_of, evaluate, with_advantage

from rlpost.estimator import (
    KL,
    Current,
    Objective,
    Term,
    TokenBatch,
    TokenMean,
    build_objective,
)

TOLERANCE = 1e-6

# Two responses of four tokens; the last token of the second one is not the policy's.
CURRENT = [-0.5, -1.2, -0.30, -2.0, -0.2, -0.7, -1.5, -0.9]
OLD = [-0.7, -1.0, -0.3, -1.5, -1.6, -0.7, -1.1, -0.9]
REFERENCE = [-0.9, -1.0, -0.5, -1.6, -1.2, -0.6, -1.4, -0.8]
SAMPLER = [-0.8, -1.4, -0.25, -1.5, -1.5, -0.9, -1.1, -0.9]
MASK = [1, 1, 1, 1, 1, 1, 1, 0]


def example_batch() -> TokenBatch:
    def hole(values: list[float]) -> list[float]:
        return [*values[:7], NAN]

    return batch_of(
        [4, 4],
        mask=MASK,
        old_logprob=hole(OLD),
        ref_logprob=hole(REFERENCE),
        behaviour_logprob=hole(SAMPLER),
    )


def check(
    objective: Objective, loss: float, gradient: list[float], advantage: tuple[float, ...] = (1, -0.5)
) -> None:
    objective = with_advantage(objective, advantage)
    prepared = objective.prepare(example_batch())
    output, found = evaluate(objective, prepared, torch.tensor(CURRENT, dtype=torch.float64))
    assert output.measures.values()["policy/loss"] == pytest.approx(loss, abs=TOLERANCE)
    assert found.tolist() == pytest.approx(gradient, abs=TOLERANCE)


PPO_SUM = [0, -0.818731, -1, -0.606531, 2.0276, 0.5, 0, 0]
PPO_MEAN = [0, -0.116962, -0.142857, -0.086647, 0.289657, 0.071429, 0, 0]


@pytest.mark.parametrize(
    ("spec", "loss", "gradient"),
    [
        pytest.param(
            {"base": "reinforce", "aggregation": "token_mean"},
            0.4,
            [-1 / 7] * 4 + [0.5 / 7] * 3 + [0],
            id="REINFORCE, token mean",
        ),
        pytest.param({"base": "reinforce"}, 1.4, [-0.5] * 4 + [0.25] * 3 + [0], id="row reinforce"),
        pytest.param({"base": "rloo"}, 1.4, [-0.5] * 4 + [0.25] * 3 + [0], id="row rloo"),
        pytest.param(
            {"base": "grpo", "aggregation": "token_mean"}, -0.099666, PPO_MEAN, id="PPO 0.2, token mean"
        ),
        pytest.param(
            {"base": "grpo", "aggregation": "token_sum"}, -0.697661, PPO_SUM, id="PPO 0.2, token sum"
        ),
        pytest.param(
            {"base": "grpo", "aggregation": "sequence_mean_token_sum"},
            -0.348831,
            [g / 2 for g in PPO_SUM],
            id="PPO 0.2, sequence mean of token sums",
        ),
        pytest.param(
            {"base": "grpo"},
            0.034776,
            [0, -0.102341, -0.125, -0.075816, 0.337933, 0.083333, 0, 0],
            id="row grpo",
        ),
        pytest.param({"base": "dr_grpo"}, -0.087208, [g / 8 for g in PPO_SUM], id="row dr_grpo, C = 4"),
        pytest.param(
            {"base": "dapo"},
            -0.102723,
            [-0.174486, *PPO_MEAN[1:]],
            id="row dapo: PPO 0.2/0.28, token mean",
        ),
        pytest.param(
            {"base": "grpo", "aggregation": "token_mean", "mask": "dual_clip"},
            -0.175037,
            [*PPO_MEAN[:4], 0, *PPO_MEAN[5:]],
            id="dual clip 3, token mean",
        ),
        pytest.param(
            {"base": "grpo", "granularity": "sequence", "mask": {"clip": {"low": 0.05, "high": 0.05}}},
            -0.092345,
            [-0.110312] * 4 + [0.116301] * 3 + [0],
            id="GSPO 0.05",
        ),
        pytest.param(
            {"base": "grpo", "denominator": "clipped", "mask": "keep", "aggregation": "token_mean"},
            0.263997,
            [-0.174486, -0.116962, -0.142857, -0.086647, 0.289657, 0.071429, 0.047880, 0],
            id="CISPO [0, 5], token mean",
        ),
        pytest.param(
            {
                "base": "grpo",
                "denominator": {"clipped": {"low": 0.8, "high": 1.2}},
                "mask": "keep",
                "aggregation": "token_mean",
            },
            0.344640,
            [-0.171429, -0.116962, -0.142857, -0.114286, 0.085714, 0.071429, 0.057143, 0],
            id="CISPO [0.8, 1.2], token mean",
        ),
        pytest.param(
            {
                "base": "grpo",
                "granularity": {"sequence": {"mean": "product"}},
                "aggregation": "sequence_mean_token_sum",
            },
            0.376305,
            [-0.303265] * 4 + [0.679570] * 3 + [0],
            id="sequence PPO 0.2",
        ),
    ],
)
def test_a_row_or_composition_has_the_hand_computed_loss_and_gradient(
    spec: dict, loss: float, gradient: list[float]
) -> None:
    check(build_objective(spec, max_response_tokens=4), loss, gradient)


@pytest.mark.parametrize(
    ("spec", "loss", "gradient"),
    [
        pytest.param(
            {"base": "grpo", "aggregation": "token_mean"},
            0.343568,
            [0.174486, 0.116962, 0.142857, 0, 0, -0.071429, -0.047880, 0],
            id="PPO 0.2",
        ),
        pytest.param(
            {"base": "grpo", "granularity": "sequence", "mask": {"clip": {"low": 0.05, "high": 0.05}}},
            0.2125,
            [0] * 8,
            id="GSPO 0.05: both sequences clipped",
        ),
        pytest.param(
            {"base": "grpo", "granularity": "sequence", "mask": {"clip": {"low": 0.2, "high": 0.4}}},
            0.092345,
            [0.110312] * 4 + [-0.116301] * 3 + [0],
            id="GSPO 0.2/0.4: none clipped",
        ),
    ],
)
def test_the_example_with_the_opposite_advantages_has_its_numbers(
    spec: dict, loss: float, gradient: list[float]
) -> None:
    check(build_objective(spec), loss, gradient, (-1.0, 0.5))


K2_GRADIENT = [0.057143, -0.028571, 0.028571, -0.057143, 0.142857, -0.014286, -0.014286, 0]


@pytest.mark.parametrize(
    ("kind", "loss", "gradient"),
    [
        ("k2", 0.101429, K2_GRADIENT),
        ("k3", 0.082929, [0.047097, -0.031629, 0.025896, -0.070261, 0.090303, -0.015024, -0.015024, 0]),
        ("k3+", 0.082929, K2_GRADIENT),
    ],
)
def test_the_kl_estimators_have_the_hand_computed_values_and_gradients(
    kind: str, loss: float, gradient: list[float]
) -> None:
    spec = {"base": "grpo", "aggregation": "token_mean", "kl": {"coefficient": 1.0, "kind": kind}}
    check(build_objective(spec), loss, gradient, (0.0, 0.0))


def test_the_kl_coefficient_scales_the_penalty_and_its_metric_beside_the_policy_loss() -> None:
    objective = with_advantage(
        build_objective({"base": "grpo", "aggregation": "token_mean", "kl": 0.5}), (1.0, -0.5)
    )
    prepared = objective.prepare(example_batch())
    output, _ = evaluate(objective, prepared, torch.tensor(CURRENT, dtype=torch.float64))
    values = output.measures.values()
    assert values["policy/kl_loss"] == pytest.approx(0.5 * 0.082929, abs=TOLERANCE)
    assert values["policy/loss"] == pytest.approx(-0.099666 + 0.5 * 0.082929, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [
        ("k2", 0.138099, [-0.173181, -0.075571, 0.248752]),
        ("k3", 0.120209, [-0.162415, -0.049911, 0.212327]),
        ("k3+", 0.120209, [-0.173181, -0.075571, 0.248752]),
    ],
)
def test_the_expected_kl_gradient_over_three_categories_is_exact_for_k2_and_k3_plus(
    kind: str, value: float, gradient: list[float]
) -> None:
    logits_V = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    logprob_V = logits_V.log_softmax(0)
    batch = batch_of([3], ref_logprob=reference_V.tolist())
    penalty_V = KL(1.0, kind)(logprob_V, None, batch)
    # E over samples of the current policy, which themselves carry no gradient.
    (logprob_V.detach().exp() * penalty_V).sum().backward()
    assert float((logprob_V.exp() * penalty_V).sum().detach()) == pytest.approx(value, abs=TOLERANCE)
    assert logits_V.grad is not None
    assert logits_V.grad.tolist() == pytest.approx(gradient, abs=TOLERANCE)


def test_the_sampler_gap_is_reported_as_the_hand_computed_mismatch() -> None:
    objective = Objective((Term(Given((1.0, -0.5)), Current(), TokenMean()),))
    prepared = objective.prepare(example_batch())
    output, _ = evaluate(objective, prepared, torch.tensor(CURRENT, dtype=torch.float64))
    values = output.measures.values()
    weights = [1.105171, 1.491825, 0.951229, 1, 0.904837, 1.221403, 1]
    assert values["mismatch/weight_mean"] == pytest.approx(sum(weights) / 7, abs=TOLERANCE)
    ess = values["mismatch/weight_mean"] ** 2 / values["mismatch/weight_square_mean"]
    assert ess == pytest.approx(0.971322, abs=TOLERANCE)
    # Per-sequence means .024556 and .008747 over four and three tokens.
    assert values["mismatch/k3"] == pytest.approx((4 * 0.02455626 + 3 * 0.00874673) / 7, abs=TOLERANCE)
    assert values["mismatch/logprob_gap_max"] == pytest.approx(0.4, abs=1e-12)
    assert values["mismatch/logprob_gap_mean"] == pytest.approx(0.85 / 7, abs=1e-12)
