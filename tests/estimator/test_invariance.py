"""What must not change a result: how the batch is cut, ordered or labelled."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from estimator_batches import (
    batch_for,
    batch_of,
    entropy_of,
    evaluate,
    gradient_of_cut,
    kept_tokens,
    random_cut,
)
from torch import Tensor

from rlpost.estimator import ALGORITHMS, D3S, Objective, build_objective

SPECS = [
    *({"base": name} for name in ALGORITHMS),
    {"base": "grpo", "granularity": "sequence", "kl": 0.3, "entropy": 0.05},
    {"base": "dapo", "denominator": "clipped", "mask": "keep", "kl": {"coefficient": 0.2, "kind": "k3+"}},
    {"base": "rloo", "shaping": [{"kl_in_reward": {"coefficient": 0.1}}]},
    {"base": "grpo", "granularity": "sequence", "selection": "d3s", "shaping": ["ace"], "kl": 0.1},
    {"base": "rloo", "selection": ["overlong_filter", {"top_tokens": {"denominators": "kept"}}]},
]


def objectives() -> list[Objective]:
    return [build_objective(spec, max_response_tokens=5) for spec in SPECS]


@pytest.mark.parametrize("objective", objectives(), ids=[str(s) for s in SPECS])
@pytest.mark.parametrize("seed", range(4))
def test_any_cut_into_microbatches_adds_up_to_the_whole(objective: Objective, seed: int) -> None:
    batch, full_N = batch_for(objective, seed)
    prepared = objective.prepare(batch)
    logprob_N = full_N[kept_tokens(prepared, batch)]
    S = prepared.batch.S
    whole = gradient_of_cut(objective, prepared, logprob_N, [list(range(S))])
    rng = random.Random(seed)
    for pieces in [[[s] for s in range(S)], *(random_cut(rng, S) for _ in range(5))]:
        loss, gradient_N, measures = gradient_of_cut(objective, prepared, logprob_N, pieces)
        assert loss == pytest.approx(whole[0], abs=1e-12)
        assert torch.allclose(gradient_N, whole[1], rtol=0, atol=1e-12)
        assert measures.values() == pytest.approx(whole[2].values(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("objective", objectives(), ids=[str(s) for s in SPECS])
def test_permuting_the_sequences_permutes_the_gradient_and_nothing_else(objective: Objective) -> None:
    batch, logprob_N = batch_for(objective, 5)
    # Rewards differ by more than chance would have it, because ties go to the earlier sequence.
    untied_S = torch.where(batch.group_S == 20, 0.0, 0.01 * torch.arange(batch.S))
    batch = replace(batch, progress=0.1, reward_S=batch.reward_S + untied_S)
    order = list(range(batch.S))
    random.Random(1).shuffle(order)
    owners = batch.sequence_N.tolist()
    moved_N = torch.tensor([i for s in order for i, o in enumerate(owners) if o == s], dtype=torch.int64)
    shuffled = batch.rows(torch.tensor(order))

    def full_gradient(given: object, lp_N: Tensor) -> tuple[dict[str, float], Tensor]:
        prepared = objective.prepare(given)
        index_N = kept_tokens(prepared, given)
        entropy_N = entropy_of(lp_N[index_N])
        output, gradient_N = evaluate(objective, prepared, lp_N[index_N], entropy_N)
        values = output.measures.values() | prepared.measures.values()
        return values, torch.zeros_like(lp_N).index_copy(0, index_N, gradient_N)

    values, gradient_N = full_gradient(batch, logprob_N)
    moved_values, moved_gradient_N = full_gradient(shuffled, logprob_N[moved_N])
    assert torch.allclose(moved_gradient_N, gradient_N[moved_N], rtol=0, atol=1e-12)
    assert moved_values == pytest.approx(values, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_relabelling_the_groups_changes_nothing(name: str) -> None:
    objective = build_objective({"base": name}, max_response_tokens=5)
    batch, logprob_N = batch_for(objective, 6)
    labels = batch.group_S.unique().tolist()
    fresh = dict(zip(labels, [10**12 - 17 * k for k in range(len(labels))], strict=True))
    renamed = replace(batch, group_S=torch.tensor([fresh[g] for g in batch.group_S.tolist()]))
    first, second = objective.prepare(batch), objective.prepare(renamed)
    index_N = kept_tokens(first, batch)
    assert first.kept_S.tolist() == second.kept_S.tolist()
    assert first.measures.values() == second.measures.values()
    losses = [evaluate(objective, p, logprob_N[index_N]) for p in (first, second)]
    assert torch.equal(losses[0][1], losses[1][1])
    assert torch.equal(losses[0][0].loss, losses[1][0].loss)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("updates", [2, 3])
def test_every_update_of_a_step_has_denominators_of_its_own(name: str, updates: int) -> None:
    objective = build_objective({"base": name}, max_response_tokens=5)
    batch, full_N = batch_for(objective, 8)
    prepared = objective.prepare(batch, updates=updates)
    logprob_N = full_N[kept_tokens(prepared, batch)]
    owners = prepared.batch.sequence_N.tolist()
    seen: list[int] = []
    for index_S in prepared.updates():
        seen += index_S.tolist()
        part = prepared.rows(index_S)
        # The same sequences as the only ones of a step, with the advantages of the whole step.
        picked = any(isinstance(selection, D3S) for selection in objective.selection)
        counted_N = part.trained_N if picked else None
        first_S = torch.zeros(part.batch.S, dtype=torch.int64)
        for term, fixed in zip(objective.terms, part.terms, strict=True):
            gate_S = term.gate(batch)[part.kept_S]
            alone_N, _ = term.weights(part.batch, gate_S, None, counted_N, first_S)
            assert torch.allclose(fixed.weight_N, alone_N, rtol=0, atol=1e-15)
        chosen = set(index_S.tolist())
        index_N = torch.tensor([i for i, o in enumerate(owners) if o in chosen], dtype=torch.int64)
        _, gradient_N = evaluate(objective, part, logprob_N[index_N])
        if not objective.regularisers:
            assert torch.allclose(gradient_N, objective.coefficients(logprob_N[index_N], part), atol=1e-12)
    assert seen == list(range(prepared.batch.S))


def test_updates_divide_the_sequences_in_order_and_evenly() -> None:
    objective = build_objective({"base": "reinforce"})
    prepared = objective.prepare(batch_of([1] * 8), updates=4)
    assert [u.tolist() for u in prepared.updates()] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert prepared.terms[0].weight_N.tolist() == [0.5] * 8


def test_more_updates_than_sequences_give_each_sequence_one_update_and_none_empty() -> None:
    objective = build_objective({"base": "reinforce"})
    for updates in (3, 4, 5, 8):
        prepared = objective.prepare(batch_of([1] * 3), updates=updates)
        assert [u.tolist() for u in prepared.updates()] == [[0], [1], [2]]


def test_advantages_are_formed_over_groups_that_the_updates_cut_apart() -> None:
    objective = build_objective({"base": "rloo"})
    prepared = objective.prepare(batch_of([1, 1, 1, 1], rewards=[1, 0, 0, 0]), updates=2)
    expected = [1, -1 / 3, -1 / 3, -1 / 3]
    assert prepared.terms[0].advantage_N.tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_moving_to_a_device_keeps_everything(name: str) -> None:
    objective = build_objective({"base": name}, max_response_tokens=5)
    batch, logprob_N = batch_for(objective, 2)
    prepared = objective.prepare(batch, updates=2)
    moved = prepared.to("cpu")
    current_N = logprob_N[kept_tokens(prepared, batch)]
    assert torch.equal(evaluate(objective, moved, current_N)[1], evaluate(objective, prepared, current_N)[1])
    assert moved.update_S.tolist() == prepared.update_S.tolist()
    assert moved.kept_S.tolist() == prepared.kept_S.tolist()
    assert batch.to("cpu").on_policy is batch.on_policy
