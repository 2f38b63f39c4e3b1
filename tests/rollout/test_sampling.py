import math

import numpy as np
import pytest
import torch

from rlpost.errors import RolloutError
from rlpost.rollout import SamplingSettings
from rlpost.rollout.sampling import SamplingPlan, draw, keep_top, uniform

CPU = torch.device("cpu")


def slow_uniform(seed, position):
    """SplitMix64 in Python integers."""
    mask = 2**64 - 1

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    state = mix((seed + 0x9E3779B97F4A7C15) & mask)
    return (mix((state + (position + 1) * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53


def test_uniform_numbers_are_splitmix64_of_seed_and_position():
    assert slow_uniform(0, 0) == uniform(np.array([0], np.uint64), np.array([0]))[0]
    seeds = np.array([0, 1, 2**63 - 1, 2**64 - 1, 12345], np.uint64)
    for position in (0, 1, 2, 4095):
        found = uniform(seeds, np.full(5, position))
        assert found.tolist() == [slow_uniform(int(s), position) for s in seeds]
        assert ((found >= 0) & (found < 1)).all()


def test_uniform_numbers_are_even_and_unrelated_over_seeds_and_positions():
    seeds, positions = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200))
    u = uniform(seeds.ravel(), positions.ravel()).reshape(200, 200)
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 49 + 6 * math.sqrt(98)
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.025


def plan(*settings, vocabulary=4):
    return SamplingPlan.of(settings, vocabulary, CPU)


def test_a_draw_inverts_the_cumulative_distribution_and_skips_impossible_tokens():
    logits = torch.tensor([-math.inf, math.log(0.25), -math.inf, math.log(0.75)])
    u = torch.tensor([0.0, 0.2499999, 0.2500001, 1 - 2**-53], dtype=torch.float64)
    token, logprob = draw(logits.expand(4, 4), plan(*[SamplingSettings()] * 4), u)
    assert token.tolist() == [1, 1, 3, 3]
    assert logprob.tolist() == pytest.approx([math.log(0.25)] * 2 + [math.log(0.75)] * 2, abs=1e-7)


def test_each_row_of_a_mixed_batch_follows_its_own_settings():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log().expand(5, 4)
    settings = [
        SamplingSettings(temperature=0.0, top_k=1),
        SamplingSettings(temperature=0.5),
        SamplingSettings(top_k=2),
        SamplingSettings(top_p=0.5),
        SamplingSettings(top_k=3, top_p=0.5),
    ]
    token, logprob = draw(logits, plan(*settings), torch.full((5,), 0.999, dtype=torch.float64))
    assert token.tolist() == [0, 3, 1, 1, 1]
    expected = [0.4, 0.01 / 0.30, 0.3 / 0.7, 0.3 / 0.7, 0.3 / 0.7]
    assert logprob.exp().tolist() == pytest.approx(expected, abs=1e-12)


def test_a_row_is_drawn_alike_alone_and_in_company():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(30, 50, generator=generator)
    settings = [
        SamplingSettings(
            temperature=(0.0, 0.7, 1.0)[i % 3], top_k=(0, 6)[i % 2], top_p=(1.0, 0.8)[i // 2 % 2]
        )
        for i in range(30)
    ]
    u = torch.rand(30, dtype=torch.float64, generator=generator)
    together = draw(logits, plan(*settings, vocabulary=50), u)
    for i in range(30):
        alone = draw(logits[i : i + 1], plan(settings[i], vocabulary=50), u[i : i + 1])
        assert (alone[0].item(), alone[1].item()) == (together[0][i].item(), together[1][i].item())


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (4, 0.39, [0]),
        (4, 0.41, [0, 1]),
        (4, 0.95, [0, 1, 2, 3]),
        (4, 1e-9, [0]),
        (2, 1.0, [0, 1]),
        (2, 0.5, [0]),  # renormalised over two tokens, token 0 holds 4/7
        (1, 1.0, [0]),
    ],
)
def test_top_k_then_top_p_keep_the_shortest_head(top_k, top_p, kept):
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    found = keep_top(scores, torch.tensor([[top_k]]), torch.tensor([[top_p]], dtype=torch.float64))
    assert found[0].isfinite().nonzero()[:, 0].tolist() == kept
    assert found[0, kept].tolist() == scores[0, kept].tolist()


def test_top_k_keeps_exactly_k_of_equal_scores_the_lowest_ids_first():
    found = keep_top(
        torch.zeros(1, 6, dtype=torch.float64), torch.tensor([[2]]), torch.ones(1, 1, dtype=torch.float64)
    )
    assert found[0].isfinite().tolist() == [True, True, False, False, False, False]


def test_top_p_of_one_keeps_tokens_too_rare_to_change_a_sum():
    scores = torch.tensor([[0.0, -50.0, -60.0]], dtype=torch.float64)
    found = keep_top(scores, torch.tensor([[3]]), torch.ones(1, 1, dtype=torch.float64))
    assert found.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = torch.tensor([[0.0, 1.0], [bad, 0.0]])
    with pytest.raises(RolloutError, match="1 of 2 rows"):
        draw(logits, plan(SamplingSettings(), SamplingSettings()), torch.rand(2, dtype=torch.float64))
