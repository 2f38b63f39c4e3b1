"""Scores of one-token rollouts (OTR, arXiv 2509.26313), straight from hidden states.

Every position of a demonstration is an episode of one token: K tokens are drawn from softmax(z / kappa), and
the score is the mean of R(a) log pi(a), with R = 1 for the demonstration's token and `miss` for any other.
The vocabulary is walked as in the fused head, a block at a time: once for the sums, once more to draw (the
exact form needs no draws), and backwards with d score / d z = c - (sum c) softmax(z), where c_a is R(a) times
a's share of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlpost.estimator import Objective, OneToken, Prepared
from rlpost.learner.heads.logit_blocks import (
    HeadSettings,
    LogitBlocks,
    Summary,
    locate,
    logit_gradient,
    summarise,
)
from rlpost.learner.heads.one_token_draws import Misses, draw_misses
from rlpost.learner.heads.token_draws import token_keys


@dataclass(frozen=True)
class Rollouts:
    """The positions that try one-token rollouts.

    Attributes:
        tried_N: bool, which positions.
        key_N: int64, what each position draws with (`token_keys`); the exact form reads none.
    """

    actions: OneToken
    tried_N: Tensor
    key_N: Tensor

    @staticmethod
    def of(objective: Objective, prepared: Prepared) -> Rollouts | None:
        """Those that an objective needs of some rows; None where it reads log-probs alone."""
        actions, batch = objective.actions, prepared.batch
        if actions is None:
            return None
        tried_N = torch.zeros_like(batch.mask_N)
        for term, fixed in zip(objective.terms, prepared.terms, strict=True):
            if not term.actions.is_taken:
                tried_N |= fixed.weight_N != 0
        key_N = batch.sequence_N
        if actions.form == "sampled":
            key_N = token_keys(batch.sequence_signal("draw_seed"), batch.sequence_N)
        return Rollouts(actions, tried_N, key_N)


def one_token_scores(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    rollouts: Rollouts,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    with_entropy_grad: bool = False,
    block_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `head_logprobs` gives, and the scores of one-token rollouts.

    The arguments are those of `head_logprobs`. Beside its blocks it needs 16 bytes a draw, and a copy of the
    hidden states where not all positions are tried.

    Returns:
        (logprob_N, entropy_N, score_N, hit_N): scores carry gradient. Hits, which carry none, are the share
        of draws that were the target, in the exact form the probability of one. Both are 0 where nothing
        is tried.
    """
    settings = HeadSettings.of(
        hidden_ND,
        weight_VD,
        target_N,
        temperature=temperature,
        softcap=softcap,
        block_bytes=block_bytes,
    )
    if rollouts.actions.form == "sampled":
        # While tokens are drawn, a block of sums in float64 stands beside two of logits.
        settings = replace(settings, block_bytes=settings.block_bytes // 2)
    # Autocast would silently turn the float32 matrix multiplications inside into bfloat16 ones.
    with torch.autocast(hidden_ND.device.type, enabled=False):
        found: tuple[Tensor, Tensor, Tensor, Tensor] = _OneTokenHead.apply(
            hidden_ND, weight_VD, bias_V, target_N, rollouts, settings, with_entropy_grad
        )
    return found


class _OneTokenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, target_N, rollouts, settings, with_entropy_grad):
        actions, tried_N = rollouts.actions, rollouts.tried_N
        blocks, tempered = LogitBlocks(hidden_ND, weight_VD, bias_V, settings), _Tempered(actions)
        found = summarise(blocks, target_N, tempered)
        if actions.form == "exact":
            hit_N, score_N = (value_N * tried_N for value_N in tempered.expectation(found))
            misses = Misses.none(target_N.device, len(blocks.spans))
        else:
            if not bool(tried_N.all()):
                blocks = LogitBlocks(hidden_ND[tried_N], weight_VD, bias_V, settings, spans=blocks.spans)
            misses, hit_N, score_N = _sampled(blocks, target_N, rollouts, found, tempered.sum_N)
        ctx.save_for_backward(
            *(hidden_ND, weight_VD, bias_V, target_N, tried_N, found.logsumexp_N, found.entropy_N),
            *(hit_N, tempered.logsumexp(found), misses.row_M, misses.token_M),
        )
        ctx.actions, ctx.ends, ctx.settings = actions, misses.ends, settings
        ctx.with_entropy_grad = with_entropy_grad
        ctx.mark_non_differentiable(hit_N, *(() if with_entropy_grad else (found.entropy_N,)))
        return found.logprob_N, found.entropy_N, score_N.to(blocks.dtype), hit_N

    @staticmethod
    def backward(ctx, grad_logprob_N, grad_entropy_N, grad_score_N, _):
        hidden_ND, weight_VD, bias_V, target_N, tried_N, logsumexp_N, entropy_N, *drawn = ctx.saved_tensors
        hit_N, tempered_logsumexp_N, row_M, token_M = drawn
        actions, misses = ctx.actions, Misses(row_M, token_M, ctx.ends)
        exact = actions.form == "exact"
        blocks = LogitBlocks(hidden_ND, weight_VD, bias_V, ctx.settings)
        # Gradients with respect to the logits before the temperature divides them.
        grad_logprob_N = grad_logprob_N / ctx.settings.temperature
        grad_entropy_N = grad_entropy_N / ctx.settings.temperature if ctx.with_entropy_grad else None
        grad_score_N = grad_score_N * tried_N / ctx.settings.temperature
        miss_N = actions.miss * grad_score_N
        both_N = grad_logprob_N + hit_N * grad_score_N + (1.0 - hit_N) * miss_N
        # The exact form's share of misses is spread over the whole vocabulary, the target with it.
        hit_N = hit_N * (grad_score_N - miss_N if exact else grad_score_N) + grad_logprob_N
        miss_N = miss_N if exact else miss_N / actions.samples

        def gradient(z_NB: Tensor, start: int, stop: int) -> Tensor:
            if exact:
                q_NB = torch.div(z_NB, actions.temperature, out=blocks.scratch(z_NB))
                q_NB.sub_(tempered_logsumexp_N[:, None]).exp_().mul_(miss_N[:, None])
            g_NB = logit_gradient(z_NB, logsumexp_N, both_N, grad_entropy_N, entropy_N)
            inside_N, column_N = locate(target_N, start, stop)
            g_NB.scatter_add_(1, column_N[:, None], (hit_N * inside_N)[:, None])
            if exact:
                return g_NB.add_(q_NB)
            row_M, token_M = misses.of_block(start // blocks.width)
            g_NB.view(-1).index_add_(0, row_M * (stop - start) + token_M - start, miss_N[row_M])
            return g_NB

        return (*blocks.pull_back(gradient, ctx.needs_input_grad[:3]), None, None, None, None)


class _Tempered:
    """Sums of q = exp((z - max) / kappa) along the first walk, float64 [N] each."""

    def __init__(self, actions: OneToken) -> None:
        self._actions = actions
        self.sum_N, self._weighted_N = torch.zeros(()), torch.zeros(())

    def see(self, z_NB: Tensor, change_N: Tensor, scratch_NB: Tensor) -> None:
        q_NB = torch.div(z_NB, self._actions.temperature, out=scratch_NB).exp_()
        change_N = change_N.to(torch.float64)
        shrink_N = (change_N / self._actions.temperature).exp()
        if self._actions.form == "exact":
            block_N = torch.linalg.vecdot(q_NB, z_NB)
            self._weighted_N = shrink_N * (self._weighted_N + self.sum_N * change_N) + block_N
        self.sum_N = shrink_N * self.sum_N + q_NB.sum(dim=1)

    def expectation(self, found: Summary) -> tuple[Tensor, Tensor]:
        """The target's probability, and the expected score, each [N] in the logits' precision."""
        gap_N = (found.target_logit_N - found.max_N).to(torch.float64)
        probability_N = (gap_N / self._actions.temperature).exp() / self.sum_N
        mean_logp_N = self._weighted_N / self.sum_N + (found.max_N - found.logsumexp_N)
        miss = self._actions.miss
        score_N = (1.0 - miss) * probability_N * found.logprob_N + miss * mean_logp_N
        return probability_N.to(found.max_N.dtype), score_N.to(found.max_N.dtype)

    def logsumexp(self, found: Summary) -> Tensor:
        """Of z / kappa [N], in the logits' precision."""
        total_N = found.max_N / self._actions.temperature + self.sum_N.log()
        return total_N.to(found.max_N.dtype)


def _sampled(
    blocks: LogitBlocks, target_N: Tensor, rollouts: Rollouts, found: Summary, total_N: Tensor
) -> tuple[Misses, Tensor, Tensor]:
    """Misses, the share of hits [N] and the score [N]; `blocks` are of the positions that try."""
    actions, tried_N = rollouts.actions, rollouts.tried_N
    index_W = tried_N.nonzero(as_tuple=True)[0]
    misses, missed_W = draw_misses(
        blocks,
        target_N[index_W],
        rollouts.key_N[index_W],
        actions,
        max_W=found.max_N[index_W],
        total_W=total_N[index_W],
        logsumexp_W=found.logsumexp_N[index_W],
    )
    misses = replace(misses, row_M=index_W.to(torch.int32)[misses.row_M])
    count_N = torch.bincount(misses.row_M, minlength=len(target_N))
    hit_N = (1.0 - count_N.to(found.max_N.dtype) / actions.samples) * tried_N
    missed_N = torch.zeros_like(total_N).index_copy(0, index_W, missed_W)
    score_N = hit_N * found.logprob_N + (actions.miss / actions.samples) * missed_N
    return misses, hit_N, score_N
