"""On-policy distillation: the advantage's expectation is the reverse KL's gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from estimator_batches import batch_of, evaluate
from torch import Tensor

from rlpost.estimator import CompositionError, TeacherGap, build_objective

V = 7


def distributions(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of a policy and log-probs of a teacher over a small vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    logits_V = torch.randn(V, generator=generator, dtype=torch.float64)
    return logits_V, torch.log_softmax(torch.randn(V, generator=generator, dtype=torch.float64), -1)


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_gradient_over_all_tokens_is_that_of_the_reverse_kl(seed: int) -> None:
    logits_V, teacher_V = distributions(seed)
    leaf_V = logits_V.clone().requires_grad_(True)
    policy_V = torch.log_softmax(leaf_V, -1)
    (expected_V,) = torch.autograd.grad((policy_V.exp() * (policy_V - teacher_V)).sum(), leaf_V)

    policy_V = torch.log_softmax(leaf_V, -1)
    old = policy_V.detach()
    batch = batch_of([1] * V, old_logprob=old.tolist(), teacher_logprob=teacher_V.tolist())
    objective = build_objective({"base": "distil"})
    _, slope_V = evaluate(objective, objective.prepare(batch), old)
    # The batch holds every token once and averages; sampling would bring each with its own probability.
    (found_V,) = torch.autograd.grad((V * slope_V * old.exp() * policy_V).sum(), leaf_V)
    assert torch.allclose(found_V, expected_V, rtol=0, atol=1e-10)


def test_a_policy_that_is_its_teacher_learns_nothing() -> None:
    batch = batch_of([2, 3], old_logprob=[-1.0] * 5, teacher_logprob=[-1.0] * 5)
    objective = build_objective({"base": "distil"})
    prepared = objective.prepare(batch)
    _, gradient_N = evaluate(objective, prepared, torch.full((5,), -1.0, dtype=torch.float64))
    assert gradient_N.tolist() == [0.0] * 5
    assert not prepared.has_signal
    assert prepared.measures.values()["distil/reverse_kl"] == 0.0


def test_rewards_and_groups_do_not_matter() -> None:
    signals: dict[str, Any] = {"old_logprob": [-1.0, -2.0, -0.5], "teacher_logprob": [-0.5, -4.0, -0.5]}
    for rewards, groups in (([0, 0], [0, 1]), ([1, 5], [0, 0])):
        batch = batch_of([1, 2], rewards=rewards, groups=groups, **signals)
        assert TeacherGap()(batch).tolist() == [0.5, -2.0, 0.0]
    objective = build_objective({"base": "distil"})
    assert not objective.reads_rewards
    assert not objective.needs_group
    assert objective.signals == {"old_logprob", "teacher_logprob"}


def test_a_clip_bounds_what_a_token_weighs_and_says_how_often() -> None:
    batch = batch_of(
        [2, 2],
        mask=[1, 1, 1, 0],
        old_logprob=[-1.0, -2.0, -0.5, float("nan")],
        teacher_logprob=[-0.5, -40.0, -0.5, float("nan")],
    )
    part = TeacherGap(clip=3.0)
    assert part(batch).tolist() == [0.5, -3.0, 0.0, 0.0]
    found = part.measures(batch).values()
    assert found["distil/clipped_share"] == pytest.approx(1 / 3)
    assert found["distil/reverse_kl"] == pytest.approx((-0.5 + 38.0) / 3)
    assert found["distil/teacher_logprob_mean"] == pytest.approx(-41.0 / 3)


def test_a_teacher_and_a_reward_are_two_terms() -> None:
    parts = {"advantage": "teacher_gap", "denominator": "old", "aggregation": "token_mean", "weight": 0.1}
    objective = build_objective({"base": "grpo", "terms": {"teacher": {**parts, "rows": "rollouts"}}})
    batch = batch_of(
        [1, 2], rewards=[1, 0], old_logprob=[-1.0, -2.0, -0.5], teacher_logprob=[-0.5, -4.0, -0.5]
    )
    logprob_N = batch.signals["old_logprob"]
    _, both_N = evaluate(objective, objective.prepare(batch), logprob_N)
    grpo, distil = build_objective({"base": "grpo"}), build_objective({"base": "distil"})
    alone = [evaluate(o, o.prepare(batch), logprob_N)[1] for o in (grpo, distil)]
    assert torch.allclose(both_N, alone[0] + 0.1 * alone[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shaping": ["soft_overlong"]}, "never acts with advantage `teacher_gap`, which reads none"),
        ({"advantage": {"teacher_gap": {"clip": -1}}}, "clip must be 0 or above, found -1"),
    ],
)
def test_what_could_not_act_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        build_objective({"base": "distil", **changes}, max_response_tokens=8)
