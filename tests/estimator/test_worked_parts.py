"""Hand-computed numbers: advantages, selection, aggregation, length punishment, entropy."""

from __future__ import annotations

import pytest
import torch
from estimator_batches import NAN, batch_of, with_advantage

from rlpost.estimator import PARTS, SoftOverlong, build_objective

TOLERANCE = 1e-6

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
    batch = batch_of(**GROUPS_BATCH)
    keep_S = PARTS["selection"]["drop_uniform"]()(batch, torch.zeros(batch.N)).keep_S
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
    assert float(entropy.detach()) == pytest.approx(0.832396, abs=TOLERANCE)
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
