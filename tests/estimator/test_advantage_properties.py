"""Every advantage against its slow version, at its edges, and against the others it must equal."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import replace
from fractions import Fraction
from typing import Any

import estimator_slow as slow
import estimator_slow_advantages as slow_advantages
import pytest
import torch
from estimator_batches import NAN, batch_of, random_batch

from rlpost.estimator import PARTS, TokenBatch

OPTIONS: dict[str, dict[str, list[Any]]] = {
    "leave_one_out_normalised": {"epsilon": [1e-6, 0.1]},
    "batch_std": {"std": ["sample", "population"], "epsilon": [1e-4, 0.1]},
    "maxrl": {"epsilon": [1e-6, 0.1]},
    "opo": {},
    "greedy_baseline": {},
    "token_return": {
        "discount": [1.0, 0.7, 0.0],
        "kl": [0.0, 0.3],
        "whiten": ["none", "sample", "population"],
    },
    "group_centred_whitened": {"whiten": ["sample", "population"]},
    "gae": {
        "discount": [1.0, 0.7],
        "lam": [1.0, 0.9, 0.0],
        "kl": [0.0, 0.3],
        "whiten": ["none", "sample", "population"],
    },
    "gdpo": {"std": ["sample", "population"], "weights": [{}, {"format": 0.3}]},
    "pass_at_k": {"k": [1, 2, 3, 4, 5, 6], "success": [0.5, 0.2]},
    "pkpo": {"k": [1, 2, 3, 4, 5, 6], "variant": ["plain", "leave_one_out_minus_one"]},
    "best_minus_second": {"divide_by_std": [False, True]},
    "smooth_normalised": {"std": ["population", "sample"]},
    "teacher_gap": {"clip": [0.0, 0.4]},
}


def of(name: str, **options: Any) -> Any:
    return PARTS["advantage"][name](**options)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_an_advantage_equals_its_slow_version_for_all_options(name: str, seed: int) -> None:
    whole, _ = random_batch(100 + seed)
    batch = whole.rows((~whole.demonstration_S).nonzero(as_tuple=True)[0])
    rows = slow.responses_of(batch, torch.zeros(batch.N, dtype=torch.float64))
    for values in itertools.product(*OPTIONS[name].values()):
        options = dict(zip(OPTIONS[name], values, strict=True))
        found_M = of(name, **options)(batch)[batch.mask_N]
        expected = slow_advantages.ADVANTAGES[name](rows, **options)
        if name not in slow_advantages.PER_TOKEN:
            expected = [[value] * row.n for value, row in zip(expected, rows, strict=True)]
        assert found_M.tolist() == pytest.approx([v for list_ in expected for v in list_], abs=1e-9)


def test_every_advantage_of_a_response_or_token_has_a_slow_version() -> None:
    known = set(slow.ADVANTAGES) | set(slow_advantages.ADVANTAGES)
    assert set(PARTS["advantage"]) <= known


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("seed", range(3))
def test_pass_at_k_and_pkpo_equal_the_enumeration_of_all_subsets(size: int, seed: int) -> None:
    rng = random.Random(size * 10 + seed)
    binary = [rng.choice([0.0, 1.0]) for _ in range(size)]
    real = [rng.choice([0.0, 0.25, 0.5, 1.0, -0.3, rng.random()]) for _ in range(size)]
    for k in range(1, size + 2):
        for name, rewards, options in (
            ("pass_at_k", binary, {"k": k}),
            ("pkpo", real, {"k": k, "variant": "plain"}),
            ("pkpo", real, {"k": k, "variant": "leave_one_out_minus_one"}),
        ):
            unread = dict.fromkeys(("old_logprob", "behaviour_logprob", "ref_logprob"), [-1.0] * size)
            batch = batch_of([1] * size, rewards=rewards, **unread)
            rows = slow.responses_of(batch, torch.zeros(batch.N, dtype=torch.float64))
            expected = slow_advantages.ADVANTAGES[name](rows, **options)
            assert of(name, **options)(batch).tolist() == pytest.approx(expected, abs=1e-12)
            if k > size:
                assert of(name, **options)(batch).tolist() == [0.0] * size


@pytest.mark.parametrize(("size", "right", "k"), [(512, 1, 1), (512, 1, 256), (512, 256, 2), (512, 30, 64)])
def test_the_analytic_advantage_is_accurate_for_large_groups(size: int, right: int, k: int) -> None:
    fail = Fraction(math.comb(size - right, k), math.comb(size, k))
    high = math.sqrt(fail / (1 - fail))
    found = of("pass_at_k", k=k)(batch_of([1] * size, rewards=[1.0] * right + [0.0] * (size - right)))
    assert float(found[0]) == pytest.approx(high, rel=1e-10, abs=1e-10)
    assert float(found[-1]) == pytest.approx(-high * right / (size - right), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("k", [1, 2, 8, 511, 512])
def test_pkpo_is_accurate_for_large_groups(k: int) -> None:
    size, right = 512, 100
    wrong = size - right
    batch = batch_of([1] * size, rewards=[1.0] * right + [0.0] * wrong)
    found = of("pkpo", k=k, variant="plain")(batch)
    assert float(found[0]) == pytest.approx(k, rel=1e-10)
    miss = Fraction(math.comb(wrong - 1, k - 1), math.comb(size - 1, k - 1))
    assert float(found[-1]) == pytest.approx(float(k * (1 - miss)), rel=1e-10)
    led = of("pkpo", k=k)(batch)
    lead = Fraction(math.comb(wrong, k - 1), math.comb(size - 1, k - 1))
    assert float(led[0]) == pytest.approx(float(k * lead), rel=1e-10, abs=1e-10)
    assert led[right:].tolist() == [0.0] * wrong


@pytest.mark.parametrize("seed", range(3))
def test_the_analytic_advantage_for_one_response_is_grpos_with_the_population_deviation(seed: int) -> None:
    rng = random.Random(seed)
    groups = [g for g in range(6) for _ in range(rng.randint(1, 9))]
    batch = batch_of([1] * len(groups), groups=groups, rewards=[rng.choice([0.0, 1.0]) for _ in groups])
    grpo = of("group_normalised", std="population", epsilon=0.0)(batch)
    assert torch.allclose(of("pass_at_k", k=1)(batch), grpo, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pkpo_at_the_size_of_the_group_is_the_best_less_the_second_times_that_size(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(2, 9)
    batch = batch_of([1] * size, rewards=[rng.choice([0.1, 0.5, rng.random()]) for _ in range(size)])
    best = of("best_minus_second")(batch)
    assert torch.allclose(of("pkpo", k=size)(batch), size * best, rtol=0, atol=1e-12)


def test_dcpo_at_the_first_visit_is_grpo() -> None:
    whole, _ = random_batch(3)
    names = ("prompt_visits", "prompt_samples", "prompt_mean", "prompt_variance")
    unseen = {name: torch.zeros(whole.S, dtype=torch.float64) for name in names}
    batch = replace(whole, sequence_signals=unseen)
    for std in ("population", "sample"):
        grpo = of("group_normalised", std=std, epsilon=0.0)(batch)
        assert torch.allclose(of("smooth_normalised", std=std)(batch), grpo, rtol=0, atol=1e-12)


def test_the_generalised_advantage_with_a_value_of_zero_and_no_decay_is_the_return() -> None:
    batch, _ = random_batch(4)
    batch = batch.with_signals(value=torch.zeros(batch.N, dtype=torch.float64))
    assert torch.equal(of("gae")(batch), of("token_return")(batch))


def test_a_long_response_has_the_return_of_the_plain_recursion() -> None:
    length = 1000
    rng = random.Random(0)
    steps = [rng.uniform(-1.0, 1.0) for _ in range(length + 3)]
    batch = batch_of([3, length], rewards=[0.5, sum(steps[3:]) + 0.25], token_reward=steps)
    carried, expected = 0.0, []
    for reward in reversed([*steps[3:-1], steps[-1] + 0.25]):
        carried = reward + 0.97 * carried
        expected.insert(0, carried)
    assert of("token_return", discount=0.97)(batch)[3:].tolist() == pytest.approx(expected, abs=1e-12)


CENTRED = sorted(
    set(PARTS["advantage"]) - {"constant", "reward", "greedy_baseline", "gae", "preference", "teacher_gap"}
)
"""Those that give equal rewards no signal; a return does once it is whitened, PKPO in its default form."""


def equal_rewards(size: int, value: float, *, history: int = 0) -> TokenBatch:
    known = {
        "prompt_visits": [float(history > 0)] * size,
        "prompt_samples": [float(history)] * size,
        "prompt_mean": [value if history else 0.0] * size,
        "prompt_variance": [0.0] * size,
        "reward_part/answer": [value] * size,
        "reward_part/format": [value / 3] * size,
    }
    return batch_of([2] * size, rewards=[value] * size, sequence_signals=known)


@pytest.mark.parametrize("name", CENTRED)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 63])
@pytest.mark.parametrize("value", [0.0, 1.0, 2.3, 0.1, -1e-30, 1e30, -5.7])
def test_equal_rewards_give_exactly_zero_whatever_their_float(name: str, size: int, value: float) -> None:
    options = {"whiten": "sample"} if name == "token_return" else {}
    batch = equal_rewards(size, value)
    assert of(name, **options)(batch).tolist() == [0.0] * 2 * size
    if name == "smooth_normalised":
        assert of(name)(equal_rewards(size, value, history=7)).tolist() == [0.0] * 2 * size


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"teacher_gap"}))
def test_a_group_without_signal_stays_at_zero_beside_others_but_for_two_that_say_so(name: str) -> None:
    value, S = 2.3, 9
    rewards = [1.0, 0.0, 0.3, 0.1, *[value] * 4, 0.7]
    batch = batch_of([1] * S, groups=[0] * 4 + [1] * 4 + [2], rewards=rewards, value=[0.4] * S)
    found = of(name)(batch).tolist()
    if name in ("token_return", "greedy_baseline", "gae", "group_centred_whitened"):
        assert 0.0 not in found[4:]
    else:
        assert found[4:] == [0.0] * 5
    assert any(abs(v) > 0.1 for v in found[:4])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("garbage", [NAN, float("inf")])
def test_what_stands_at_untrained_positions_never_shows(name: str, garbage: float) -> None:
    options = {"kl": 0.3, "whiten": "sample"} if name in ("token_return", "gae") else {}
    found = []
    for filling in (garbage, -1.0):
        batch, _ = random_batch(9, garbage=filling)
        found.append(of(name, **options)(batch)[batch.mask_N])
    assert torch.isfinite(found[0]).all()
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("lengths", [[], [0, 0], [0, 1, 0]], ids=str)
def test_empty_responses_and_batches_have_a_result(name: str, lengths: list[int]) -> None:
    for options in ({}, {"whiten": "sample"}, {"whiten": "population"}):
        if options and "whiten" not in OPTIONS[name]:
            continue
        read = dict.fromkeys(("value", "old_logprob", "teacher_logprob"), [0.5] * sum(lengths))
        batch = batch_of(lengths, **read)
        found = of(name, **options)(batch)
        assert found.shape == (sum(lengths),)
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_that_are_all_untrained_have_a_result(name: str) -> None:
    names = ("value", "token_reward", "old_logprob", "teacher_logprob")
    batch = batch_of([2, 1], mask=[0, 0, 0], **dict.fromkeys(names, [NAN] * 3))
    assert torch.isfinite(of(name)(batch)).all()


def test_long_responses_count_more_in_the_whitening() -> None:
    batch = batch_of([1, 3], groups=[0, 0], rewards=[1.0, 0.0])
    found = of("group_centred_whitened", whiten="population")(batch).tolist()
    assert found == pytest.approx([math.sqrt(3.0)] + [-1 / math.sqrt(3.0)] * 3, abs=1e-6)
    assert statistics.fmean(found) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("token_return", {"discount": 1.1}, r"discount must lie in \[0, 1\], found 1.1"),
        ("token_return", {"kl": -0.1}, "kl must be 0 or above, found -0.1"),
        ("gae", {"lam": -0.1}, r"lam must lie in \[0, 1\], found -0.1"),
        ("pass_at_k", {"k": 0}, "k must be 1 or above, found 0"),
        ("pkpo", {"k": -2}, "k must be 1 or above, found -2"),
        ("batch_std", {"epsilon": -1.0}, "epsilon must be 0 or above, found -1"),
        ("maxrl", {"epsilon": -1.0}, "epsilon must be 0 or above, found -1"),
        ("gdpo", {"epsilon": -1.0}, "epsilon must be 0 or above, found -1"),
        ("best_minus_second", {"epsilon": -1.0}, "epsilon must be 0 or above, found -1"),
        ("leave_one_out_normalised", {"epsilon": -1.0}, "epsilon must be 0 or above, found -1"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_value(name: str, options: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        of(name, **options)


def test_a_missing_sequence_signal_is_named() -> None:
    batch = batch_of([1, 1], sequence_signals={"prompt_visits": [0.0, 0.0]})
    with pytest.raises(KeyError, match=r"no sequence signal 'greedy_reward', only \['prompt_visits'\]"):
        of("greedy_baseline")(batch)
    with pytest.raises(KeyError, match="no sequence signal 'prompt_samples'"):
        of("smooth_normalised")(batch)
