"""One-token rollouts on an accelerator: head and learner against the CPU and dense logits."""

import pytest
import torch

from rlpost.config.schema import ModelConfig, TinyModelConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import OneToken, TokenBatch, build_objective
from rlpost.estimator.one_token import expected_loss
from rlpost.learner import TorchLearner
from rlpost.learner.heads.one_token_head import Rollouts, one_token_scores
from rlpost.learner.heads.token_draws import token_keys

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

TOKENS, COLUMNS, WIDTH = 300, 5000, 64
TINY = TinyModelConfig(hidden_size=64, layers=2, heads=2, intermediate_size=96, max_positions=128)


def operands(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype)
    weight = (0.3 * torch.randn(COLUMNS, WIDTH, generator=generator)).to(dtype)
    return hidden, weight, torch.randint(COLUMNS, (TOKENS,), generator=generator)


def rollouts(actions, tokens=TOKENS, device="cuda") -> Rollouts:
    keys = token_keys(torch.arange(tokens, dtype=torch.float64), torch.arange(tokens))
    return Rollouts(actions, torch.ones(tokens, dtype=torch.bool, device=device), keys.to(device))


@pytest.mark.parametrize(
    ("dtype", "value_gap", "gradient_gap"), [(torch.float32, 1e-4, 1e-4), (torch.bfloat16, 1e-4, 0.02)]
)
def test_the_exact_form_on_cuda_is_the_formula_on_dense_logits_in_float64(dtype, value_gap, gradient_gap):
    hidden, weight, target = operands(dtype)
    slow = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    fast = [hidden.cuda().requires_grad_(), weight.cuda().requires_grad_()]
    needed = -expected_loss(slow[0] @ slow[1].T / 0.7, target, 1.3, -0.3)
    tried = rollouts(OneToken(form="exact", miss=-0.3))
    _, _, found, _ = one_token_scores(
        *fast, target.cuda(), tried, temperature=0.7, block_bytes=TOKENS * 512 * 4
    )
    torch.testing.assert_close(found.cpu().double(), needed, rtol=0, atol=value_gap)
    gradients = [
        torch.autograd.grad(score.sum(), leaves) for score, leaves in ((found, fast), (needed, slow))
    ]
    for a, b in zip(*gradients, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a.cpu().double() / scale, b / scale, rtol=0, atol=gradient_gap)


def test_in_float64_cuda_draws_what_the_cpu_draws():
    results = []
    for device in ("cpu", "cuda"):
        hidden, weight, target = (tensor.to(device) for tensor in operands(torch.float64))
        leaves = [hidden.requires_grad_(), weight.requires_grad_()]
        found = one_token_scores(*leaves, target, rollouts(OneToken(), device=device))
        gradients = torch.autograd.grad(found[0].sum() + found[2].sum(), leaves)
        results.append([tensor.detach().cpu() for tensor in (*found, *gradients)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_in_float32_and_bfloat16_nearly_all_draws_are_those_of_float64():
    hits = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        hidden, weight = (tensor.cuda() for tensor in operands(torch.bfloat16)[:2])
        likely = (hidden.double() @ weight.double().T).argmax(dim=1)
        found = one_token_scores(hidden.to(dtype), weight.to(dtype), likely, rollouts(OneToken()))
        hits.append(found[3].double())
    assert 0.01 < float(hits[0].mean()) < 0.99
    for other in hits[1:]:
        assert float((other - hits[0]).abs().mean()) < 1e-3


@pytest.mark.parametrize("form", ["sampled", "exact"])
def test_the_scores_on_cuda_need_a_fraction_of_the_logits_memory(form):
    tokens, columns, width = 4096, 151_936, 256
    hidden = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(columns, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target, tried = torch.randint(columns, (tokens,), device="cuda"), rollouts(OneToken(form=form), tokens)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one_token_scores(hidden, weight, target, tried)[2].sum().backward()
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    extra = torch.cuda.max_memory_allocated() - before - gradients
    assert extra < tokens * columns * 4 / 4


def arguments(form):
    """Four demonstrations of random tokens."""
    generator = torch.Generator().manual_seed(0)
    sizes = (7, 1, 12, 4)
    ids = [torch.randint(5, 261, (3 + size,), generator=generator) for size in sizes]
    inputs = ModelInputs(tuple(row[:3] for row in ids), tuple(row[3:] for row in ids))
    tokens, rows = sum(sizes), len(sizes)
    batch = TokenBatch(
        sequence_N=torch.repeat_interleave(torch.tensor(sizes)),
        mask_N=torch.ones(tokens, dtype=torch.bool),
        turn_N=torch.zeros(tokens, dtype=torch.int64),
        group_S=torch.arange(rows),
        reward_S=torch.zeros(rows, dtype=torch.float64),
        truncated_S=torch.zeros(rows, dtype=torch.bool),
        demonstration_S=torch.ones(rows, dtype=torch.bool),
        sequence_signals={"draw_seed": torch.arange(rows, dtype=torch.float64)},
    )
    objective = build_objective({"base": "otr", "actions": {"one_token": {"form": form}}})
    return inputs, objective.prepare(batch), objective, 1.0


@pytest.mark.parametrize("form", ["sampled", "exact"])
def test_a_learners_gradient_on_cuda_is_that_of_the_cpu(form):
    model = ModelConfig(init="tiny", tiny=TINY)
    found = []
    for device in ("cuda", "cpu"):
        trained = TorchLearner(model, TrainConfig(tokens_per_microbatch=20), seed=0)
        assert trained.policy.device.type == "cuda"
        trained.policy.model.double().to(device)
        measures = trained.accumulate(*arguments(form)).measures.values()
        assert 0 < measures["otr/hit_share"] < 1
        found.append([parameter.grad.cpu() for parameter in trained.policy.model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
