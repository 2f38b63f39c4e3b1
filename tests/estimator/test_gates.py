"""Gates: integer counts against exact fractions, HPT's tables, and what they report."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from estimator_batches import NAN, batch_of

from rlpost.estimator import (
    AllGates,
    CompositionError,
    EntropyWeight,
    PassCountTable,
    PassRateGate,
    RewardGate,
    TokenBatch,
    build_objective,
)

SIDES = ("above", "at_most")


def prompts_of(right: list[int], n: int, *, demonstrated: bool = True) -> TokenBatch:
    """A prompt for each count: that many right rollouts of n, and a demonstration behind them."""
    size = n + demonstrated
    rewards = [[1.0] * k + [0.0] * (n - k) + [1.0] * demonstrated for k in right]
    return batch_of(
        [1] * size * len(right),
        groups=[g for g in range(len(right)) for _ in range(size)],
        rewards=[r for row in rewards for r in row],
        demonstrations=[g * size + n for g in range(len(right))] if demonstrated else [],
    )


def by_prompt(weight_S: torch.Tensor, batch: TokenBatch) -> list[float]:
    """The weight of each prompt, which all its rows must have."""
    rows = [weight_S[batch.group_S == g] for g in batch.group_S.unique()]
    assert all((row == row[0]).all() for row in rows)
    return [float(row[0]) for row in rows]


@pytest.mark.parametrize("n", range(1, 17))
def test_the_gate_is_the_comparison_of_exact_fractions_for_every_count_and_threshold(n: int) -> None:
    batch = prompts_of(list(range(n + 1)), n)
    for j in range(-1, n + 2):
        above = [float(Fraction(k, n) > Fraction(j, n)) for k in range(n + 1)]
        below = [1.0 - weight for weight in above]
        found = {side: by_prompt(PassRateGate(j / n, side=side)(batch), batch) for side in SIDES}
        assert found == {"above": above, "at_most": below}, j


@pytest.mark.parametrize(
    ("threshold", "above"),
    [(0.0, [0, 1, 1, 1, 1, 1, 1, 1, 1]), (1 / 8, [0, 0, *[1] * 7]), (2 / 8, [0, 0, 0, *[1] * 6])],
)
def test_the_published_thresholds_have_the_published_gates(threshold: float, above: list[int]) -> None:
    batch = prompts_of(list(range(9)), 8)
    assert by_prompt(PassRateGate(threshold)(batch), batch) == above
    assert by_prompt(PassRateGate(threshold, side="at_most")(batch), batch) == [1 - a for a in above]


def test_rollouts_that_were_lost_do_not_count() -> None:
    # Two eighths are not above 2/8; two of the seven that came back are, and one of them is not.
    for right, n, above in [(2, 8, 0.0), (2, 7, 1.0), (1, 7, 0.0), (1, 4, 0.0), (1, 3, 1.0)]:
        batch = prompts_of([right], n)
        assert by_prompt(PassRateGate(2 / 8)(batch), batch) == [above], (right, n)


def test_a_prompt_without_rollouts_has_weight_0_in_every_gate_of_counts() -> None:
    batch = batch_of([1], demonstrations=[0], rewards=[1.0])
    gates = (
        *(PassRateGate(side=side) for side in SIDES),
        PassCountTable(),
        RewardGate(),
        RewardGate("wrong"),
    )
    assert [gate(batch).tolist() for gate in gates] == [[0.0]] * 5
    nothing = batch_of([])
    assert [gate(nothing).tolist() for gate in gates] == [[]] * 5
    assert all(gate.measures(nothing).values() == {} for gate in gates)


def test_a_gated_prompt_without_a_demonstration_learns_from_its_rollouts_or_from_nothing() -> None:
    batch = prompts_of([0, 1, 2, 3, 4], 4, demonstrated=False)
    kept = PassRateGate(2 / 4)
    assert by_prompt(kept(batch), batch) == [1, 1, 1, 1, 1]
    left_out = PassRateGate(2 / 4, without_demonstration="nothing")
    assert by_prompt(left_out(batch), batch) == [0, 0, 0, 1, 1]
    assert kept.measures(batch).values()["hybrid/without_demonstration"] == 3 / 5
    assert kept.measures(batch).values()["hybrid/gated_share"] == 0.0
    at_most = PassRateGate(2 / 4, side="at_most")
    assert by_prompt(at_most(batch), batch) == [0] * 5


def test_a_demonstration_without_a_token_to_learn_from_is_none() -> None:
    batch = batch_of(
        [1, 0, 1, 2], mask=[1, 1, 0, 0], groups=[0, 0, 1, 1], rewards=[0] * 4, demonstrations=[1, 3]
    )
    assert PassRateGate(side="at_most")(batch).tolist() == [0, 0, 0, 0]
    assert PassRateGate()(batch).tolist() == [1, 1, 1, 1]


def test_a_gate_of_counts_reports_the_share_of_each_count_once_however_many_terms_have_it() -> None:
    batch = prompts_of([0, 0, 1, 2], 2)
    objective = build_objective({"base": "hpt"}, max_response_tokens=5)
    values = objective.prepare(batch.with_signals(old_logprob=torch.full((batch.N,), -1.0))).measures.values()
    found = {name: value for name, value in values.items() if name.startswith("hybrid/")}
    assert found == {
        "hybrid/pass_count/0": 0.5,
        "hybrid/pass_count/1": 0.25,
        "hybrid/pass_count/2": 0.25,
        "hybrid/solved_all_share": 0.25,
        "hybrid/gated_share": 0.5,
        "hybrid/without_demonstration": 0.0,
    }


TABLES = {
    "type0": [(0, 0, 1), (0.125, 0.5, 0.5), (0.25, 1, 0.25), (0.5, 0.5, 0.125), (1, 0.25, 0), (1, 0.125, 0)],
    "type1": [(0, 1, 1), (0.125, 1, 0.5), (0.25, 1, 0.25), (0.5, 1, 0.125), *[(1, 1, 0)] * 2],
    "type2": [(0, 0, 1), (0.125, 0, 0.5), (0.25, 0, 0.25), (0.5, 0, 0.125), *[(1, 0, 0)] * 2],
}
LAST = {"type0": (1, 0, 0), "type1": (1, 1, 0), "type2": (1, 0, 0)}


@pytest.mark.parametrize("schedule", TABLES)
def test_the_soft_schedules_have_the_released_coefficients_by_right_rows_with_the_demonstration(
    schedule: str,
) -> None:
    rows = [*TABLES[schedule], LAST[schedule], LAST[schedule]]
    # Eight rows a prompt: seven rollouts, and the demonstration, which is always right.
    batch = prompts_of(list(range(8)), 7)
    for column, name in enumerate(("rollouts", "demonstrations", "supervised")):
        found = by_prompt(PassCountTable(schedule, name)(batch), batch)
        assert found == [row[column] for row in rows], name


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 14, 16])
def test_a_table_stretches_over_other_groups_without_rounding_a_success_away(n: int) -> None:
    batch = prompts_of(list(range(n + 1)), n)
    found = by_prompt(PassCountTable(None, weights=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))(batch), batch)
    assert found == [math.ceil(Fraction(7 * k, n)) for k in range(n + 1)]
    assert found[0] == 0.0 and found[1] >= 1.0 and found[-1] == 7.0


def test_a_table_of_ones_own_is_read_from_a_configuration() -> None:
    spec = {"base": "grpo", "gate": {"pass_count": {"schedule": None, "weights": [0, 2, 1]}}}
    gate = build_objective(spec).terms[0].gate
    assert gate == PassCountTable(None, weights=(0, 2, 1))
    assert hash(gate) == hash(PassCountTable(None, weights=(0, 2, 1)))
    for options, reason in [
        ({"weights": [1, 2]}, "needs either schedule or weights"),
        ({"schedule": None}, "needs either schedule or weights"),
        ({"schedule": None, "weights": [1]}, "at least 2 numbers"),
        ({"schedule": None, "weights": [1, -1]}, "of 0 or above"),
        ({"schedule": "type3"}, "needed one of type0, type1, type2"),
    ]:
        with pytest.raises(CompositionError, match=reason):
            build_objective({"base": "grpo", "gate": {"pass_count": options}})


def test_the_reward_gate_takes_rollouts_of_one_outcome_and_no_demonstration() -> None:
    batch = batch_of([1] * 4, rewards=[1.0, 0.5, 0.0, 1.0], demonstrations=[3])
    assert RewardGate()(batch).tolist() == [1, 0, 0, 0]
    assert RewardGate("wrong")(batch).tolist() == [0, 1, 1, 0]
    assert RewardGate("right", success=0.5)(batch).tolist() == [1, 1, 0, 0]


def test_several_gates_multiply_and_report_together() -> None:
    batch = batch_of([2, 1, 1], mask=[1, 0, 1, 1], rewards=[1.0, 0.0, 1.0], demonstrations=[2])
    batch = batch.with_signals(entropy=torch.tensor([0.7, NAN, 0.7, 0.7], dtype=torch.float64))
    gate = AllGates((RewardGate("right"), EntropyWeight(0.1, 1.0)))
    assert gate(batch).tolist() == pytest.approx([0.201375, 0, 0], abs=1e-6)
    assert gate.measures(batch).values() == {}
    counted = AllGates((PassRateGate(), RewardGate()))
    assert counted.measures(batch).values() == PassRateGate().measures(batch).values()
