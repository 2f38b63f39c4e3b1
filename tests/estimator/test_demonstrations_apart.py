"""Demonstrations beside rollouts change nothing of what is learnt from the rollouts, and nothing of what is
reported of them."""

from dataclasses import replace

import pytest
import torch
from estimator_batches import NAN, evaluate, random_batch

from rlpost.estimator import (
    ALGORITHMS,
    D3S,
    DropUniform,
    MaxVariance,
    OverlongFilter,
    Term,
    TokenBatch,
    TopTokens,
    build_objective,
)
from rlpost.estimator.advantage import Constant
from rlpost.estimator.aggregation import TokenMean
from rlpost.estimator.denominator import Current
from rlpost.estimator.selection import OneRightOneWrong

SHOWN = Term(Constant(1.0), Current(), TokenMean(), rows="demonstrations")
SAMPLED = sorted(
    name for name, row in ALGORITHMS.items() if all(term.rows == "rollouts" for term in row.objective.terms)
)
OF_TERMS = (
    "policy/loss",
    "policy/surrogate",
    "policy/trained_tokens/",
    "policy/coefficient/",
    "demonstrations/",
)


def batches(seed: int) -> tuple[TokenBatch, TokenBatch, torch.Tensor, torch.Tensor]:
    """A batch with demonstrations of which no signal is known, its rollouts alone, log-probs, entropies."""
    whole, logprob_N = random_batch(seed, mixed=True)
    shown_N = whole.spread(whole.demonstration_S)
    whole = replace(
        whole,
        truncated_S=torch.arange(whole.S) % 3 == 0,
        signals={name: torch.where(shown_N, NAN, value_N) for name, value_N in whole.signals.items()},
        sequence_signals={
            name: torch.where(whole.demonstration_S, NAN, value_S)
            for name, value_S in whole.sequence_signals.items()
        },
    )
    alone = whole.rows((~whole.demonstration_S).nonzero(as_tuple=True)[0])
    return whole, alone, logprob_N, torch.linspace(0.1, 2.0, whole.N, dtype=torch.float64)


def of_rollouts(measures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in measures.items() if not name.startswith(OF_TERMS)}


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("seed", [0, 1])
def test_rollouts_are_learnt_and_reported_as_if_there_were_no_demonstrations(name: str, seed: int) -> None:
    whole, alone, logprob_N, entropy_N = batches(seed)
    objective = build_objective({"base": name}, max_response_tokens=6)
    both = replace(objective, terms=(*objective.terms, SHOWN))
    own_N = ~whole.spread(whole.demonstration_S)

    mixed, plain = both.prepare(whole), objective.prepare(alone)
    kept = mixed.rows((~mixed.batch.demonstration_S).nonzero(as_tuple=True)[0])
    for term, expected in zip(kept.terms, plain.terms, strict=False):
        torch.testing.assert_close(term.weight_N, expected.weight_N, equal_nan=True)
        torch.testing.assert_close(term.advantage_N, expected.advantage_N, equal_nan=True)
    torch.testing.assert_close(kept.regulariser_N, plain.regulariser_N)
    assert of_rollouts(mixed.measures.values()) == pytest.approx(of_rollouts(plain.measures.values()))
    assert mixed.measures.values()["demonstrations/rows"] == 2

    taken_N = torch.isin(whole.sequence_N, mixed.kept_S)
    got, slope_N = evaluate(both, mixed, logprob_N[taken_N], entropy_N[taken_N])
    left_N = torch.isin(alone.sequence_N, plain.kept_S)
    wanted, expected_N = evaluate(objective, plain, logprob_N[own_N][left_N], entropy_N[own_N][left_N])
    torch.testing.assert_close(slope_N[own_N[taken_N]], expected_N)
    assert of_rollouts(got.measures.values()) == pytest.approx(of_rollouts(wanted.measures.values()))
    shown_N, reported = ~own_N & whole.mask_N, got.measures.values()
    assert reported["demonstrations/logprob_mean"] == pytest.approx(float(logprob_N[shown_N].mean()))
    assert reported["demonstrations/entropy"] == pytest.approx(float(entropy_N[shown_N].mean()))


@pytest.mark.parametrize(
    "selection",
    [
        DropUniform(),
        MaxVariance("batch", 0.25, 0.25),
        MaxVariance("group", 0.5, 0.5),
        D3S(),
        TopTokens("entropy", 0.2, 0.2),
        OverlongFilter("kept"),
        OverlongFilter("dropped"),
        OneRightOneWrong(),
    ],
)
def test_no_selection_among_rollouts_takes_a_demonstration_away(selection) -> None:
    for seed in range(4):
        whole, alone, _, _ = batches(seed)
        own_S, own_N = ~whole.demonstration_S, ~whole.spread(whole.demonstration_S)
        advantage_N = torch.where(own_N, torch.sin(torch.arange(whole.N, dtype=torch.float64)), 0.0)
        chosen, expected = selection(whole, advantage_N), selection(alone, advantage_N[own_N])
        assert bool(chosen.keep_S[whole.demonstration_S].all())
        assert chosen.keep_S[own_S].equal(expected.keep_S)
        assert (chosen.keep_N is None) == (expected.keep_N is None)
        if chosen.keep_N is not None and expected.keep_N is not None:
            assert chosen.keep_N[own_N].equal(expected.keep_N)
            assert bool(chosen.keep_N[~own_N].all())
