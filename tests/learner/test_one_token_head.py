"""Scores of one-token rollouts: against the formulas on dense logits, and what is drawn."""

import math

import pytest
import torch

from rlpost.estimator import OneToken
from rlpost.estimator.one_token import expected_gradient, expected_loss, grouped_loss
from rlpost.learner.heads.fused_head import head_logprobs
from rlpost.learner.heads.logit_blocks import HeadSettings, LogitBlocks, summarise
from rlpost.learner.heads.one_token_draws import draw_misses
from rlpost.learner.heads.one_token_head import Rollouts, one_token_scores
from rlpost.learner.heads.token_draws import token_keys, uniforms

TOKENS, COLUMNS, WIDTH = 7, 300, 5  # 300 columns are three blocks at the narrowest width
TARGET = torch.tensor([0, 127, 128, 255, 256, 299, 42])
EXACT = OneToken(form="exact")


def tensors(dtype=torch.float64, tokens=TOKENS):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(COLUMNS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(COLUMNS, generator=generator, dtype=torch.float64)
    bias[TARGET] += 4.0  # so that the targets are drawn now and then
    bias = bias.to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def rollouts(actions, tried=None, seeds=(11.0, 12.0), sizes=(3, 4)) -> Rollouts:
    sequence = torch.repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    tried = torch.ones(len(sequence), dtype=torch.bool) if tried is None else tried
    return Rollouts(actions, tried, token_keys(torch.tensor(seeds, dtype=torch.float64), sequence))


def dense_logits(hidden, weight, bias, temperature=1.0, softcap=None):
    logits = hidden @ weight.T + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits / temperature


def slow_draws(logits, tried: Rollouts) -> torch.Tensor:
    """Inverse transform sampling over the whole vocabulary at once."""
    q = torch.softmax(logits.detach() / tried.actions.temperature, dim=-1)
    return torch.searchsorted(q.cumsum(-1), uniforms(tried.key_N, tried.actions.samples).sort(-1).values)


def slow_scores(logits, tried: Rollouts):
    actions = tried.actions
    if actions.form == "exact":
        loss = expected_loss(logits, TARGET, actions.temperature, actions.miss)
        hits = torch.softmax(logits / actions.temperature, -1).gather(1, TARGET[:, None])[:, 0]
    else:
        draws = slow_draws(logits, tried)
        loss = grouped_loss(logits, TARGET, draws, actions.miss)
        hits = (draws == TARGET[:, None]).double().mean(1)
    return -loss * tried.tried_N, hits.detach() * tried.tried_N


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("form", ["sampled", "exact"])
def test_values_and_gradients_are_those_of_the_formulas_on_dense_logits(form, temperature, softcap):
    hidden, weight, bias = tensors()
    tried = rollouts(OneToken(samples=16, form=form), torch.arange(TOKENS) != 2)
    factor = torch.randn(3, TOKENS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = dense_logits(hidden, weight, bias, temperature, softcap)
    logp = torch.log_softmax(logits, -1)
    score, hits = slow_scores(logits, tried)
    needed = [logp.gather(1, TARGET[:, None])[:, 0], -(logp.exp() * logp).sum(-1), score]
    found = one_token_scores(
        hidden,
        weight,
        TARGET,
        tried,
        bias_V=bias,
        temperature=temperature,
        softcap=softcap,
        with_entropy_grad=True,
        block_bytes=1,
    )
    torch.testing.assert_close(found[3], hits, rtol=0, atol=1e-12)
    assert 0 < float(hits.max()) < 1
    results = []
    for outputs in (found[:3], needed):
        loss = (factor * torch.stack(tuple(outputs))).sum()
        results.append((*outputs, *torch.autograd.grad(loss, (hidden, weight, bias))))
    torch.testing.assert_close(results[0], tuple(results[1]), rtol=1e-10, atol=1e-12)


def test_without_the_entropys_gradient_and_in_float32_the_results_are_the_same():
    needed, found = [], []
    for dtype, results in ((torch.float64, needed), (torch.float32, found)):
        for form in ("sampled", "exact"):
            leaves = tensors(dtype)
            tried = rollouts(OneToken(samples=16, form=form))
            outputs = one_token_scores(*leaves[:2], TARGET, tried, bias_V=leaves[2], block_bytes=1)
            assert [o.requires_grad for o in outputs] == [True, False, True, False]
            (outputs[0] + outputs[2]).sum().backward()
            results += [*outputs, *(leaf.grad for leaf in leaves)]
    for wide, narrow in zip(needed, found, strict=True):
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow, wide.float(), rtol=1e-4, atol=1e-5)


def test_what_is_not_asked_for_is_left_as_the_fused_head_has_it():
    hidden, weight, bias = tensors()
    logprob, entropy = head_logprobs(hidden, weight, TARGET, bias_V=bias, block_bytes=1)
    for actions in (OneToken(samples=16), EXACT):
        nothing = rollouts(actions, torch.zeros(TOKENS, dtype=torch.bool))
        found = one_token_scores(hidden, weight, TARGET, nothing, bias_V=bias, block_bytes=2)
        assert torch.equal(found[0], logprob) and torch.equal(found[1], entropy)
        assert not found[2].any() and not found[3].any()
        gradient = torch.autograd.grad(found[2].sum(), (hidden, weight, bias))
        assert not any(part.any() for part in gradient)  # exact zeros, with a graph


def test_no_tokens_are_a_batch_too():
    hidden, weight, _ = tensors()
    for actions in (OneToken(samples=16), EXACT):
        nothing = rollouts(actions, seeds=(), sizes=())
        found = one_token_scores(hidden[:0], weight, TARGET[:0], nothing)
        weight.grad = None
        (found[2].sum() * 2).backward()
        assert [len(tensor) for tensor in found] == [0, 0, 0, 0]
        assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_draws_are_the_same_however_the_vocabulary_and_the_batch_are_cut_and_whatever_the_order_of_rows():
    hidden, weight, bias = (tensor.detach() for tensor in tensors())
    actions = OneToken(samples=64)
    whole = rollouts(actions)

    def scores(rows, **options):
        part = Rollouts(actions, whole.tried_N[rows], whole.key_N[rows])
        _, _, score, hits = one_token_scores(hidden[rows], weight, TARGET[rows], part, bias_V=bias, **options)
        return torch.stack([score, hits])

    everything = torch.arange(TOKENS)
    needed = scores(everything)
    assert float(needed[1].max()) > 0
    backwards = everything.flip(0)
    for found in (
        scores(everything, block_bytes=1),
        scores(everything, block_bytes=2 * 8 * TOKENS * 200),
        torch.cat([scores(everything[:3]), scores(everything[3:], block_bytes=1)], dim=1),
        scores(backwards).flip(1),
    ):
        torch.testing.assert_close(found, needed, rtol=0, atol=1e-12)
    other_seeds = rollouts(actions, seeds=(11.0, 13.0))
    _, _, score, _ = one_token_scores(hidden, weight, TARGET, other_seeds, bias_V=bias)
    assert torch.equal(score[:3], needed[0, :3])
    assert (score[3:] != needed[0, 3:]).all()


def frequencies(hidden, weight, bias, actions) -> torch.Tensor:
    """How often each token was drawn [N, V], by draws that all miss (the target is no token)."""
    blocks = LogitBlocks(hidden, weight, bias, HeadSettings(1.0, None, 1))
    found = summarise(blocks, TARGET)
    logits = dense_logits(hidden, weight, bias)
    total = ((logits - found.max_N[:, None]) / actions.temperature).exp().sum(1)
    misses, _ = draw_misses(
        blocks,
        torch.full_like(TARGET, -1),
        rollouts(actions).key_N,
        actions,
        max_W=found.max_N,
        total_W=total,
        logsumexp_W=found.logsumexp_N,
    )
    flat = misses.row_M.long() * COLUMNS + misses.token_M
    return torch.bincount(flat, minlength=TOKENS * COLUMNS).view(TOKENS, COLUMNS)


def test_draws_follow_the_tempered_distribution():
    hidden, weight, bias = (tensor.detach() for tensor in tensors())
    actions = OneToken(samples=50_000, temperature=1.3)
    count = frequencies(hidden, weight, bias, actions)
    assert (count.sum(1) == actions.samples).all()
    expected = actions.samples * torch.softmax(dense_logits(hidden, weight, bias) / 1.3, dim=-1)
    likely = expected > 5
    chi_square = float(((count - expected).square() / expected)[likely].sum())
    freedom = int(likely.sum()) - TOKENS
    assert freedom > 500
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)
    untempered = actions.samples * torch.softmax(dense_logits(hidden, weight, bias), dim=-1)
    assert float(((count - untempered).square() / untempered)[likely].sum()) > 10 * freedom


def test_the_average_score_and_gradient_of_many_draws_are_those_of_the_exact_form():
    results = []
    for actions in (OneToken(samples=100_000, miss=-0.5), OneToken(form="exact", miss=-0.5)):
        hidden, weight, bias = tensors()
        found = one_token_scores(hidden, weight, TARGET, rollouts(actions), bias_V=bias)
        found[2].sum().backward()
        results.append((found[2].detach(), found[3], bias.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0.02)
    logits = dense_logits(*tensors())
    needed = -expected_gradient(logits, TARGET, 1.3, -0.5).sum(0)
    torch.testing.assert_close(results[1][2], needed.detach(), rtol=1e-9, atol=1e-12)


def test_a_tokens_numbers_depend_on_its_sequences_seed_and_its_place_alone():
    keys = rollouts(OneToken()).key_N
    assert torch.equal(keys[3:], rollouts(OneToken(), seeds=(12.0,), sizes=(4,)).key_N)
    assert torch.equal(uniforms(keys, 8)[:, :3], uniforms(keys, 3))
    many = uniforms(
        token_keys(torch.arange(50.0, dtype=torch.float64), torch.arange(50).repeat_interleave(40)), 50
    )
    assert float(many.min()) > 0 and float(many.max()) <= 1
    assert len(many.unique()) == many.numel()
    assert float(many.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(many.var()) == pytest.approx(1 / 12, abs=0.001)
    centred = many - 0.5
    for other in (centred.roll(1, 0), centred.roll(1, 1), centred.roll(40, 0)):  # token, draw, sequence
        assert abs(float((centred * other).mean()) * 12) < 0.02


def test_the_hash_is_splitmix64():
    # The generator's first outputs from state 1234567, as published with it.
    needed = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = [float(u) * 2**53 - 1 for u in uniforms(torch.tensor([1234567]), 4)[0]]
    assert found == [float(value >> 11) for value in needed]
