"""Hand-computed numbers: losses and gradients of the parts and rows, to six digits."""

from __future__ import annotations

import pytest
import torch
from estimator_batches import NAN, Given, batch_of, evaluate, with_advantage

from rlpost.estimator import (
    KL,
    Constant,
    Current,
    Objective,
    SequenceMeanTokenMean,
    SoftOverlong,
    Term,
    TokenBatch,
    TokenMean,
    TokenSum,
    build_objective,
)
from rlpost.estimator.compose import PARTS

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


GROUPS_BATCH = {
    "lengths": [2, 1, 3, 2, 1, 2, 2, 3, 1, 1, 2, 2],
    "groups": [0] * 4 + [1] * 4 + [2] * 4,
    "rewards": [1, 0, 0, 1, 0.2, 0.9, 0.5, 0.5, 1, 1, 1, 1],
}


@pytest.mark.parametrize(
    ("name", "options", "first", "second"),
    [
        ("leave_one_out", {}, 0.666667, [-0.433333, 0.5, -0.033333, -0.033333]),
        ("group_normalised", {}, 0.866024, [-1.131501, 1.305578, -0.087039, -0.087039]),
        (
            "group_normalised",
            {"epsilon": 1e-4},
            0.865875,
            [-1.131111, 1.305128, -0.087009, -0.087009],
        ),
        (
            "group_normalised",
            {"std": "population"},
            0.999998,
            [-1.306544, 1.507551, -0.100503, -0.100503],
        ),
        ("group_centred", {}, 0.5, [-0.325, 0.375, -0.025, -0.025]),
    ],
)
def test_group_advantages_are_the_hand_computed_ones_on_every_token(
    name: str, options: dict, first: float, second: list[float]
) -> None:
    batch = batch_of(**GROUPS_BATCH)
    expected_S = [first, -first, -first, first, *second, 0, 0, 0, 0]
    advantage_N = PARTS["advantage"][name](**options)(batch)
    expected_N = [expected_S[s] for s in batch.sequence_N.tolist()]
    assert advantage_N.tolist() == pytest.approx(expected_N, abs=TOLERANCE)
    assert advantage_N[-6:].tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("name", "options", "right", "wrong"),
    [
        ("group_centred", {}, 0.75, -0.25),
        ("group_normalised", {"std": "population", "epsilon": 0.0}, 1.732051, -0.577350),
        ("group_normalised", {"epsilon": 0.0}, 1.620185, -0.540062),
    ],
)
def test_two_right_of_eight_give_the_published_advantages(
    name: str, options: dict, right: float, wrong: float
) -> None:
    batch = batch_of([1] * 8, rewards=[1, 0, 0, 0, 1, 0, 0, 0])
    expected = [right, wrong, wrong, wrong, right, wrong, wrong, wrong]
    advantage_N = PARTS["advantage"][name](**options)(batch)
    assert advantage_N.tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_dynamic_sampling_keeps_the_two_groups_whose_rewards_differ() -> None:
    keep_S = PARTS["selection"]["drop_uniform"]()(batch_of(**GROUPS_BATCH))
    assert keep_S.tolist() == [True] * 8 + [False] * 4


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("token_mean", 2.5),
        ("token_sum", 10.0),
        ("sequence_mean_token_sum", 5.0),
        ("sequence_mean_token_mean", 3.0),
        ("sequence_sum_over_constant", 5 / 3),
    ],
)
def test_aggregations_leave_out_padding_and_sequences_without_a_trained_token(
    part: str, expected: float
) -> None:
    loss_N = torch.tensor([1, 2, 3, 4, 99, 99, 99, 99, 99], dtype=torch.float64)
    batch = batch_of([3, 3, 3], mask=[1, 1, 1, 1, 0, 0, 0, 0, 0])
    aggregation = PARTS["aggregation"][part](*([3.0] if part == "sequence_sum_over_constant" else []))
    weight_N = aggregation(batch, batch.mask_N, torch.zeros(3, dtype=torch.int64))
    assert float((weight_N * loss_N).sum()) == pytest.approx(expected, abs=1e-12)


def test_soft_overlong_punishes_linearly_inside_the_cache_and_by_one_beyond() -> None:
    lengths = [80, 81, 90, 100, 101]
    batch = batch_of(lengths, rewards=[0.0] * 5)
    shaped_S = SoftOverlong(limit=100, cache=20).reward(batch.reward_S, batch)
    assert shaped_S.tolist() == pytest.approx([0, -0.05, -0.5, -1, -1], abs=1e-12)
    halved_S = SoftOverlong(limit=100, cache=20, factor=0.5).reward(batch.reward_S + 1, batch)
    assert halved_S.tolist() == pytest.approx([1, 0.975, 0.75, 0.5, 0.5], abs=1e-12)


def test_soft_overlong_counts_the_tokens_of_the_policy_and_takes_a_fifth_as_its_cache() -> None:
    batch = batch_of([100, 110], mask=[1] * 90 + [0] * 10 + [0] * 10 + [1] * 100, rewards=[0.0, 0.0])
    assert SoftOverlong(limit=100).reward(batch.reward_S, batch).tolist() == [-0.5, -1.0]


def test_the_entropy_bonus_subtracts_the_mean_entropy_and_pushes_towards_it() -> None:
    logits_V = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    logprob_V = logits_V.log_softmax(0)
    entropy = -(logprob_V.exp() * logprob_V).sum()
    assert float(entropy) == pytest.approx(0.832396, abs=TOLERANCE)
    objective = with_advantage(build_objective({"base": "grpo", "entropy": 0.25}), (0.0, 0.0))
    prepared = objective.prepare(batch_of([1, 3], mask=[1, 1, 1, 0], old_logprob=[-1.0] * 4))
    entropy_N = torch.stack([entropy] * 3 + [torch.tensor(NAN, dtype=torch.float64)])
    current_N = torch.full((4,), -1.0, dtype=torch.float64, requires_grad=True)
    output = objective.loss(current_N, prepared, entropy_N)
    (gradient_V,) = torch.autograd.grad(output.loss, logits_V, retain_graph=True)
    (expected_V,) = torch.autograd.grad(entropy, logits_V)
    assert float(output.loss.detach()) == pytest.approx(-0.25 * 0.832396, abs=TOLERANCE)
    assert output.measures.values()["policy/entropy_loss"] == pytest.approx(-0.208099, abs=TOLERANCE)
    assert gradient_V.tolist() == pytest.approx((-0.25 * expected_V).tolist(), abs=1e-12)


ONE_TOKEN = [(0.25, 0.20, 1), (0.25, 0.20, -1), (0.22, 0.20, 1), (0.15, 0.20, -1), (0.15, 0.20, 1)]


@pytest.mark.parametrize(
    ("denominator", "mask", "on_gradient_of_pi", "on_gradient_of_log_pi"),
    [
        pytest.param(
            "current",
            "keep",
            [4.0, -4.0, 4.545455, -6.666667, 6.666667],
            [1, -1, 1, -1, 1],
            id="SFT and REINFORCE",
        ),
        pytest.param("old", "clip", [0, -5, 5, 0, 5], [0, -1.25, 1.1, 0, 0.75], id="PPO and GRPO"),
        pytest.param("unit", "keep", [1, -1, 1, -1, 1], [0.25, -0.25, 0.22, -0.15, 0.15], id="unit"),
    ],
)
def test_one_token_coefficients_match_the_table_of_the_unified_estimator(
    denominator: str, mask: str, on_gradient_of_pi: list[float], on_gradient_of_log_pi: list[float]
) -> None:
    pi_N = torch.tensor([row[0] for row in ONE_TOKEN], dtype=torch.float64)
    old_N = torch.tensor([row[1] for row in ONE_TOKEN], dtype=torch.float64)
    objective = Objective(
        (
            Term(
                Given(tuple(row[2] for row in ONE_TOKEN)),
                PARTS["denominator"][denominator](),
                TokenSum(),
                mask=PARTS["mask"][mask](),
            ),
        )
    )
    prepared = objective.prepare(batch_of([1] * 5, old_logprob=old_N.log().tolist()))
    _, gradient_N = evaluate(objective, prepared, pi_N.log())
    assert (-gradient_N).tolist() == pytest.approx(on_gradient_of_log_pi, abs=TOLERANCE)
    assert (-gradient_N / pi_N).tolist() == pytest.approx(on_gradient_of_pi, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("spec", "pi", "old", "advantage", "expected"),
    [
        pytest.param({"denominator": "unit", "mask": "keep"}, 0.25, 0.2, 1, 0.25, id="DFT"),
        pytest.param({"mask": {"clip": {"high": 0.28}}}, 0.25, 0.2, 1, 1.25, id="DAPO keeps it"),
        pytest.param({"mask": "clip"}, 0.25, 0.2, 1, 0.0, id="PPO clips it"),
        pytest.param(
            {"denominator": {"clipped": {"high": 1.2}}, "mask": "keep"}, 0.25, 0.2, 1, 1.2, id="CISPO"
        ),
        pytest.param({"mask": "dual_clip"}, 0.25, 0.05, -1, 0.0, id="dual clip"),
    ],
)
def test_one_token_coefficients_of_further_rows_match(
    spec: dict, pi: float, old: float, advantage: float, expected: float
) -> None:
    objective = with_advantage(
        build_objective({"base": "grpo", "aggregation": "token_sum", **spec}), (advantage,)
    )
    prepared = objective.prepare(batch_of([1], old_logprob=[torch.tensor(old).double().log().item()]))
    _, gradient_N = evaluate(objective, prepared, torch.tensor([pi], dtype=torch.float64).log())
    assert -float(gradient_N[0]) == pytest.approx(expected, abs=TOLERANCE)


def test_k3_towards_a_twice_as_likely_reference_has_loss_coefficient_minus_one() -> None:
    current_N = torch.tensor([0.25], dtype=torch.float64).log().requires_grad_(True)
    batch = batch_of([1], ref_logprob=[torch.tensor(0.5).double().log().item()])
    KL(1.0, "k3")(current_N, None, batch).sum().backward()
    assert current_N.grad is not None
    assert float(current_N.grad[0]) == pytest.approx(-1.0, abs=TOLERANCE)


def test_gspo_has_the_effective_denominator_of_the_unified_estimator() -> None:
    pi_N = torch.tensor([0.25, 0.5], dtype=torch.float64)
    objective = with_advantage(
        build_objective(
            {"base": "grpo", "granularity": "sequence", "mask": "keep", "aggregation": "token_sum"}
        ),
        (1.0,),
    )
    old = torch.tensor([0.2, 0.5], dtype=torch.float64).log().tolist()
    prepared = objective.prepare(batch_of([2], old_logprob=old))
    _, gradient_N = evaluate(objective, prepared, pi_N.log())
    assert (-gradient_N).tolist() == pytest.approx([1.118034, 1.118034], abs=TOLERANCE)
    assert (-gradient_N / pi_N).tolist() == pytest.approx([4.472136, 2.236068], abs=TOLERANCE)
    assert (pi_N / -gradient_N).tolist() == pytest.approx([0.223607, 0.447214], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("mask", "loss", "coefficients"),
    [
        ("clip", -0.15, [0.55, 0.0, -0.45, 0.0]),
        ("keep", -0.20, [0.55, 0.65, -0.45, -0.35]),
    ],
)
def test_two_responses_of_two_tokens_have_the_published_loss(
    mask: str, loss: float, coefficients: list[float]
) -> None:
    ratio_N = torch.tensor([1.1, 1.3, 0.9, 0.7], dtype=torch.float64)
    spec = {"base": "grpo", "aggregation": "sequence_mean_token_sum", "mask": mask}
    objective = with_advantage(build_objective(spec), (0.5, -0.5))
    prepared = objective.prepare(batch_of([2, 2], old_logprob=[-3.0] * 4))
    output, gradient_N = evaluate(objective, prepared, ratio_N.log() - 3.0)
    assert output.measures.values()["policy/loss"] == pytest.approx(loss, abs=TOLERANCE)
    assert (-2 * gradient_N).tolist() == pytest.approx(coefficients, abs=TOLERANCE)


def test_supervised_loss_is_the_mean_negative_log_likelihood() -> None:
    row = build_objective({"base": "sft"})
    per_sequence = Objective((Term(Constant(), Current(), SequenceMeanTokenMean(), rows="demonstrations"),))
    for objective, lengths, loss, gradient in [
        (row, [3], 1.0, [-1 / 3] * 3),
        (row, [3, 1], 1.25, [-1 / 4] * 4),
        (per_sequence, [3, 1], 1.5, [-1 / 6] * 3 + [-1 / 2]),
    ]:
        batch = batch_of(lengths, demonstrations=range(len(lengths)))
        current_N = torch.tensor([-0.5, -1.0, -1.5, -2.0], dtype=torch.float64)[: sum(lengths)]
        output, found = evaluate(objective, objective.prepare(batch), current_N)
        assert output.measures.values()["policy/loss"] == pytest.approx(loss, abs=TOLERANCE)
        assert found.tolist() == pytest.approx(gradient, abs=TOLERANCE)


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
