"""ACE: its worked examples, the decomposition of its gradient, and where it does not act."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from estimator_batches import NAN, batch_of, evaluate, kept_tokens, random_batch, with_advantage

from rlpost.estimator import ACE, TokenBatch, build_objective

LOG_PI = [-0.2, -0.3, -0.1, -0.2, -0.3, -1.0, -1.2, -2.0, -1.0, -1.5, -1.5]
LOG_REF = [-0.4, -0.5, -0.9, -1.0, -0.5, -1.0, -1.2, -1.0, -0.5, -1.0, -0.5]


def four() -> TokenBatch:
    return batch_of(
        [2, 3, 2, 4],
        rewards=[1.0, 0.0, 0.0, 0.0],
        old_logprob=LOG_PI,
        ref_logprob=LOG_REF,
        entropy=[1.0] * 11,
    )


def confident(c: float, tokens: int = 1) -> TokenBatch:
    """One response whose every token moved by c."""
    return batch_of([tokens], old_logprob=[c - 3.0] * tokens, ref_logprob=[-3.0] * tokens)


@pytest.mark.parametrize(
    ("c", "softplus", "one", "half"),
    [
        (-5.0, 0.006715, 1.006715, 1.003358),
        (-1.0, 0.313262, 1.313262, 1.156631),
        (-0.5, 0.474077, 1.474077, 1.237038),
        (0.0, 0.693147, 1.693147, 1.346574),
        (0.5, 0.974077, 1.974077, 1.487038),
        (1.0, 1.313262, 2.313262, 1.656631),
        (2.0, 2.126928, 3.126928, 2.063464),
        (5.0, 5.006715, 6.006715, 3.503358),
    ],
)
def test_the_multiplier_of_a_wrong_response(c: float, softplus: float, one: float, half: float) -> None:
    advantage_N = torch.full((3,), -1.0, dtype=torch.float64)
    for alpha, expected in ((1.0, one), (0.5, half)):
        found = ACE(alpha).advantage(advantage_N, confident(c, tokens=3))
        assert found.tolist() == pytest.approx([-expected] * 3, abs=1e-6)
    neutral = ACE(neutral=True).advantage(advantage_N, confident(c, tokens=3))
    assert neutral.tolist() == pytest.approx([-(1 + softplus - math.log(2))] * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("std", "alpha", "expected"),
    [
        ("population", 0.0, [1.732051, -0.577350, -0.577350, -0.577350]),
        ("population", 1.0, [1.732051, -1.176344, -0.977539, -0.800710]),
        ("population", 0.5, [1.732051, -0.876847, -0.777445, -0.689030]),
        ("sample", 1.0, [1.5, -1.018744, -0.846574, -0.693436]),
        ("sample", 0.5, [1.5, -0.759372, -0.673287, -0.596718]),
    ],
)
def test_the_example_group(std: str, alpha: float, expected: list[float]) -> None:
    batch = four()
    objective = build_objective(
        {
            "base": "grpo",
            "advantage": {"group_normalised": {"std": std, "epsilon": 0.0}},
            "shaping": [{"ace": {"alpha": alpha}}],
        }
    )
    prepared = objective.prepare(batch)
    owners = batch.sequence_N.tolist()
    assert prepared.terms[0].advantage_N.tolist() == pytest.approx([expected[s] for s in owners], abs=1e-6)
    values = prepared.measures.values()
    assert values["ace/confidence_wrong_mean"] == pytest.approx((0.6 + 0.0 - 0.75) / 3)
    assert values["ace/overconfident_share"] == pytest.approx(1 / 3)
    before = -0.577350 if std == "population" else -0.5
    assert values["ace/multiplier_mean"] == pytest.approx(sum(expected[1:]) / 3 / before, abs=1e-5)


def test_without_the_length_normalisation_the_gaps_are_summed() -> None:
    values = ACE(normalise=False).measures(torch.full((11,), -1.0), four()).values()
    assert values["ace/confidence_wrong_mean"] == pytest.approx((0.4 + 1.8 + 0.0 - 3.0) / 4)


def test_the_extra_gradient_is_a_regularisers_and_a_residual() -> None:
    logits = torch.tensor([0.4, 0.1, -0.2], dtype=torch.float64, requires_grad=True)
    log_ref = torch.log(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    log_pi = torch.log_softmax(logits, 0)
    pi = log_pi.detach().exp()
    assert pi.tolist() == pytest.approx([0.436752, 0.323554, 0.239694], abs=1e-6)
    shift = (log_pi.detach() - log_ref).tolist()
    assert shift == pytest.approx([0.781048, 0.075583, -0.735243], abs=1e-6)

    # One response for each outcome; the sum over them, weighted by pi, is the expectation.
    batch = batch_of([1, 1, 1], old_logprob=log_pi.tolist(), ref_logprob=log_ref.tolist())
    advantage_N = torch.tensor([0.6, -0.6, -0.6], dtype=torch.float64)
    ascents = []
    for spec in ({}, {"shaping": [{"ace": {"alpha": 1.0}}]}):
        objective = with_advantage(build_objective({"base": "rloo", **spec}), advantage_N.tolist())
        coefficient_N = -objective.coefficients(log_pi.detach(), objective.prepare(batch)) * 3
        (ascent,) = torch.autograd.grad((pi * coefficient_N * log_pi).sum(), logits, retain_graph=True)
        ascents.append(ascent)
    extra = ascents[1] - ascents[0]
    assert extra.tolist() == pytest.approx([0.086634, -0.077857, -0.008777], abs=1e-6)

    wrong = torch.tensor([0.0, 0.6, 0.6], dtype=torch.float64)
    moving = torch.log_softmax(logits, 0)
    regulariser = (moving.exp() * wrong * torch.nn.functional.softplus(moving - log_ref)).sum()
    (gradient,) = torch.autograd.grad(regulariser, logits)
    assert gradient.tolist() == pytest.approx([-0.150983, 0.130919, 0.020065], abs=1e-6)
    residual = [-0.064349, 0.053062, 0.011288]
    assert (extra + gradient).tolist() == pytest.approx(residual, abs=1e-6)


@pytest.mark.parametrize("spec", [{"base": "grpo"}, {"base": "dapo"}, {"base": "rloo"}], ids=str)
def test_with_alpha_zero_it_is_its_host(spec: dict) -> None:
    batch, logprob_N = random_batch(2)
    results = []
    for shaping in ([], [{"ace": {"alpha": 0.0}}]):
        objective = build_objective({**spec, "shaping": shaping}, max_response_tokens=5)
        prepared = objective.prepare(batch)
        output, gradient_N = evaluate(objective, prepared, logprob_N[kept_tokens(prepared, batch)])
        results.append((output.measures.values(), gradient_N))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_a_response_twice_as_long_is_as_confident() -> None:
    advantage_N = torch.full((6,), -1.0, dtype=torch.float64)
    short = ACE().advantage(advantage_N[:3], confident(0.7, tokens=3))
    assert ACE().advantage(advantage_N, confident(0.7, tokens=6))[:3].tolist() == pytest.approx(
        short.tolist()
    )


def test_only_negative_entries_change_and_only_of_rollouts() -> None:
    batch = batch_of([3, 1], demonstrations=[1], old_logprob=[-1.0] * 4, ref_logprob=[-2.0] * 4)
    advantage_N = torch.tensor([1.0, -1.0, 0.0, -1.0], dtype=torch.float64)
    factor = 1 + math.log(1 + math.e)
    assert ACE().advantage(advantage_N, batch).tolist() == pytest.approx([1.0, -factor, 0.0, -1.0])
    values = ACE().measures(advantage_N, batch).values()
    assert values["ace/multiplier_mean"] == pytest.approx(factor)


def test_no_wrong_response_reports_nothing() -> None:
    assert ACE().measures(torch.ones(3), confident(0.7, tokens=3)).values() == {}


@pytest.mark.parametrize(("gap", "multiplier"), [(800.0, 21.0), (-800.0, 1.0)])
def test_a_confidence_far_away_is_held_at_its_bound(gap: float, multiplier: float) -> None:
    found = ACE(normalise=False).advantage(torch.tensor([-1.0], dtype=torch.float64), confident(gap))
    assert found.tolist() == pytest.approx([-multiplier], abs=1e-6)


def test_untrained_positions_are_not_read() -> None:
    batch = batch_of([3], mask=[1, 0, 1], old_logprob=[-1.0, NAN, -2.0], ref_logprob=[-1.5, NAN, -2.5])
    assert ACE().measures(torch.full((3,), -1.0), batch).values()["ace/confidence_wrong_mean"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha must be 0 or above"),
        ({"alpha": 1.5, "neutral": True}, "at most 1/ln 2 = 1.4427"),
    ],
)
def test_an_alpha_that_would_reward_errors_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ACE(**options)
    assert ACE(alpha=1.44, neutral=True).alpha == 1.44


def test_it_acts_on_the_shaped_advantage_before_the_selection_reads_it() -> None:
    batch = replace(four(), progress=0.0)
    spec = {"base": "grpo", "shaping": ["ace"], "selection": {"max_variance": {"start": 0.5, "end": 0.5}}}
    assert build_objective(spec).prepare(batch).kept_S.tolist() == [0, 1]
    assert build_objective({**spec, "shaping": []}).prepare(batch).kept_S.tolist() == [0, 3]
