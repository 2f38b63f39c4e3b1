"""Selections: the worked examples of D3S, brute force over all subsets, and what is kept when."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace

import estimator_slow as slow
import estimator_slow_losses as losses
import pytest
import torch
from estimator_batches import batch_of, evaluate, kept_tokens, random_batch, with_advantage
from torch import Tensor

from rlpost.estimator import (
    ALGORITHMS,
    D3S,
    MaxVariance,
    OverlongFilter,
    TokenBatch,
    TopTokens,
    build_objective,
)
from rlpost.estimator.selection import schedule

THREE_GROUPS = ([0] * 4 + [1] * 4 + [2] * 4, [1.0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])
POPULATION = {"group_normalised": {"std": "population", "epsilon": 0.0}}
MIXED = [1.2, 0.3, -0.1, -0.4, -1.0, 0.9, -1.5, 0.0]


def chosen(part: MaxVariance | D3S, batch: TokenBatch, advantage_N: Tensor) -> list[int]:
    return part(batch, advantage_N).keep_S.nonzero()[:, 0].tolist()


def exactly(count: int, of: int, scope: str = "batch") -> MaxVariance:
    return MaxVariance(scope, start=count / of, end=count / of)


def variance(values: Sequence[float]) -> float:
    return statistics.pvariance(values)


@pytest.mark.parametrize(
    ("count", "best", "expected"),
    [
        (2, 3.000000, [0, 7]),
        (4, 1.666667, [0, 3, 4, 7]),
        (6, 1.222222, [0, 2, 3, 4, 5, 7]),
        (8, 1.000000, [0, 1, 2, 3, 4, 5, 6, 7]),
        (12, 0.666667, list(range(12))),
    ],
)
def test_across_groups_the_example_keeps_these_rollouts(count: int, best: float, expected: list[int]) -> None:
    groups, rewards = THREE_GROUPS
    batch = batch_of([1] * 12, groups=groups, rewards=rewards)
    objective = build_objective({"base": "grpo", "advantage": POPULATION})
    objective = replace(objective, selection=(exactly(count, 12),))
    prepared = objective.prepare(batch)
    assert prepared.kept_S.tolist() == expected
    values = prepared.measures.values()
    assert values["selection/variance_before"] == pytest.approx(0.666667, abs=1e-6)
    assert values["selection/variance_after"] == pytest.approx(best, abs=1e-6)
    assert values["selection/kept_sequence_share"] == pytest.approx(count / 12)
    assert values["selection/useful_share"] == pytest.approx(min(1.0, 8 / count))


def test_within_groups_the_example_keeps_a_pair_of_each() -> None:
    groups, rewards = THREE_GROUPS
    batch = batch_of([1] * 12, groups=groups, rewards=rewards)
    advantage_N = build_objective({"advantage": POPULATION}).terms[0].advantage(batch)
    kept = chosen(exactly(2, 4, "group"), batch, advantage_N)
    values = [advantage_N[[i for i in kept if groups[i] == g]].tolist() for g in range(3)]
    assert [variance(v) for v in values] == pytest.approx([1.333333, 1.333333, 0.0], abs=1e-6)
    assert kept == [0, 3, 6, 7, 10, 11]


@pytest.mark.parametrize(
    ("count", "best", "expected"),
    [(2, 1.822500, [0, 6]), (3, 1.460000, [0, 5, 6]), (4, 1.365000, [0, 4, 5, 6])],
)
def test_of_eight_different_advantages_these_vary_most(count: int, best: float, expected: list[int]) -> None:
    batch = batch_of([1] * 8)
    kept = chosen(exactly(count, 8), batch, torch.tensor(MIXED, dtype=torch.float64))
    assert kept == expected
    assert variance([MIXED[i] for i in kept]) == pytest.approx(best, abs=1e-6)


def best_variance(values: Sequence[float], size: int) -> float:
    return max(variance(subset) for subset in itertools.combinations(values, size))


def random_values(rng: random.Random, count: int) -> list[float]:
    """Advantages with ties in half of the cases, of any magnitude, not all equal."""
    scale = 10.0 ** rng.randint(-6, 6)
    ties = rng.random() < 0.5
    values = [scale * (rng.randint(-2, 2) if ties else rng.gauss(0.0, 1.0)) for _ in range(count)]
    values[rng.randrange(1, count)] = values[0] + scale
    return values


@pytest.mark.parametrize("seed", range(60))
def test_no_subset_of_the_batch_varies_more_than_the_chosen_one(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(2, 10)
    size = rng.randint(2, count)
    values = random_values(rng, count)
    lengths = [rng.randint(1, 3) for _ in values]
    batch = batch_of(lengths)
    kept = chosen(exactly(size, count), batch, torch.tensor(values, dtype=torch.float64)[batch.sequence_N])
    assert len(kept) == size
    best = best_variance(values, size)
    assert variance([values[i] for i in kept]) == pytest.approx(best, rel=1e-6)
    assert kept == slow.max_variance(values, size)


@pytest.mark.parametrize("seed", range(30))
def test_no_subset_of_a_group_varies_more_than_the_chosen_one(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 7) for _ in range(4)] + [3]
    groups = [g for g, n in enumerate(sizes) for _ in range(n)]
    values = [v for n in sizes[:-1] for v in (random_values(rng, n) if n > 1 else [1.5])] + [0.7] * 3
    order = list(range(len(groups)))
    rng.shuffle(order)
    groups, values = [groups[i] for i in order], [values[i] for i in order]
    batch = batch_of([1] * len(groups), groups=groups)
    share = rng.choice([0.25, 0.4, 0.5, 0.8, 1.0])
    kept = chosen(MaxVariance("group", share, share), batch, torch.tensor(values, dtype=torch.float64))
    for g, n in enumerate(sizes):
        members = [i for i, other in enumerate(groups) if other == g]
        mine = [values[i] for i in kept if i in members]
        assert len(mine) == min(n, max(2, int(share * n + 0.5)))
        assert variance(mine) == pytest.approx(
            best_variance([values[i] for i in members], len(mine)), rel=1e-6
        )
        expected = slow.max_variance([values[i] for i in members], len(mine))
        assert [i for i in kept if i in members] == [members[i] for i in expected]


def test_a_thousand_groups_are_chosen_as_each_would_be_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    value_S = torch.randn(8000, generator=generator, dtype=torch.float64)
    groups = torch.randint(0, 1000, (8000,), generator=generator)
    batch = replace(batch_of([1] * 8000), group_S=groups)
    part = MaxVariance("group", 0.5, 0.5)
    keep_S = part(batch, value_S).keep_S
    for g in (0, 17, 999):
        index_S = (groups == g).nonzero()[:, 0]
        alone_S = part(batch.rows(index_S), value_S[index_S]).keep_S
        assert torch.equal(keep_S[index_S], alone_S)


@pytest.mark.parametrize("scope", ["batch", "group"])
@pytest.mark.parametrize("value", [0.0, 0.1, -2.3])
def test_equal_advantages_leave_nothing(scope: str, value: float) -> None:
    batch = batch_of([1, 3, 2, 7], groups=[0, 0, 1, 1], entropy=[1.0] * 13)
    advantage_N = torch.full((13,), value, dtype=torch.float64)
    assert chosen(MaxVariance(scope, 1.0, 1.0), batch, advantage_N) == []
    assert chosen(D3S(scope=scope), batch, advantage_N) == []


def test_equal_advantages_leave_the_demonstrations() -> None:
    batch = batch_of([1, 1, 1], demonstrations=[1], entropy=[1.0] * 3)
    assert chosen(D3S(), batch, torch.zeros(3, dtype=torch.float64)) == [1]


def test_demonstrations_are_kept_beside_the_chosen_rollouts_and_never_compared() -> None:
    batch = batch_of([1] * 5, demonstrations=[2])
    advantage_N = torch.tensor([1.0, 0.5, 9.0, -0.5, -1.0], dtype=torch.float64)
    assert chosen(exactly(2, 4), batch, advantage_N) == [0, 2, 4]


def test_a_sequences_advantage_is_the_mean_over_its_trained_tokens() -> None:
    batch = batch_of([2, 3, 1, 1], mask=[1, 1, 1, 0, 1, 1, 1])
    advantage_N = torch.tensor([1.0, -1.0, 3.0, float("nan"), 5.0, 2.0, -2.0], dtype=torch.float64)
    assert chosen(exactly(2, 4), batch, advantage_N) == [1, 3]  # means 0, 4, 2, -2


@pytest.mark.parametrize(("progress", "n", "k"), [(0.25, 80, 40), (0.5, 96, 60), (0.75, 112, 80)])
def test_the_schedule_is_linear(progress: float, n: int, k: int) -> None:
    size = schedule.rounded(schedule.share_at(0.5, 1.0, progress), torch.tensor([128]))
    assert size.tolist() == [n]
    assert schedule.rounded_up(schedule.share_at(0.2, 1.0, progress), 100) == k
    values = torch.randn(128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = replace(batch_of([1] * 128), progress=progress)
    assert len(chosen(MaxVariance("batch", 0.5, 1.0), batch, values)) == n


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("progress", [0.1, 0.3, 0.7])
def test_a_constant_share_is_not_raised_by_rounding(share: float, progress: float) -> None:
    found = schedule.rounded_up(schedule.share_at(share, share, progress), 1000)
    assert found == round(1000 * share)


def test_the_bound_on_the_gradient_grows_with_the_cube_root_of_the_variance() -> None:
    groups, rewards = THREE_GROUPS
    batch = batch_of([1] * 12, groups=groups, rewards=rewards)
    objective = build_objective({"base": "grpo", "advantage": POPULATION})
    objective = replace(objective, selection=(exactly(2, 12),))
    after = objective.prepare(batch).measures.values()["selection/variance_after"]
    assert after ** (1 / 3) == pytest.approx(1.442250, abs=1e-6)
    assert pytest.approx(1.144714, abs=1e-6) == 1.5 ** (1 / 3)


PAIR = {"lengths": [3, 4], "entropy": [0.1, 1.0, 0.5, 2.0, 0.05, 1.2, 3.5]}
PAIR_ADVANTAGES = (1.7320508, -0.5773503)
RANKED = [6, 1, 3, 2, 5, 0, 4]
KEYS = [2.020726, 1.732051, 1.154701, 0.866025, 0.692820, 0.173205, 0.028868]


def pair(**extra: Sequence[float]) -> TokenBatch:
    return batch_of(PAIR["lengths"], entropy=PAIR["entropy"], **extra)


def picked(part: TopTokens, batch: TokenBatch, advantages: Sequence[float] = PAIR_ADVANTAGES) -> list[int]:
    advantage_N = torch.tensor(advantages, dtype=torch.float64)[batch.sequence_N]
    keep_N = part(batch, advantage_N).keep_N
    return list(range(batch.N)) if keep_N is None else keep_N.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.3, 3), (0.5, 4), (0.01, 1), (1.0, 7)])
def test_the_example_picks_the_tokens_with_the_largest_key(share: float, count: int) -> None:
    batch = pair()
    key = [
        abs(PAIR_ADVANTAGES[s]) * h for s, h in zip(batch.sequence_N.tolist(), PAIR["entropy"], strict=True)
    ]
    assert sorted(key, reverse=True) == pytest.approx(KEYS, abs=1e-6)
    assert picked(TopTokens(start=share, end=share), batch) == sorted(RANKED[:count])


@pytest.mark.parametrize(("denominators", "expected"), [("renewed", 0.577350), ("kept", 0.164957)])
def test_the_example_averages_over_the_picked_tokens_or_over_all(denominators: str, expected: float) -> None:
    part = {"top_tokens": {"start": 0.2, "end": 0.2, "denominators": denominators}}
    objective = build_objective({"base": "grpo", "aggregation": "token_mean", "selection": part})
    objective = with_advantage(objective, PAIR_ADVANTAGES)
    batch = pair(old_logprob=[-1.0] * 7)
    prepared = objective.prepare(batch)
    output, gradient_N = evaluate(objective, prepared, batch.signals["old_logprob"])
    assert output.measures.values()["policy/loss"] == pytest.approx(-expected, abs=1e-6)
    assert gradient_N.nonzero()[:, 0].tolist() == [1, 6]
    assert float(gradient_N.sum()) == pytest.approx(-expected, abs=1e-6)
    assert prepared.measures.values()["selection/kept_token_share"] == pytest.approx(2 / 7)


def test_entropy_of_the_examples_logits() -> None:
    for logits, expected in (((2.0, 1.0, 0.0), 0.832396), ((0.0,) * 4, 1.386294)):
        log_p = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), 0)
        assert float(-(log_p.exp() * log_p).sum()) == pytest.approx(expected, abs=1e-6)


def test_by_entropy_alone_the_advantage_plays_no_part() -> None:
    part = TopTokens("entropy", 0.3, 0.3)
    assert picked(part, pair()) == [3, 5, 6]
    assert picked(part, pair(), (0.0, 0.0)) == [3, 5, 6]


def test_tokens_without_a_key_are_dropped_and_ties_go_to_the_earlier_token() -> None:
    batch = batch_of([2, 3], entropy=[0.0, 1.0, 1.0, 1.0, 1.0])
    assert picked(TopTokens(start=0.9, end=0.9), batch, (1.0, 0.0)) == [1]
    assert picked(TopTokens(start=0.5, end=0.5), batch, (1.0, -1.0)) == [1, 2, 3]
    assert picked(TopTokens("entropy", 0.99, 0.99), batch, (1.0, 0.0)) == [0, 1, 2, 3, 4]
    assert picked(TopTokens(start=0.5, end=0.5), batch, (0.0, 0.0)) == []


def test_untrained_tokens_take_no_place_and_their_entropy_is_not_read() -> None:
    nan = float("nan")
    batch = batch_of([3, 2], mask=[1, 0, 1, 1, 0], entropy=[1.0, nan, 3.0, 2.0, nan])
    assert picked(TopTokens(start=0.6, end=0.6), batch, (1.0, 1.0)) == [2, 3]


def test_a_kl_term_stays_on_the_tokens_that_are_not_picked() -> None:
    objective = build_objective({"base": "grpo", "selection": {"top_tokens": {"end": 0.2}}, "kl": 0.1})
    batch = pair(old_logprob=[-1.0] * 7, ref_logprob=[-1.5] * 7)
    prepared = objective.prepare(batch)
    assert int(prepared.trained_N.sum()) == 2
    assert bool((prepared.regulariser_N > 0).all())


def test_a_sequence_ratio_runs_over_the_tokens_that_are_not_picked_too() -> None:
    parts = {"base": "grpo", "granularity": "sequence", "mask": "keep", "aggregation": "token_mean"}
    objective = build_objective({**parts, "selection": {"top_tokens": {"end": 0.2}}})
    objective = with_advantage(objective, PAIR_ADVANTAGES)
    batch = pair(old_logprob=[-1.0] * 7)
    current_N = torch.tensor([-0.7, -1.0, -1.0, -1.4, -1.0, -1.0, -1.0], dtype=torch.float64)
    _, gradient_N = evaluate(objective, objective.prepare(batch), current_N)
    ratio = torch.tensor([0.1, -0.1], dtype=torch.float64).exp()
    expected = [0.0, -PAIR_ADVANTAGES[0] * float(ratio[0]) / 2, *[0.0] * 4]
    assert gradient_N.tolist() == pytest.approx([*expected, -PAIR_ADVANTAGES[1] * float(ratio[1]) / 2])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda: MaxVariance(start=0.0), "start must lie in"),
        (lambda: TopTokens(end=1.2), "end must lie in"),
        (lambda: D3S(k_start=-0.1), "k_start must lie in"),
        (lambda: D3S(n_end=2.0), "n_end must lie in"),
    ],
)
def test_a_share_outside_zero_to_one_is_refused(part: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part()  # type: ignore[operator]


def truncated_batch() -> TokenBatch:
    batch = batch_of([1, 1, 1, 1], rewards=[1.0, 0.0, 0.0, 0.0], old_logprob=[-1.0] * 4)
    return replace(batch, truncated_S=torch.tensor([False, False, False, True]))


@pytest.mark.parametrize(
    ("part", "expected"),
    [("overlong_filter", [0.75, -0.25, -0.25]), (OverlongFilter("dropped"), [2 / 3, -1 / 3, -1 / 3])],
)
def test_truncated_responses_leave_the_loss_or_the_group_as_well(part: object, expected: list[float]) -> None:
    objective = build_objective({"base": "grpo", "advantage": "group_centred"})
    selection = OverlongFilter() if part == "overlong_filter" else part
    prepared = replace(objective, selection=(selection,)).prepare(truncated_batch())
    assert prepared.kept_S.tolist() == [0, 1, 2]
    assert prepared.terms[0].advantage_N.tolist() == pytest.approx(expected)
    assert prepared.terms[0].weight_N.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    "spec",
    [
        {"base": "grpo"},
        {"base": "dapo"},
        {"base": "grpo", "granularity": "sequence", "aggregation": "sequence_mean_token_mean"},
        {"base": "dr_grpo", "kl": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("scope", ["batch", "group"])
def test_d3s_that_keeps_everything_is_its_host(spec: dict, scope: str) -> None:
    batch, logprob_N = random_batch(3)
    host = build_objective(spec, max_response_tokens=5)
    everything = D3S(1.0, 1.0, 1.0, 1.0, scope)
    results = []
    for objective in (host, replace(host, selection=(*host.selection, everything))):
        prepared = objective.prepare(batch)
        index_N = kept_tokens(prepared, batch)
        output, gradient_N = evaluate(objective, prepared, logprob_N[index_N])
        results.append((output.measures.values(), gradient_N, prepared.kept_S))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize("name", ["d3s", "pods"])
def test_a_step_without_an_advantage_keeps_nothing_and_has_no_update(name: str) -> None:
    batch = batch_of([2, 3], rewards=[1.0, 1.0], old_logprob=[-1.0] * 5, entropy=[1.0] * 5)
    objective = ALGORITHMS[name].objective
    prepared = objective.prepare(batch, updates=2)
    assert prepared.batch.S == 0
    assert list(prepared.updates()) == []
    assert not prepared.has_signal
    values = prepared.measures.values()
    assert values["selection/kept_sequence_share"] == values["selection/kept_token_share"] == 0.0
    assert "selection/useful_share" not in values
    output, gradient_N = evaluate(objective, prepared, torch.zeros(0))
    assert float(output.loss.detach()) == 0.0
    assert gradient_N.shape == (0,)


@pytest.mark.parametrize("name", ["d3s", "pods"])
@pytest.mark.parametrize("progress", [0.0, 0.35, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_the_rows_have_the_value_and_gradient_of_the_loss_over_what_is_selected(
    name: str, progress: float, seed: int
) -> None:
    batch, logprob_N = random_batch(seed)
    batch = replace(batch, progress=progress)
    leaf = logprob_N.clone().requires_grad_(True)
    rows = [r for r in slow.responses_of(batch, leaf) if not r.demonstration]
    advantages = [a if r.n else 0.0 for r, a in zip(rows, slow.group_normalised(rows), strict=True)]
    aggregation = "token_mean" if name == "d3s" else "sequence_mean_token_mean"
    if name == "d3s":
        kept = slow.max_variance(advantages, max(2, int((0.25 + 0.75 * progress) * len(rows) + 0.5)))
        slow.top_tokens([rows[i] for i in kept], [advantages[i] for i in kept], 0.2 + 0.8 * progress)
    else:
        members = {r.group: [i for i, o in enumerate(rows) if o.group == r.group] for r in rows}
        kept = sorted(
            index[i]
            for index in members.values()
            for i in slow.max_variance(
                [advantages[j] for j in index], min(len(index), max(2, int(0.25 * len(index) + 0.5)))
            )
        )
    choice = losses.Choice(
        ("group_normalised", {}), ("old", {}), ("token", {}), ("clip", {}), (aggregation, {})
    )
    expected = losses.slow_loss(choice, [rows[i] for i in kept], [advantages[i] for i in kept])
    expected.backward()
    assert leaf.grad is not None
    objective = ALGORITHMS[name].objective
    prepared = objective.prepare(batch)
    index_N = kept_tokens(prepared, batch)
    output, gradient_N = evaluate(objective, prepared, logprob_N[index_N])
    assert [i for i in prepared.kept_S.tolist() if i < 11] == kept
    assert torch.allclose(gradient_N, leaf.grad[index_N].nan_to_num(0.0), rtol=0, atol=1e-10)
    assert output.measures.values()["policy/loss"] == pytest.approx(float(expected.detach()), abs=1e-10)
