"""Hand-computed numbers of hybrid post-training: gates, both losses in one batch, LUFFY's shaping, A_uni."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from estimator_batches import Given, batch_of, evaluate, with_advantage
from hypothesis import given
from hypothesis import strategies as st

from rlpost.estimator import (
    Clip,
    Constant,
    Current,
    EntropyWeight,
    Objective,
    Old,
    PassRateGate,
    PromptMean,
    ShapedUnit,
    Term,
    TokenSum,
    Unit,
    build_objective,
)

TOLERANCE = 1e-6


@pytest.mark.parametrize(
    ("threshold", "open_from"), [(0.0, 1), (1 / 8, 2), (2 / 8, 3), (1.0, 9), (-0.1, 0), (0.3, 3)]
)
def test_the_gate_of_eight_rollouts_compares_counts_strictly(threshold: float, open_from: int) -> None:
    for right in range(9):
        batch = batch_of([1] * 9, rewards=[1.0] * right + [0.0] * (9 - right), demonstrations=[8])
        weights = {side: PassRateGate(threshold, side=side)(batch).tolist() for side in ("above", "at_most")}
        assert weights["above"] == [float(right >= open_from)] * 9
        assert weights["at_most"] == [float(right < open_from)] * 9


def test_the_gate_counts_graded_rewards_from_the_success_value_on_prompt_by_prompt() -> None:
    batch = batch_of(
        [1] * 7, groups=[3, 9, 3, 9, 3, 9, 5], rewards=[0.9, 0.4, 0.2, 0.3, 0, 0, 0], demonstrations=[4, 5, 6]
    )
    assert PassRateGate(success=0.5)(batch).tolist() == [1, 0, 1, 0, 1, 0, 0]
    # The last prompt has no rollouts: it is on neither side.
    assert PassRateGate(success=0.5, side="at_most")(batch).tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_two_thirds_of_three_are_not_more_than_two_thirds() -> None:
    batch = batch_of([1] * 4, rewards=[1, 1, 0, 0], demonstrations=[3])
    assert PassRateGate(2 / 3)(batch).tolist() == [0] * 4
    assert PassRateGate(0.66)(batch).tolist() == [1] * 4


def hybrid(rl: str, sft: str) -> Objective:
    """HPT's two terms over the prompts of a batch, with advantages R - mean R."""
    group_centred = build_objective({"base": "dr_grpo", "aggregation": "token_sum"}).terms[0].advantage
    return Objective(
        (
            Term(group_centred, Old(), PromptMean(rl), mask=Clip(0.2, 0.2), gate=PassRateGate()),
            Term(
                Constant(),
                Current(),
                PromptMean(sft),
                rows="demonstrations",
                gate=PassRateGate(side="at_most"),
            ),
        )
    )


def test_a_prompt_without_success_learns_from_its_demonstration_and_another_from_its_rollouts() -> None:
    # Prompt 0: two failures and a demonstration; prompt 1: one success of two, and a demonstration.
    batch = batch_of(
        [1, 1, 3, 2, 2, 1],
        groups=[0, 0, 0, 1, 1, 1],
        rewards=[0, 0, 0, 1, 0, 0],
        demonstrations=[2, 5],
        old_logprob=[-1.0, -1.0, *[float("nan")] * 3, -3.0, -3.0, -3.0, -3.0, float("nan")],
    )
    ratio_N = torch.tensor([1.1, 1.3, 0.9, 0.7], dtype=torch.float64)
    logprob_N = torch.cat(
        (torch.tensor([-1.0, -1.0, -0.5, -1.0, -1.5]).double(), ratio_N.log() - 3.0, torch.tensor([-7.0]))
    )
    objective = hybrid("sequence_mean_token_sum", "sequence_mean_token_mean")
    prepared = objective.prepare(batch)
    output, gradient_N = evaluate(objective, prepared, logprob_N)
    assert output.measures.values()["policy/loss"] == pytest.approx((1.0 - 0.15) / 2, abs=TOLERANCE)
    rollouts = [-0.55 / 4, 0.0, 0.45 / 4, 0.0]
    assert gradient_N.tolist() == pytest.approx([0, 0, *[-1 / 6] * 3, *rollouts, 0], abs=TOLERANCE)


def test_the_share_of_both_losses_does_not_depend_on_the_microbatches() -> None:
    batch = batch_of(
        [2, 2, 3, 2, 2],
        groups=[0, 0, 0, 1, 1],
        rewards=[0, 0, 0, 1, 0],
        demonstrations=[2],
        old_logprob=[-1.1] * 11,
    )
    objective = hybrid("token_mean", "token_mean")
    prepared = objective.prepare(batch)
    logprob_N = torch.full((11,), -1.0, dtype=torch.float64)
    whole = evaluate(objective, prepared, logprob_N)[1]
    parts = [
        evaluate(objective, prepared.rows(torch.tensor([s])), logprob_N[: int(batch.length_S[s])])[1]
        for s in range(5)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert (whole[4:] != 0).all()


def test_the_released_code_has_no_clip_and_divides_by_the_padded_length() -> None:
    ratio_N = torch.tensor([1.1, 1.3, 0.9, 0.7], dtype=torch.float64)
    spec = {"base": "dr_grpo", "mask": "keep", "aggregation": "token_sum"}
    objective = with_advantage(build_objective(spec), (0.5, -0.5))
    objective = replace(objective, terms=(replace(objective.terms[0], weight=1 / 4),))
    output, _ = evaluate(
        objective, objective.prepare(batch_of([2, 2], old_logprob=[-3.0] * 4)), ratio_N.log() - 3
    )
    assert output.measures.values()["policy/loss"] == pytest.approx(-0.1, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("pi", "advantage", "on_pi", "on_log_pi"),
    [
        (0.25, 1, 0.816327, 0.204082),
        (0.25, -1, -0.816327, -0.204082),
        (0.22, 1, 0.976562, 0.214844),
        (0.15, -1, -1.6, -0.24),
        (0.15, 1, 1.6, 0.24),
    ],
)
def test_shaped_coefficients_match_the_table_of_the_unified_estimator(
    pi: float, advantage: float, on_pi: float, on_log_pi: float
) -> None:
    objective = Objective((Term(Given((advantage,)), ShapedUnit(), TokenSum()),))
    _, gradient_N = evaluate(objective, objective.prepare(batch_of([1])), torch.tensor([pi]).double().log())
    assert -float(gradient_N[0]) == pytest.approx(on_log_pi, abs=TOLERANCE)
    assert -float(gradient_N[0]) / pi == pytest.approx(on_pi, abs=TOLERANCE)


def test_the_shaping_function_and_its_slope_have_the_published_values() -> None:
    part = ShapedUnit()
    pi_N = torch.tensor([0.25, 0.01], dtype=torch.float64)
    assert part.value(pi_N, pi_N.log()).tolist() == pytest.approx([0.714286, 0.090909], abs=TOLERANCE)
    assert float(part.weight(pi_N)[1]) == pytest.approx(0.082645, abs=TOLERANCE)
    assert float(part.weight(pi_N)[1]) / 0.01 == pytest.approx(8.264463, abs=TOLERANCE)


def test_dft_has_the_coefficient_of_the_unit_denominator_and_truncation_multiplies_one() -> None:
    log_pi, log_old = math.log(0.25), math.log(0.2)
    dft = build_objective({"base": "dft"})
    _, gradient_N = evaluate(
        dft, dft.prepare(batch_of([1], demonstrations=[0])), torch.tensor([log_pi]).double()
    )
    assert -float(gradient_N[0]) == pytest.approx(0.25, abs=TOLERANCE)
    # The sampler's probability is 0.25 / 1.3 times pi_old's: w = 1.3 is cut at 1.1.
    spec = {"base": "reinforce", "aggregation": "token_sum", "correction": {"truncated": {"ceiling": 1.1}}}
    objective = with_advantage(build_objective(spec), (1.0,))
    batch = batch_of([1], old_logprob=[log_old], behaviour_logprob=[log_old - math.log(1.3)])
    _, gradient_N = evaluate(objective, objective.prepare(batch), torch.tensor([log_pi]).double())
    assert -float(gradient_N[0]) == pytest.approx(1.1, abs=TOLERANCE)


def test_the_slope_of_the_sequence_ratio_reaches_the_logits() -> None:
    # Two positions with probabilities 0.25 and 0.5 of the chosen token, 0.2 and 0.5 before.
    logits = torch.tensor([math.log(0.25 / 0.75), 0.0], dtype=torch.float64, requires_grad=True)
    spec = {"base": "gspo", "mask": "keep"}
    objective = with_advantage(build_objective(spec), (1.0,))
    prepared = objective.prepare(batch_of([2], old_logprob=[math.log(0.2), math.log(0.5)]))
    output = objective.loss(torch.nn.functional.logsigmoid(logits), prepared)
    output.loss.backward()
    assert logits.grad is not None
    assert -float(logits.grad[0]) == pytest.approx(0.419263, abs=TOLERANCE)


def unified_advantage(r: float, mu: float, demonstrator: float, policy: float) -> float:
    """A_uni of the common objective, eq. 4."""
    return r + mu * demonstrator / policy


def test_the_unified_advantage_has_the_published_values() -> None:
    assert unified_advantage(1, 0.5, 0.8, 0.4) == pytest.approx(2.0)
    with_trust_region = unified_advantage(1, 0.5, 0.8, 0.4) - 0.1 * math.log(0.4 / 0.5)
    assert with_trust_region == pytest.approx(2.022314, abs=TOLERANCE)
    pi = 1 / (1 + math.exp(-0.3))
    found = [unified_advantage(1, 0.5, 0.9, pi), unified_advantage(0, 0.5, 0.1, 1 - pi)]
    assert found == pytest.approx([1.783368, 0.117493], abs=TOLERANCE)


def test_the_common_objective_has_the_published_value_and_slope() -> None:
    def value(theta: float) -> float:
        pi = 1 / (1 + math.exp(-theta))
        divergence = 0.9 * math.log(0.9 / pi) + 0.1 * math.log(0.1 / (1 - pi))
        return pi - 0.5 * divergence

    assert value(0.3) == pytest.approx(0.444806, abs=TOLERANCE)
    assert (value(0.3 + 1e-5) - value(0.3 - 1e-5)) / 2e-5 == pytest.approx(0.407237, abs=TOLERANCE)


def expected_gradient(
    theta: float, rewards: tuple[float, float], beta: float, mu: float, reference: Callable[[float], float]
) -> float:
    """The core's gradient of theta over both actions, weighted as drawn from the reference policy."""
    leaf = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    logprob_N = torch.nn.functional.logsigmoid(torch.stack((leaf, -leaf)))
    policy = logprob_N.detach().exp().tolist()
    drawn = [reference(policy[0]), 1 - reference(policy[0])]
    unified = [
        q * unified_advantage(r, mu, b, p)
        for q, r, b, p in zip(drawn, rewards, (beta, 1 - beta), policy, strict=True)
    ]
    objective = Objective((Term(Given(tuple(unified)), Old(), TokenSum()),))
    batch = batch_of([1, 1], old_logprob=[math.log(q) for q in drawn])
    objective.loss(logprob_N, objective.prepare(batch)).loss.backward()
    assert leaf.grad is not None
    return -float(leaf.grad)


POLICIES: list[Callable[[float], float]] = [lambda pi: pi, lambda pi: 0.5, lambda pi: 0.9, lambda pi: 0.2]


def test_the_gradient_of_the_common_objective_is_the_published_one_under_every_reference_policy() -> None:
    for reference in POLICIES:
        found = expected_gradient(0.3, (1.0, 0.0), 0.9, 0.5, reference)
        assert found == pytest.approx(0.407237, abs=TOLERANCE)


@given(
    theta=st.floats(-3, 3),
    rewards=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    beta=st.floats(0.01, 0.99),
    mu=st.floats(0, 3),
)
def test_the_unified_estimator_is_reward_learning_plus_imitation_for_any_reference_policy(
    theta: float, rewards: tuple[float, float], beta: float, mu: float
) -> None:
    pi = 1 / (1 + math.exp(-theta))
    closed = (rewards[0] - rewards[1]) * pi * (1 - pi) + mu * (beta - pi)
    for reference in POLICIES:
        assert expected_gradient(theta, rewards, beta, mu, reference) == pytest.approx(closed, abs=1e-9)


def test_the_unit_denominator_reports_the_probability_unless_asked_for_its_logarithm() -> None:
    for part, loss in [(Unit(), -0.25), (Unit("log_probability"), -0.25 * math.log(0.25))]:
        objective = Objective((Term(Constant(), part, TokenSum()),))
        output, gradient_N = evaluate(
            objective, objective.prepare(batch_of([1])), torch.tensor([0.25]).double().log()
        )
        assert output.measures.values()["policy/loss"] == pytest.approx(loss, abs=1e-12)
        assert float(gradient_N[0]) == pytest.approx(-0.25, abs=1e-12)


def test_a_weight_by_entropy_has_the_published_values_and_scales_the_gradient() -> None:
    batch = batch_of([2, 1], rewards=[1.0, 0.0]).with_signals(entropy=torch.tensor([0.5, 0.9, 0.0]).double())
    assert EntropyWeight(0.5, -1.0)(batch).tolist() == pytest.approx([0.248293, 0.5], abs=TOLERANCE)
    assert EntropyWeight(0.1, 1.0)(batch).tolist() == pytest.approx([0.201375, 0.1], abs=TOLERANCE)
    objective = Objective((Term(Constant(), Unit(), TokenSum(), gate=EntropyWeight()),))
    logprob_N = torch.tensor([0.25, 0.5, 0.75]).double().log()
    _, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    expected = [-0.248293 * 0.25, -0.248293 * 0.5, -0.5 * 0.75]
    assert gradient_N.tolist() == pytest.approx(expected, abs=TOLERANCE)
