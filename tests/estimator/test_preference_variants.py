"""Every variant of DPO: the paper's loss on written-down log-probs, its exact gradient, and what it needs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from estimator_batches import batch_of, evaluate
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlpost.estimator import (
    ALGORITHMS,
    CompositionError,
    Preference,
    TokenBatch,
    build_objective,
    preference_loss,
)
from rlpost.estimator.gate import PreferredGate

WON, LOST = [-0.4, -0.9, -1.3], [-0.7, -0.2, -2.0, -0.6, -0.1]
REFERENCE = [-0.5, -0.8, -1.0, -0.6, -0.6, -1.5, -0.3, -0.2]
E6 = torch.tensor([2.0], dtype=torch.float64)
"""The margin of lp_w -12, lp_l -15, ref_w -13, ref_l -14."""


def literal_loss(options: dict[str, Any], lp_w: Tensor, lp_l: Tensor, ref_w: Tensor, ref_l: Tensor) -> Tensor:
    """The loss as the papers write it, from the log-probs of all tokens of two responses."""
    o = {"beta": 0.1, "kind": "dpo", "label_smoothing": 0.0, "target": 0.0, "score": "sum", "reference": True}
    o |= options
    e, beta = o["label_smoothing"], o["beta"]
    if o["score"] == "odds":
        p_w, p_l = lp_w.mean().exp(), lp_l.mean().exp()
        delta = torch.log(p_w / (1 - p_w)) - torch.log(p_l / (1 - p_l))
    else:
        if o["reference"]:
            lp_w, lp_l = lp_w - ref_w, lp_l - ref_l
        delta = lp_w.mean() - lp_l.mean() if o["score"] == "mean" else lp_w.sum() - lp_l.sum()
    if o["kind"] == "ipo":
        return (delta - 1 / (2 * beta)) ** 2
    if o["kind"] == "hinge":
        return relu(1 - beta * delta)
    x = beta * delta - o["target"]
    if o["kind"] == "robust":
        return (-(1 - e) * logsigmoid(x) + e * logsigmoid(-x)) / (1 - 2 * e)
    return -(1 - e) * logsigmoid(x) - e * logsigmoid(-x)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"kind": "robust", "label_smoothing": 0.1},
    {"kind": "hinge"},
    {"kind": "hinge", "beta": 20.0},
    {"kind": "hinge", "beta": 1.0, "reference": False},
    {"kind": "ipo"},
    {"kind": "ipo", "score": "mean"},
    {"score": "mean", "beta": 0.7},
    {"score": "mean", "reference": False, "beta": 2.0, "target": 1.0},
    {"score": "mean", "reference": False, "beta": 2.5, "target": 0.5, "label_smoothing": 0.2},
    {"score": "odds", "reference": False, "beta": 1.0},
    {"target": 0.3},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_gradient_is_that_of_the_papers_loss(options: dict[str, Any]) -> None:
    logprob_N = torch.tensor(WON + LOST, dtype=torch.float64, requires_grad=True)
    ref_N = torch.tensor(REFERENCE, dtype=torch.float64)
    loss = literal_loss(options, logprob_N[:3], logprob_N[3:], ref_N[:3], ref_N[3:])
    (expected_N,) = torch.autograd.grad(loss, logprob_N)
    part = Preference(**options)
    known = {"ref_logprob": REFERENCE} if "ref_logprob" in part.signals else {}
    for demonstrations in ((), (0, 1)):
        batch = batch_of(
            [3, 5], rewards=[1, 0], demonstrations=demonstrations, old_logprob=WON + LOST, **known
        )
        objective = build_objective({"base": "dpo", "advantage": {"preference": options}})
        _, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
        assert torch.allclose(gradient_N, expected_N, rtol=0, atol=1e-10)
    assert part.measures(batch).values()["preference/loss"] == pytest.approx(loss.item(), abs=1e-12)


def test_the_losses_of_a_margin_have_the_hand_computed_values() -> None:
    assert float(preference_loss(E6, kind="robust", label_smoothing=0.1)) == pytest.approx(
        (0.9 * 0.5981388693815918 - 0.1 * 0.7981388693815918) / 0.8, abs=1e-6
    )
    assert float(preference_loss(E6, kind="hinge")) == pytest.approx(0.8, abs=1e-6)
    assert float(preference_loss(E6, beta=2.0, target=1.0)) == pytest.approx(
        math.log1p(math.exp(-3.0)), abs=1e-6
    )
    assert float(preference_loss(E6)) == pytest.approx(0.598139, abs=1e-6)
    assert float(preference_loss(E6, kind="ipo")) == pytest.approx(9.0, abs=1e-6)


def test_the_robust_loss_is_unbiased_under_labels_that_are_wrong_at_its_rate() -> None:
    margin_P = torch.linspace(-5.0, 5.0, 11, dtype=torch.float64)
    options: dict[str, Any] = {"beta": 0.7, "kind": "robust", "label_smoothing": 0.2}
    mixed_P = 0.8 * preference_loss(margin_P, **options) + 0.2 * preference_loss(-margin_P, **options)
    assert torch.allclose(mixed_P, preference_loss(margin_P, beta=0.7), rtol=0, atol=1e-12)


def test_only_what_is_compared_with_a_reference_reads_one() -> None:
    def reads(base: str) -> bool:
        return "ref_logprob" in ALGORITHMS[base].objective.signals

    assert [name for name in ("dpo", "ipo", "simpo") if reads(name)] == ["dpo", "ipo"]
    without = {"base": "dpo", "advantage": {"preference": {"kind": "hinge", "reference": False}}}
    assert "ref_logprob" not in build_objective(without).signals


def test_the_measures_are_means_over_pairs() -> None:
    batch = batch_of(
        [1, 2, 1, 1],
        groups=[0, 0, 1, 1],
        rewards=[1, 0, 0, 1],
        old_logprob=[-1.0, -0.5, -0.25, -2.0, -3.0],
        ref_logprob=[-2.0, -0.5, -0.5, -2.0, -2.0],
    )
    found = Preference(beta=1.0).measures(batch).values()
    assert found["preference/pairs"] == 2.0
    assert found["preference/accuracy"] == 0.5
    assert found["preference/margin"] == pytest.approx((0.75 - 1.0) / 2)
    assert found["preference/chosen_logprob"] == pytest.approx((-1.0 - 3.0) / 2)
    assert found["preference/rejected_logprob"] == pytest.approx((-0.75 - 2.0) / 2)
    expected = (math.log1p(math.exp(-0.75)) + math.log1p(math.exp(1.0))) / 2
    assert found["preference/loss"] == pytest.approx(expected)


def test_the_odds_of_a_certain_response_are_finite() -> None:
    batch = batch_of([2, 1], rewards=[1, 0], old_logprob=[0.0, 0.0, -1.0])
    part = Preference(beta=1.0, score="odds", reference=False)
    assert part(batch).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hinge", "label_smoothing": 0.1}, "label_smoothing belongs to kind dpo and robust"),
        ({"target": -1.0}, "target must be 0 or above, found -1"),
        ({"kind": "ipo", "target": 1.0}, "target belongs to kind dpo, found kind ipo"),
        ({"score": "odds"}, "score odds compares without a reference"),
    ],
)
def test_options_that_would_not_be_read_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        build_objective({"base": "dpo", "advantage": {"preference": options}})


def pair(demonstrations: tuple[int, ...] = ()) -> tuple[TokenBatch, Tensor]:
    """Two responses to a prompt of which the second is preferred, and their log-probs with gradient."""
    batch = batch_of(
        [5, 3],
        rewards=[0, 1],
        demonstrations=demonstrations,
        old_logprob=LOST + WON,
        ref_logprob=REFERENCE,
    )
    return batch, torch.tensor(LOST + WON, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("demonstrations", [(), (0, 1)])
def test_orpo_imitates_the_preferred_response_and_weighs_its_odds(demonstrations: tuple[int, ...]) -> None:
    batch, logprob_N = pair(demonstrations)
    lost, won = logprob_N[:5], logprob_N[5:]
    odds = literal_loss({"score": "odds", "beta": 1.0}, won, lost, won, lost)
    (expected_N,) = torch.autograd.grad(-won.mean() + 0.1 * odds, logprob_N)
    objective = build_objective({"base": "orpo"})
    assert objective.signals == {"old_logprob"}
    _, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert torch.allclose(gradient_N, expected_N, rtol=0, atol=1e-10)


def test_dpo_with_the_likelihood_of_the_preferred_response_is_a_term_more() -> None:
    batch, logprob_N = pair((0, 1))
    lost, won = logprob_N[:5], logprob_N[5:]
    ref_N = torch.tensor(REFERENCE, dtype=torch.float64)
    loss = literal_loss({}, won, lost, ref_N[5:], ref_N[:5]) - 0.2 * won.mean()
    (expected_N,) = torch.autograd.grad(loss, logprob_N)
    imitated = {
        "advantage": "constant",
        "denominator": "current",
        "gate": "preferred",
        "rows": "all",
        "aggregation": {"prompt_mean": {"inside": "sequence_mean_token_mean"}},
        "weight": 0.2,
    }
    objective = build_objective({"base": "dpo", "terms": {"preferred": imitated}})
    _, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert torch.allclose(gradient_N, expected_N, rtol=0, atol=1e-10)


def test_only_the_best_of_a_prompt_with_different_rewards_is_preferred() -> None:
    batch = batch_of([1] * 6, groups=[3, 3, 3, 7, 7, 9], rewards=[1, 0, 1, 0.5, 0.5, 1])
    assert PreferredGate()(batch).tolist() == [1, 0, 1, 0, 0, 0]
