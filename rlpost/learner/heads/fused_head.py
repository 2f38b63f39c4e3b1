"""Log-probabilities and entropy of tokens, straight from hidden states, a block of logits at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from rlpost.learner.heads.logit_blocks import HeadSettings, LogitBlocks, locate, logit_gradient, summarise


def head_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    with_entropy_grad: bool = False,
    block_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of each distribution, in nats.

    The distribution of token n is `softmax(z_n / temperature)` with the logits
    `z_n = weight @ hidden_n + bias`, or `softcap * tanh(z_n / softcap)` of them (Gemma 2, section 2).

    Args:
        hidden_ND: the last hidden states; their dtype is what the matrix multiplications read
            on an accelerator. On a CPU, low-precision operands are widened to float32.
        weight_VD: the output embedding, any floating dtype.
        target_N: int64, the token whose log-prob is wanted.
        with_entropy_grad: let the entropy carry gradient. It costs the backward pass a second block.
        block_bytes: memory for one block of logits, of which one or two exist at a time; by default
            `CPU_BLOCK_BYTES` or `ACCELERATOR_BLOCK_BYTES`.

    Returns:
        (logprob_N, entropy_N) in float32, or float64 where `hidden_ND` is float64.
    """
    settings = HeadSettings.of(
        hidden_ND,
        weight_VD,
        target_N,
        temperature=temperature,
        softcap=softcap,
        block_bytes=block_bytes,
    )
    # Autocast would silently turn the float32 matrix multiplications inside into bfloat16 ones.
    with torch.autocast(hidden_ND.device.type, enabled=False):
        logprob_N, entropy_N = _FusedHead.apply(
            hidden_ND, weight_VD, bias_V, target_N, settings, with_entropy_grad
        )
    return logprob_N, entropy_N


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, target_N, settings, with_entropy_grad):
        found = summarise(LogitBlocks(hidden_ND, weight_VD, bias_V, settings), target_N)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, found.logsumexp_N, found.entropy_N)
        ctx.settings, ctx.with_entropy_grad = settings, with_entropy_grad
        if not with_entropy_grad:
            ctx.mark_non_differentiable(found.entropy_N)
        return found.logprob_N, found.entropy_N

    @staticmethod
    def backward(ctx, grad_logprob_N, grad_entropy_N):
        hidden_ND, weight_VD, bias_V, target_N, logsumexp_N, entropy_N = ctx.saved_tensors
        # Gradients with respect to the logits before the temperature divides them.
        grad_logprob_N = grad_logprob_N / ctx.settings.temperature
        grad_entropy_N = grad_entropy_N / ctx.settings.temperature if ctx.with_entropy_grad else None

        def gradient(z_NB: Tensor, start: int, stop: int) -> Tensor:
            g_NB = logit_gradient(z_NB, logsumexp_N, grad_logprob_N, grad_entropy_N, entropy_N)
            inside_N, column_N = locate(target_N, start, stop)
            return g_NB.scatter_add_(1, column_N[:, None], (grad_logprob_N * inside_N)[:, None])

        blocks = LogitBlocks(hidden_ND, weight_VD, bias_V, ctx.settings)
        return (*blocks.pull_back(gradient, ctx.needs_input_grad[:3]), None, None, None)
