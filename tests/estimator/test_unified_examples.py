"""Hand-computed numbers of the unified estimator: coefficients token by token."""

from __future__ import annotations

import math

import pytest
import torch
from estimator_batches import Given, batch_of, evaluate, with_advantage

from rlpost.estimator import (
    KL,
    PARTS,
    Constant,
    Current,
    Objective,
    SequenceMeanTokenMean,
    Term,
    TokenSum,
    build_objective,
)

TOLERANCE = 1e-6

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


def test_cispo_has_the_effective_denominator_of_its_cap() -> None:
    capped = {"denominator": {"clipped": {"high": 1.2}}, "mask": "keep"}
    spec = {"base": "grpo", "aggregation": "token_sum", **capped}
    objective = with_advantage(build_objective(spec), (1.0,))
    prepared = objective.prepare(batch_of([1], old_logprob=[math.log(0.2)]))
    _, gradient_N = evaluate(objective, prepared, torch.tensor([0.25], dtype=torch.float64).log())
    assert 0.25 / -float(gradient_N[0]) == pytest.approx(0.208333, abs=TOLERANCE)


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
