"""LogitBlocks: the logits of a head, a block of columns at a time, walked forwards and backwards.

The logits [N, V] of 4,096 tokens and a vocabulary of 152k take 2.3 GiB in float32, and a straightforward
head keeps several copies of them. Here the vocabulary is walked in blocks of columns, in the forward pass
with a running log-sum-exp (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax") and again
in the backward pass, so that only one or two blocks of logits exist at any time. Blocks of columns, rather
than of tokens, mean that the weight is read once and each row of its gradient is written once, which also
spares a float32 accumulator for weights of lower precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CPU_BLOCK_BYTES = 16 * 2**20
"""One block of logits on a CPU; it should stay in the last-level cache between the passes over it."""

ACCELERATOR_BLOCK_BYTES = 128 * 2**20
"""One block of logits on an accelerator; smaller ones would leave it waiting for kernel launches."""

MIN_BLOCK_COLUMNS = 128
"""Narrower blocks would starve the matrix multiplication; 64 MiB hold 131,072 tokens at this width."""


@dataclass(frozen=True)
class HeadSettings:
    """How logits become a distribution, and the memory for one block of them.

    Attributes:
        softcap: the bound of `softcap * tanh(z / softcap)` (Gemma 2, section 2); None for none.
    """

    temperature: float
    softcap: float | None
    block_bytes: int

    @staticmethod
    def of(
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        *,
        temperature: float,
        softcap: float | None,
        block_bytes: int | None,
    ) -> HeadSettings:
        """The settings of a head, after a look at what it is given.

        Raises:
            ValueError: shapes that do not fit, or a temperature that is not positive.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        if target_N.shape != hidden_ND.shape[:1] or weight_VD.shape[1:] != hidden_ND.shape[1:]:
            raise ValueError(
                f"shapes do not fit: hidden {tuple(hidden_ND.shape)}, weight {tuple(weight_VD.shape)}, "
                f"target {tuple(target_N.shape)}"
            )
        if block_bytes is None:
            block_bytes = CPU_BLOCK_BYTES if hidden_ND.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
        return HeadSettings(temperature, softcap, block_bytes)


class LogitBlocks:
    """The logits of a block of columns, divided by the temperature, and what they are made of.

    Args:
        spans: start and stop of each block, those of another's walk; None cuts by `settings.block_bytes`.
    """

    def __init__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        settings: HeadSettings,
        spans: list[tuple[int, int]] | None = None,
    ) -> None:
        self.dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        self.operand_dtype = hidden_ND.dtype if hidden_ND.is_cuda else self.dtype
        self.hidden_ND = hidden_ND.to(self.operand_dtype)
        self._own_dtype = hidden_ND.dtype
        self._weight_VD, self._bias_V, self._settings = weight_VD, bias_V, settings
        columns, itemsize = weight_VD.shape[0], torch.finfo(self.dtype).bits // 8
        width = settings.block_bytes // (itemsize * max(1, hidden_ND.shape[0]))
        width = min(columns, max(MIN_BLOCK_COLUMNS, width))
        cut = [(start, min(start + width, columns)) for start in range(0, columns, width)]
        self.spans = cut if spans is None else spans
        # One block's memory serves all: to fetch fresh pages for each would cost a CPU more than a pass.
        self._block, self._scratch = None, None

    @property
    def width(self) -> int:
        """Columns of a block, the last of which may be narrower."""
        return self.spans[0][1] - self.spans[0][0]

    def logits(self, start: int, stop: int) -> Tensor:
        """The block of the columns from `start` to `stop`; the block before it is lost."""
        if self._block is None:
            self._block = self._new_block()
        z_NB = self._view(self._block, stop - start)
        self._multiply(self.hidden_ND, self._weight(start, stop).T, out=z_NB)
        if self._bias_V is not None:
            z_NB.add_(self._bias_V[start:stop])
        if self._settings.softcap is not None:
            z_NB.div_(self._settings.softcap).tanh_().mul_(self._settings.softcap)
        if self._settings.temperature != 1.0:
            z_NB.div_(self._settings.temperature)
        return z_NB

    def scratch(self, z_NB: Tensor) -> Tensor:
        """A second block of the shape of `z_NB`; what it held before is lost."""
        if self._scratch is None:
            self._scratch = self._new_block()
        return self._view(self._scratch, z_NB.shape[1])

    def pull_back(
        self, gradient: Callable[[Tensor, int, int], Tensor], wanted: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of hidden states, weight and bias, where `wanted`, from those of the logits.

        Args:
            gradient: makes, of a block of logits and its columns' start and stop, the gradient with respect
                to the logits before the temperature divides them; it may overwrite the block.
        """
        wants_hidden, wants_weight, wants_bias = wanted
        grad_hidden_ND = torch.zeros_like(self.hidden_ND, dtype=self.dtype) if wants_hidden else None
        grad_weight_VD = torch.empty_like(self._weight_VD) if wants_weight else None
        grad_bias_V = torch.empty_like(self._bias_V) if wants_bias else None
        for start, stop in self.spans:
            z_NB = self.logits(start, stop)
            slope_NB = self._softcap_slope(z_NB)
            g_NB = gradient(z_NB, start, stop)
            if slope_NB is not None:
                g_NB.mul_(slope_NB)
            if grad_bias_V is not None:
                grad_bias_V[start:stop] = g_NB.sum(dim=0)
            operand_NB = g_NB.to(self.operand_dtype)
            if grad_hidden_ND is not None:
                self._add_product(grad_hidden_ND, operand_NB, self._weight(start, stop))
            if grad_weight_VD is not None:
                self._multiply(operand_NB.T, self.hidden_ND, out=grad_weight_VD[start:stop])
        if grad_hidden_ND is not None:
            grad_hidden_ND = grad_hidden_ND.to(self._own_dtype)
        return grad_hidden_ND, grad_weight_VD, grad_bias_V

    def _weight(self, start: int, stop: int) -> Tensor:
        return self._weight_VD[start:stop].to(self.operand_dtype)

    def _softcap_slope(self, z_NB: Tensor) -> Tensor | None:
        """Derivative of the soft cap at the logits `z_NB`: 1 - tanh^2."""
        if self._settings.softcap is None:
            return None
        tanh_NB = z_NB * (self._settings.temperature / self._settings.softcap)
        return tanh_NB.square_().neg_().add_(1.0)

    def _new_block(self) -> Tensor:
        size = self.hidden_ND.shape[0] * self.width
        return torch.empty(size, dtype=self.dtype, device=self.hidden_ND.device)

    def _view(self, block: Tensor, width: int) -> Tensor:
        tokens = self.hidden_ND.shape[0]
        return block[: tokens * width].view(tokens, width)

    def _multiply(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """`out = a @ b`, summed in `dtype` whatever the operands' precision."""
        if a.dtype == self.dtype == out.dtype:
            torch.mm(a, b, out=out)
        else:
            out.copy_(self._product(a, b))

    def _add_product(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """`total += a @ b`, likewise; `total` is in `dtype`."""
        if a.dtype == self.dtype:
            total.addmm_(a, b)
        else:
            total.add_(self._product(a, b))

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(a, b) if a.dtype == self.dtype else torch.mm(a, b, out_dtype=self.dtype)


class Watcher(Protocol):
    """What goes along on the walk of `summarise` to sum something of its own."""

    def see(self, z_NB: Tensor, change_N: Tensor, scratch_NB: Tensor) -> None:
        """Take in a block of logits less the largest so far, which has grown by `-change_N`.

        `scratch_NB` may be overwritten, `z_NB` may not.
        """
        ...


@dataclass(frozen=True)
class Summary:
    """What a walk over all logits leaves of each distribution, [N] each.

    Attributes:
        max_N: the largest logit.
        target_logit_N: that of the target.
    """

    max_N: Tensor
    logsumexp_N: Tensor
    entropy_N: Tensor
    target_logit_N: Tensor

    @property
    def logprob_N(self) -> Tensor:
        """The target's log-prob."""
        return self.target_logit_N - self.logsumexp_N


def summarise(blocks: LogitBlocks, target_N: Tensor, watcher: Watcher | None = None) -> Summary:
    """Walk the vocabulary once."""
    lowest = torch.finfo(blocks.dtype).min
    max_N = torch.full(target_N.shape, lowest, dtype=blocks.dtype, device=target_N.device)
    # With e = exp(z - max): their sum, and the sum of e * (z - max), from which the entropy follows.
    sum_N, weighted_N, target_logit_N = (torch.zeros_like(max_N) for _ in range(3))
    for start, stop in blocks.spans:
        z_NB = blocks.logits(start, stop)
        inside_N, column_N = locate(target_N, start, stop)
        z_target_N = z_NB.gather(1, column_N[:, None])[:, 0]
        target_logit_N = torch.where(inside_N, z_target_N, target_logit_N)
        new_max_N = torch.maximum(max_N, z_NB.amax(dim=1))
        change_N = max_N - new_max_N
        z_NB.sub_(new_max_N[:, None])
        e_NB = torch.exp(z_NB, out=blocks.scratch(z_NB))
        shrink_N = change_N.exp()
        weighted_N = shrink_N * (weighted_N + sum_N * change_N) + torch.linalg.vecdot(e_NB, z_NB)
        sum_N = shrink_N * sum_N + e_NB.sum(dim=1)
        max_N = new_max_N
        if watcher is not None:
            watcher.see(z_NB, change_N, e_NB)
    log_sum_N = sum_N.log()
    return Summary(max_N, max_N + log_sum_N, log_sum_N - weighted_N / sum_N, target_logit_N)


def locate(target_N: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Which targets lie in the block, and their column in it (any column where they do not)."""
    inside_N = (target_N >= start) & (target_N < stop)
    return inside_N, (target_N - start).clamp(0, stop - start - 1)


def logit_gradient(
    z_NB: Tensor,
    logsumexp_N: Tensor,
    grad_logprob_N: Tensor,
    grad_entropy_N: Tensor | None,
    entropy_N: Tensor,
) -> Tensor:
    """Gradient with respect to the scaled logits, but for the target's own +1; overwrites `z_NB`.

    d logprob / d z_v = [v = target] - p_v   and   d entropy / d z_v = -p_v (log p_v + entropy).

    Args:
        grad_entropy_N: None where the entropy carries no gradient.
    """
    logp_NB = z_NB.sub_(logsumexp_N[:, None])
    if grad_entropy_N is None:
        return logp_NB.exp_().mul_(-grad_logprob_N[:, None])
    p_NB = logp_NB.exp()
    logp_NB.add_(entropy_N[:, None]).mul_(grad_entropy_N[:, None]).add_(grad_logprob_N[:, None])
    return p_NB.mul_(logp_NB).neg_()
