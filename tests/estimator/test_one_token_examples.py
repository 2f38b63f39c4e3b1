"""OTR on plain logits: worked examples, edge cases, and how the sampled form approaches the exact one."""

import itertools
import math

import pytest
import torch
from estimator_batches import batch_of, random_batch

from rlpost.estimator import OneToken, build_objective
from rlpost.estimator.one_token import (
    expected_gradient,
    expected_loss,
    grouped_loss,
    one_token_measures,
    sampled_loss,
)

LOGITS = [[2.0, 1.0, 0.0, -1.0]]
SAMPLES = [[0, 0, 1, 0, 2, 0, 1, 3]]
SAMPLED = [sampled_loss, grouped_loss]


def differentiated(loss, logits, target, *options):
    """The losses [N] and the gradient of their sum."""
    logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.tensor(target), *options)
    return value.detach().tolist(), torch.autograd.grad(value.sum(), logits)[0]


def close(found, needed):
    return found == pytest.approx(needed, abs=1e-6)


@pytest.mark.parametrize("loss", SAMPLED)
def test_eight_samples_of_which_two_hit(loss):
    value, gradient = differentiated(loss, LOGITS, [1], torch.tensor(SAMPLES), -0.1)
    assert close(value, [0.264533])
    assert close(gradient[0].tolist(), [0.162685, -0.208546, 0.027750, 0.018110])


def test_the_distributions_of_the_example():
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    assert close(torch.softmax(logits, -1)[0].tolist(), [0.643914, 0.236883, 0.087144, 0.032059])
    assert close(torch.softmax(logits / 1.3, -1)[0].tolist(), [0.562565, 0.260676, 0.120789, 0.055970])


@pytest.mark.parametrize(
    ("temperature", "needed"),
    [
        (1.3, [0.176503, -0.216439, 0.028353, 0.011584]),
        (1.0, [0.167785, -0.198846, 0.022707, 0.008354]),
    ],
)
def test_the_expected_gradient(temperature, needed):
    value, gradient = differentiated(expected_loss, LOGITS, [1], temperature, -0.1)
    if temperature == 1.3:
        assert close(value, [0.301929])
    assert close(gradient[0].tolist(), needed)
    closed = expected_gradient(
        torch.tensor(LOGITS, dtype=torch.float64), torch.tensor([1]), temperature, -0.1
    )
    assert close(closed[0].tolist(), needed)


@pytest.mark.parametrize("loss", SAMPLED)
def test_four_samples_of_which_none_hits_leave_a_negative_loss(loss):
    value, gradient = differentiated(loss, LOGITS, [1], torch.tensor([[0, 0, 2, 3]]), -0.1)
    assert close(value, [-0.169019])
    assert float(gradient[0, 1]) == pytest.approx(-0.1 * 0.236883, abs=1e-6)


@pytest.mark.parametrize("loss", SAMPLED)
def test_two_positions(loss):
    logits, samples = [[0.0, 3.0, 0.0, 0.0]], torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]])
    second, _ = differentiated(loss, logits, [1], samples, -0.1)
    assert close(second, [0.082565])
    both, _ = differentiated(loss, LOGITS + logits, [1, 1], torch.cat([torch.tensor(SAMPLES), samples]), -0.1)
    assert close(sum(both) / 2, 0.173549)


@pytest.mark.parametrize("loss", SAMPLED)
def test_nothing_but_hits_is_maximum_likelihood(loss):
    value, gradient = differentiated(loss, LOGITS, [1], torch.ones(1, 8, dtype=torch.int64), -0.1)
    assert close(value, [1.440190])
    assert close(gradient[0].tolist(), [0.643914, 0.236883 - 1, 0.087144, 0.032059])


@pytest.mark.parametrize("loss", SAMPLED)
def test_misses_without_a_penalty_count_for_nothing(loss):
    value, gradient = differentiated(loss, LOGITS, [1], torch.tensor([[0, 0, 2, 3]]), 0.0)
    assert value == [0.0] and not gradient.any()
    value, gradient = differentiated(loss, LOGITS, [1], torch.tensor(SAMPLES), 0.0)
    assert close(value, [0.25 * 1.440190])


@pytest.mark.parametrize("loss", SAMPLED)
def test_an_empty_response_has_no_losses(loss):
    logits = torch.zeros(0, 4, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, dtype=torch.int64), -0.1)
    assert value.shape == (0,)
    value.sum().backward()
    assert logits.grad.shape == (0, 4)
    assert expected_loss(logits, torch.zeros(0, dtype=torch.int64), 1.3, -0.1).shape == (0,)


def random_positions(positions=16, tokens=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(positions, tokens, generator=generator, dtype=torch.float64)
    return logits, torch.randint(tokens, (positions,), generator=generator), generator


def test_the_grouped_form_is_the_sampled_form():
    logits, target, generator = random_positions()
    samples = torch.multinomial(torch.softmax(logits / 1.3, -1), 64, replacement=True, generator=generator)
    found = [differentiated(loss, logits.tolist(), target.tolist(), samples, -0.3) for loss in SAMPLED]
    assert found[0][0] == pytest.approx(found[1][0], rel=0, abs=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("miss", [-0.1, 0.0, 0.5])
def test_at_temperature_one_the_exact_form_is_dft_times_one_less_the_penalty(miss):
    logits, target, _ = random_positions()
    _, gradient = differentiated(expected_loss, logits.tolist(), target.tolist(), 1.0, miss)
    logits.requires_grad_()
    dft = -torch.softmax(logits, -1).gather(1, target[:, None]).sum()  # d(-pi) = -pi d log pi
    needed = (1 - miss) * torch.autograd.grad(dft, logits)[0]
    torch.testing.assert_close(gradient, needed, rtol=0, atol=1e-12)


def test_in_a_very_hot_distribution_all_tokens_are_tried_alike():
    logits, target, _ = random_positions()
    value, gradient = differentiated(expected_loss, logits.tolist(), target.tolist(), 1e9, -0.1)
    logp = torch.log_softmax(logits, -1)
    hit = logp.gather(1, target[:, None])[:, 0]
    needed = -(hit - 0.1 * (logp.sum(1) - hit)) / logits.shape[1]
    torch.testing.assert_close(torch.tensor(value, dtype=torch.float64), needed, rtol=0, atol=1e-7)
    one_hot = torch.zeros_like(logits).scatter(1, target[:, None], 1.0)
    uniform, pi = torch.full_like(logits, 1 / logits.shape[1]), logp.exp()
    needed = -(1.1 * uniform * (one_hot - pi) - 0.1 * (uniform - pi))
    torch.testing.assert_close(gradient, needed, rtol=0, atol=1e-7)


def test_the_sampled_gradient_approaches_the_exact_one_as_one_over_the_root_of_the_samples():
    logits, target, generator = random_positions(positions=400)
    exact = expected_gradient(logits, target, 1.3, -0.1)
    q = torch.softmax(logits / 1.3, -1)
    gaps = []
    for count in (64, 256, 1024, 4096):
        samples = torch.multinomial(q, count, replacement=True, generator=generator)
        _, gradient = differentiated(grouped_loss, logits.tolist(), target.tolist(), samples, -0.1)
        gaps.append(float((gradient - exact).square().mean().sqrt()))
        # Unbiased: over positions the errors cancel, at the same rate again.
        assert float((gradient - exact).mean(0).abs().max()) < 6 * gaps[-1] / math.sqrt(400)
    for gap, next_gap in itertools.pairwise(gaps):
        assert gap / next_gap == pytest.approx(2.0, rel=0.15)


def test_what_one_token_rollouts_report():
    hits = torch.tensor([0.5, 0.0, 1.0, 0.25])
    tried = torch.tensor([True, True, False, True])
    report = one_token_measures(OneToken(miss=-0.1), hits, tried).values()
    assert report["otr/hit_share"] == pytest.approx(0.25)
    assert report["otr/no_hit_share"] == pytest.approx(1 / 3)
    assert report["otr/miss_term_share"] == pytest.approx(0.225 / (0.75 + 0.225))
    assert "otr/no_hit_share" not in one_token_measures(OneToken(form="exact"), hits, tried).values()
    nothing = torch.zeros(4, dtype=torch.bool)
    assert one_token_measures(OneToken(), hits, nothing).values() == {}


def row_loss(batch, spec, logits, target, samples):
    """The row's loss on scores that the plain formulas give, and its gradient with respect to the logits."""
    objective = build_objective({"base": "otr", **spec})
    leaf = logits.clone().requires_grad_(True)
    if objective.actions.form == "exact":
        score = -expected_loss(leaf, target, objective.actions.temperature, objective.actions.miss)
    else:
        score = -grouped_loss(leaf, target, samples, objective.actions.miss)
    logprob = torch.log_softmax(leaf, -1).gather(1, target[:, None])[:, 0]
    output = objective.loss(logprob, objective.prepare(batch), score_N=score)
    output.loss.backward()
    return output.measures.values()["policy/loss"], leaf.grad


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", ["sampled", "exact"])
def test_the_row_is_the_mean_over_responses_of_the_mean_over_their_tokens(form, seed):
    batch, _ = random_batch(seed)
    logits, target, generator = random_positions(batch.N, seed=seed)
    samples = torch.multinomial(torch.softmax(logits / 1.3, -1), 32, replacement=True, generator=generator)
    spec = {"actions": {"one_token": {"samples": 32, "miss": -0.2, "form": form}}}
    leaf = logits.clone().requires_grad_(True)
    options = (1.3, -0.2) if form == "exact" else (samples, -0.2)
    loss_N = (expected_loss if form == "exact" else sampled_loss)(leaf, target, *options)
    means, tokens = [], []
    for row in batch.demonstration_S.nonzero()[:, 0].tolist():
        own_N = (batch.sequence_N == row) & batch.mask_N
        if own_N.any():
            means.append(loss_N[own_N].mean())
            tokens += loss_N[own_N]
    for aggregation, needed in (({}, means), ({"aggregation": "token_mean"}, tokens)):
        expected = torch.stack(needed).mean()
        value, gradient = row_loss(batch, spec | aggregation, logits, target, samples)
        assert value == pytest.approx(float(expected.detach()), abs=1e-12)
        needed_gradient = torch.autograd.grad(expected, leaf, retain_graph=True)[0]
        torch.testing.assert_close(gradient, needed_gradient, rtol=0, atol=1e-12)


def test_the_row_gives_the_worked_example_of_two_positions():
    batch = batch_of([2], demonstrations=(0,), sequence_signals={"draw_seed": [1.0]})
    logits = torch.tensor([*LOGITS, [0.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    samples = torch.tensor([*SAMPLES, [1, 1, 1, 1, 1, 1, 1, 0]])
    value, _ = row_loss(batch, {}, logits, torch.tensor([1, 1]), samples)
    assert close(value, 0.173549)


def test_a_response_without_tokens_is_skipped():
    batch = batch_of([2, 0], demonstrations=(0, 1), sequence_signals={"draw_seed": [1.0, 2.0]})
    logits = torch.tensor([*LOGITS, [0.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    samples = torch.tensor([*SAMPLES, [1, 1, 1, 1, 1, 1, 1, 0]])
    assert close(row_loss(batch, {}, logits, torch.tensor([1, 1]), samples)[0], 0.173549)
