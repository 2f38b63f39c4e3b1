"""OREAL: its worked examples, a slow version of the whole loss, and where its parts do not act."""

from __future__ import annotations

import pytest
import torch
from estimator_batches import NAN, batch_of

from rlpost.estimator.credit import OutcomeCredit, SignedReward
from rlpost.estimator.outcome import (
    best_of_n_divergence,
    best_of_n_factors,
    best_of_n_slopes,
    credit_weights,
    outcome_logits,
    outcome_loss,
    prefix_mean,
)


@pytest.mark.parametrize(
    ("p", "n", "right", "wrong", "right_slope", "wrong_slope"),
    [
        (0.25, 4, 2.734375, 0.421875, 1.687500, 1.265625),
        (0.5, 2, 1.500000, 0.500000, 1.000000, 0.500000),
        (0.125, 8, 5.251129, 0.392696, 3.141567, 2.748871),
    ],
)
def test_the_best_of_n_and_the_gradient_under_it(p, n, right, wrong, right_slope, wrong_slope) -> None:
    factors = best_of_n_factors(p, n)
    assert factors == pytest.approx((right, wrong), abs=1e-6)
    assert p * factors[0] + (1 - p) * factors[1] == pytest.approx(1.0, abs=1e-12)
    slopes = best_of_n_slopes(p, n)
    assert slopes == pytest.approx((right_slope, wrong_slope), abs=1e-6)
    assert slopes[1] == pytest.approx((1 - p) * slopes[0], abs=1e-12)


def test_the_limits_of_the_best_of_n() -> None:
    assert best_of_n_factors(0.0, 4) == (4.0, 1.0)
    assert best_of_n_factors(1e-7, 4)[0] == pytest.approx(4.0, abs=1e-5)
    assert best_of_n_factors(1.0, 4) == (1.0, 0.0)
    assert best_of_n_divergence(4) == pytest.approx(0.636294, abs=1e-6)
    assert best_of_n_divergence(1) == 0.0


LOGITS = (1.0, -1.0, 2.0)


def weights(credit: str, logits: tuple[float, ...] = LOGITS, right: bool = True, **options) -> list[float]:
    batch = batch_of([len(logits)], outcome=logits)
    return credit_weights(batch.signal("outcome"), torch.tensor([right]), batch, credit, **options).tolist()


def test_the_credit_of_each_token() -> None:
    batch = batch_of([3], outcome=LOGITS)
    mean_N = prefix_mean(batch.signal("outcome"), batch)
    assert mean_N.tolist() == pytest.approx([1.0, 0.0, 0.666667], abs=1e-6)
    assert torch.sigmoid(mean_N).tolist() == pytest.approx([0.731059, 0.5, 0.660756], abs=1e-6)
    assert weights("prefix_mean") == pytest.approx([0.462117, 0.0, 0.321513], abs=1e-6)
    assert weights("prefix_mean", right=False) == [0.0, 0.0, 0.0]
    assert weights("raw") == pytest.approx([0.462117, 0.0, 0.761594], abs=1e-6)
    assert weights("raw", right=False) == pytest.approx([0.0, 0.462117, 0.0], abs=1e-6)
    opposite = (-1.0, 1.0, -2.0)
    assert weights("prefix_mean", opposite, right=False) == pytest.approx([0.462117, 0.0, 0.321513], abs=1e-6)
    assert weights("uniform", right=False) == [1.0, 1.0, 1.0]


def test_the_top_share_is_stretched_and_the_rest_gets_nothing() -> None:
    logits = (4.0, 0.0, -1.0, 1.0)
    means = (4.0, 2.0, 1.0, 1.0)
    c = [1 / (1 + 2.718281828459045**-m) for m in means]
    half = [1.0, 0.0, 0.0, 0.0]
    assert weights("top_share", logits, share=0.5) == pytest.approx(half, abs=1e-12)
    found = weights("top_share", logits, share=0.75)
    assert found == pytest.approx([1.0, (c[1] - c[2]) / (c[0] - c[2]), 0.0, 0.0], abs=1e-9)
    # Of a wrong response 1 - c_t, so its last two tokens lead and are equal; one token is the least.
    assert weights("top_share", logits, right=False, share=0.5) == [0.0, 0.0, 1.0, 1.0]
    assert weights("top_share", logits, right=False, share=0.01) == [0.0, 0.0, 1.0, 0.0]
    assert weights("top_share", (0.0,) * 4) == [1.0, 0.0, 0.0, 0.0]
    assert weights("top_share", (0.0,) * 4, share=1.0) == [1.0] * 4


@pytest.mark.parametrize("credit", ["prefix_mean", "raw", "top_share"])
def test_holes_and_neighbours_have_no_part_in_a_token_s_credit(credit: str) -> None:
    mask = [1, 0, 1, 1, 0, 1, 1, 0]
    logits = [1.0, NAN, -1.0, 2.0, NAN, -1.0, 1.0, NAN]
    batch = batch_of([4, 0, 1, 3], mask=mask, rewards=[1, 1, 0, 0], outcome=logits)
    right_S = batch.reward_S >= 1.0
    found = credit_weights(batch.signal("outcome"), right_S, batch, credit, 0.7).tolist()
    first, last = weights(credit, share=0.7), weights(credit, (-1.0, 1.0), right=False, share=0.7)
    assert found == pytest.approx([first[0], 0.0, *first[1:], 0.0, *last, 0.0], abs=1e-12)


def test_the_loss_of_the_token_reward_model() -> None:
    batch = batch_of([3, 4, 0], mask=[1, 1, 1, 1, 0, 1, 1], outcome=[*LOGITS, 1.0, NAN, -1.0, 2.0])
    logit_N = batch.signal("outcome").requires_grad_(True)
    logit_S = outcome_logits(logit_N, batch)
    assert logit_S.tolist() == pytest.approx([0.666667, 0.666667, 0.0], abs=1e-6)
    assert torch.sigmoid(logit_S)[0].item() == pytest.approx(0.660756, abs=1e-6)
    loss_S = outcome_loss(logit_S, torch.tensor([1, 0, 0]))
    assert loss_S.tolist() == pytest.approx([0.414370, 1.081037, 0.693147], abs=1e-6)
    loss_S.sum().backward()
    slope = [(0.660756 - 1) / 3] * 3 + [0.660756 / 3, 0.0, 0.660756 / 3, 0.660756 / 3]
    assert logit_N.grad is not None
    assert logit_N.grad.tolist() == pytest.approx(slope, abs=1e-6)


def test_a_zero_head_gives_every_token_nothing_until_it_is_trained() -> None:
    batch = batch_of([2, 3], rewards=[1, 0], outcome=[0.0] * 5)
    advantage_N = torch.ones(5, dtype=torch.float64)
    part = OutcomeCredit()
    assert part.advantage(advantage_N, batch).tolist() == [0.0] * 5
    measured = part.measures(advantage_N, batch).values()
    assert measured["credit/zero_share"] == 1.0
    assert measured["credit/weight_mean_right"] == measured["credit/weight_mean_wrong"] == 0.0
    assert OutcomeCredit("uniform").signals == frozenset()
    assert OutcomeCredit("uniform").advantage(advantage_N, batch).tolist() == [1.0] * 5
    assert part.targets(batch)["outcome"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_reward_is_right_from_success_on() -> None:
    reward_S = torch.tensor([1.0, 0.99, 0.0, 2.0], dtype=torch.float64)
    batch = batch_of([1] * 4, rewards=reward_S.tolist())
    assert SignedReward().reward(reward_S, batch).tolist() == [1.0, -1.0, -1.0, 1.0]
    assert SignedReward(0.5).reward(reward_S, batch).tolist() == [1.0, 1.0, -1.0, 1.0]
