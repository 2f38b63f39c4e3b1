"""Objectives of several terms: by name in a configuration, over which rows, and what they report."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from estimator_batches import batch_of

from rlpost.estimator import (
    ALGORITHMS,
    AllGates,
    Clip,
    CompositionError,
    Constant,
    Current,
    EntropyWeight,
    GroupCentred,
    Objective,
    OneToken,
    PassRateGate,
    ShapedUnit,
    Term,
    TokenMean,
    TokenSum,
    build_objective,
)

IMITATE = {"advantage": "constant", "denominator": "current", "aggregation": "token_mean"}


def mixed_batch():
    """One prompt with two rollouts and a demonstration, in this order."""
    batch = batch_of([2, 1, 3], rewards=[1, 0, 1], groups=[0, 0, 0])
    return replace(batch, demonstration_S=torch.tensor([False, False, True]), on_policy=True)


def test_a_new_name_adds_a_term_that_trains_the_rows_it_is_named_after() -> None:
    objective = build_objective({"base": "grpo", "terms": {"demonstrations": {**IMITATE, "weight": 0.1}}})
    grpo, added = objective.terms
    assert grpo == ALGORITHMS["grpo"].objective.terms[0]
    assert (added.rows, added.weight, added.label) == ("demonstrations", 0.1, "demonstrations")
    assert (added.advantage, added.denominator, added.aggregation) == (Constant(), Current(), TokenMean())


def test_a_known_name_changes_that_term_alone_and_null_takes_one_away() -> None:
    spec = {"base": "grpo", "mask": {"clip": {"high": 0.28}}, "terms": {"rollouts": {"weight": 2.0}}}
    (term,) = build_objective(spec).terms
    assert (term.mask, term.weight) == (Clip(0.2, 0.28), 2.0)
    spec = {"base": "grpo", "terms": {"rollouts": None, "more": {**IMITATE, "rows": "all"}}}
    (term,) = build_objective(spec).terms
    assert (term.name, term.rows) == ("more", "all")


def test_several_gates_multiply() -> None:
    spec = {**IMITATE, "gate": [{"pass_rate": {"side": "at_most"}}, {"entropy_weight": {"scale": 0.5}}]}
    gate = build_objective({"base": "grpo", "terms": {"demonstrations": spec}}).terms[1].gate
    assert gate == AllGates((PassRateGate(side="at_most"), EntropyWeight(0.5)))
    batch = mixed_batch()
    batch = replace(batch, reward_S=torch.zeros(3, dtype=torch.float64)).with_signals(entropy=torch.ones(6))
    assert gate(batch).tolist() == pytest.approx([0.5 * 0.36787944117] * 3)


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ([], "must be a mapping of names"),
        ({"demonstration": None}, "no such term"),
        ({"x": {"advantage": "constant"}}, "new to this row, and lacks denominator, aggregation"),
        ({"x": {**IMITATE, "advantge": "constant"}}, "nearest: 'advantage'"),
        ({"x": {**IMITATE, "rows": "everything"}}, "one of all, rollouts, demonstrations"),
        ({"x": {**IMITATE, "weight": "much"}}, "found 'much', needed a number"),
        ({"x": "constant"}, "needed a mapping, or null"),
        ({"rollouts": None}, "no term is left"),
        ({"x": {**IMITATE, "compared_with": "all"}}, "advantage that compares rewards"),
        (
            {"x": {**IMITATE, "advantage": "gdpo", "compared_with": "all"}},
            "of which a demonstration has none",
        ),
        ({"x": {**IMITATE, "actions": "one_token", "denominator": "unit"}}, "no ratio to an old policy"),
        (
            {
                "x": {**IMITATE, "actions": "one_token"},
                "y": {**IMITATE, "actions": {"one_token": {"samples": 8}}},
            },
            "two scores of each position",
        ),
    ],
)
def test_terms_that_cannot_be_are_refused_with_the_reason(terms: object, reason: str) -> None:
    with pytest.raises(CompositionError, match=reason):
        build_objective({"base": "grpo", "terms": terms})


def test_a_demonstration_joins_its_prompts_group_where_a_term_is_compared_with_all() -> None:
    parts = {"aggregation": TokenSum(), "compared_with": "all"}
    objective = Objective(
        (
            Term(GroupCentred(), Current(), name="on", **parts),
            Term(GroupCentred(), ShapedUnit(), rows="demonstrations", name="off", **parts),
        )
    )
    prepared = objective.prepare(mixed_batch())
    on, off = (term.advantage_N * term.weight_N.bool() for term in prepared.terms)
    assert on.tolist() == pytest.approx([1 / 3, 1 / 3, -2 / 3, 0, 0, 0])
    assert off.tolist() == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    alone = Objective((Term(GroupCentred(), Current(), TokenSum()),)).prepare(mixed_batch())
    assert alone.terms[0].advantage_N.tolist() == pytest.approx([0.5, 0.5, -0.5, 0, 0, 0])


def test_each_of_several_terms_reports_its_own_loss_and_they_add_up() -> None:
    objective = build_objective({"base": "grpo", "terms": {"demonstrations": {**IMITATE, "weight": 0.5}}})
    batch = mixed_batch()
    logprob_N = torch.log(torch.tensor([0.5, 0.25, 0.5, 0.5, 0.25, 0.125], dtype=torch.float64))
    measures = objective.loss(logprob_N, objective.prepare(batch)).measures.values()
    imitation = 0.5 * torch.log(torch.tensor(2.0)) * (1 + 2 + 3) / 3
    assert measures["policy/loss/demonstrations"] == pytest.approx(float(imitation))
    assert measures["policy/trained_tokens/demonstrations"] == 3
    assert measures["policy/trained_tokens/rollouts"] == 3
    whole = measures["policy/loss/rollouts"] + measures["policy/loss/demonstrations"]
    assert measures["policy/loss"] == pytest.approx(whole)


def test_a_score_takes_the_place_of_the_log_prob_in_its_term_and_in_no_other() -> None:
    score = Term(Constant(), Current(), TokenSum(), actions=OneToken(), rows="demonstrations")
    objective = Objective((score, Term(GroupCentred(), Current(), TokenSum())))
    assert objective.actions == OneToken()
    assert objective.sequence_signals == {"draw_seed"}
    prepared = objective.prepare(mixed_batch())
    logprob_N = torch.full((6,), -1.0, dtype=torch.float64, requires_grad=True)
    score_N = torch.arange(6, dtype=torch.float64).requires_grad_()
    output = objective.loss(logprob_N, prepared, score_N=score_N)
    output.loss.backward()
    assert score_N.grad is not None
    assert score_N.grad.tolist() == [0, 0, 0, -1, -1, -1]
    assert logprob_N.grad is not None
    assert logprob_N.grad.tolist() == [-0.5, -0.5, 0.5, 0, 0, 0]
    assert output.measures.values()["policy/loss/demonstrations"] == -(3 + 4 + 5)
    with pytest.raises(ValueError, match="'demonstrations' needs score_N"):
        objective.loss(logprob_N, prepared)


def test_exact_actions_draw_nothing() -> None:
    assert OneToken(form="exact").sequence_signals == frozenset()
    for wrong in ({"samples": 0}, {"temperature": 0.0}, {"miss": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OneToken(**wrong)
