"""Partial statistics add up to those of the whole, in any order."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from estimator_batches import NAN, batch_of, evaluate, with_advantage

from rlpost.estimator import Measures, build_objective


def some(loss: float, mean: tuple[float, float] | None, largest: float | None) -> Measures:
    return Measures(
        sums={"loss": torch.tensor(loss)},
        means={} if mean is None else {"share": (torch.tensor(mean[0]), torch.tensor(mean[1]))},
        maxima={} if largest is None else {"peak": torch.tensor(largest)},
    )


PIECES = [some(1.0, (3.0, 4.0), -5.0), some(0.5, None, 2.0), some(-2.0, (1.0, 6.0), None)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_adding_is_associative_and_commutative(order: tuple[int, int, int]) -> None:
    a, b, c = (PIECES[i] for i in order)
    assert ((a + b) + c).values() == (a + (b + c)).values() == {"loss": -0.5, "share": 0.4, "peak": 2.0}


def test_nothing_is_the_neutral_element() -> None:
    assert (Measures() + PIECES[0]).values() == PIECES[0].values() == (PIECES[0] + Measures()).values()
    assert Measures().values() == {}


def test_a_mean_over_nothing_is_left_out() -> None:
    empty = some(0.0, (0.0, 0.0), None)
    assert empty.values() == {"loss": 0.0}
    assert (empty + PIECES[0]).values()["share"] == 0.75


def test_a_sum_keeps_the_wider_of_two_dtypes() -> None:
    wide = Measures(sums={"loss": torch.tensor(1e-12, dtype=torch.float64)})
    assert (wide + some(1.0, None, None)).values()["loss"] == 1.0 + 1e-12


def test_a_term_reports_ratios_and_clip_shares_of_trained_rollout_tokens_only() -> None:
    objective = with_advantage(build_objective({"base": "grpo"}), (1.0, -1.0, 1.0))
    ratio = [1.5, 0.9, 0.5, 1.1, 9.0, 100.0, 0.01]
    batch = batch_of(
        [2, 3, 2],
        mask=[1, 1, 1, 1, 0, 1, 1],
        demonstrations=[2],
        old_logprob=[-float(r) for r in torch.tensor(ratio, dtype=torch.float64).log()],
    )
    output, _ = evaluate(objective, objective.prepare(batch), torch.zeros(7, dtype=torch.float64))
    values = output.measures.values()
    assert values["policy/ratio_mean"] == pytest.approx((1.5 + 0.9 + 0.5 + 1.1) / 4)
    assert values["policy/ratio_max"] == pytest.approx(1.5)
    assert values["policy/clip_share_high"] == pytest.approx(1 / 4)
    assert values["policy/clip_share_low"] == pytest.approx(1 / 4)


def test_a_preparation_reports_signal_and_what_was_dropped() -> None:
    batch = batch_of(
        [2, 2, 1, 1, 3],
        mask=[1, 1, 1, 0, 1, 1, 1, 1, 1],
        groups=[0, 0, 1, 1, 2],
        rewards=[1, 0, 1, 1, 0.5],
        old_logprob=[NAN] * 9,
    )
    dropped = build_objective({"base": "dapo"}, max_response_tokens=100).prepare(batch).measures.values()
    assert dropped["signal/groups"] == 3
    assert dropped["signal/informative_group_share"] == pytest.approx(1 / 3)
    assert dropped["signal/dropped_groups"] == 2
    assert dropped["signal/dropped_sequences"] == 3
    assert dropped["signal/trained_token_share"] == pytest.approx(3 / 8)
    assert dropped["signal/nonzero_advantage_share"] == 1.0
    kept = build_objective({"base": "grpo"}).prepare(batch).measures.values()
    assert kept["signal/dropped_groups"] == kept["signal/dropped_sequences"] == 0
    assert kept["signal/trained_token_share"] == 1.0
    assert kept["signal/nonzero_advantage_share"] == pytest.approx(3 / 8)


def test_the_sampler_gap_leaves_out_demonstrations_and_untrained_tokens() -> None:
    objective = with_advantage(build_objective({"base": "grpo"}), (1.0, -1.0, 1.0))
    objective = replace(objective, terms=(replace(objective.terms[0], rows="all"),))
    batch = batch_of(
        [2, 1, 1],
        mask=[1, 0, 1, 1],
        demonstrations=[2],
        old_logprob=[-1.0, NAN, -2.0, -3.0],
        behaviour_logprob=[-1.5, NAN, -1.75, -9.0],
    )
    output, _ = evaluate(objective, objective.prepare(batch), torch.full((4,), -1.0, dtype=torch.float64))
    values = output.measures.values()
    assert values["mismatch/logprob_gap_mean"] == pytest.approx((0.5 + 0.25) / 2)
    assert values["mismatch/logprob_gap_max"] == pytest.approx(0.5)
