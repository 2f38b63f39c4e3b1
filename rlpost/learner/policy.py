"""Policy: a causal LM read as what it is to the learner, log-probs and entropies of response tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlpost.data.collate import ModelInputs
from rlpost.errors import ConfigError, DataError
from rlpost.learner.backbone import checkpoint_layers, hidden_states, proof_inputs
from rlpost.learner.heads.fused_head import head_logprobs
from rlpost.learner.heads.one_token_head import Rollouts, one_token_scores
from rlpost.learner.microbatch import Layout, cut, lay_out
from rlpost.learner.packed_attention import use_packed_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Forward = Callable[[ModelInputs, float], tuple[Tensor, ...]]
"""Log-prob and entropy [N] of the rows' response tokens at a temperature."""

PROOF_TOLERANCE = 1e-3
"""Largest |log-prob difference| between the model's own float32 forward pass and the policy's."""


class Policy:
    """The backbone, then the fused head at the positions that predict response tokens.

    Parameters stay float32. With `compute_dtype` bfloat16 the forward pass runs under autocast: the
    optimizer keeps steps of 1e-6 that bfloat16 weights would round away. The model stays in evaluation
    mode, so dropout is off and log-probs are those of the distribution that was sampled.

    Args:
        model: in float32 (or float64), on its device.
        compute_dtype: float32 or bfloat16, of activations and matrix products.
        layout: "packed" or "padded".
        gradient_checkpointing: recompute each decoder layer in the backward pass.

    Raises:
        ConfigError: the policy's log-probs are not the model's own: its attention does not keep within
            packed rows, or its logits are transformed in a way the head does not know.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        compute_dtype: torch.dtype = torch.float32,
        layout: Layout = "packed",
        gradient_checkpointing: bool = False,
    ) -> None:
        self.model = model.eval()
        self.compute_dtype = compute_dtype
        self._logit_scale, self._softcap = _logit_transform(model.config.get_text_config())
        self.attention = model.config._attn_implementation
        if gradient_checkpointing:
            checkpoint_layers(model)
        self.use_layout(layout)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def use_layout(self, layout: Layout) -> None:
        """Read micro-batches in this layout, after proving that the model's log-probs stay its own."""
        self.layout: Layout = layout
        self.model.set_attn_implementation(self.attention)
        needed = self._own_logprobs()
        if layout == "packed":
            use_packed_attention(self.model)
        gap = float((self._proof_logprobs() - needed).abs().max())
        # A NaN compares false with everything, so it must not be sought with `>`.
        if not gap <= PROOF_TOLERANCE:
            raise ConfigError(
                f"the learner's log-probs in the {layout} layout are not the model's own",
                where=f"model.init, a {type(self.model).__name__}",
                found=f"a gap of {gap:.3g} nats",
                needed=f"at most {PROOF_TOLERANCE:g}",
                remedy="set train.layout: padded, for layers that do not keep within packed rows"
                if layout == "packed"
                else "this architecture transforms its logits in a way the learner does not know",
            )

    def logprobs(
        self,
        inputs: ModelInputs,
        temperature: float,
        *,
        with_entropy_grad: bool = False,
        rollouts: Rollouts | None = None,
    ) -> tuple[Tensor, ...]:
        """Log-prob and entropy [N] of every response token, in nats; one forward pass.

        In float32 (float64 for a float64 model), with gradient where the model's parameters have it.

        Args:
            rollouts: positions that try one-token rollouts; their scores and shares of hits [N] follow
                then, as `one_token_scores` gives them.
        """
        batch = lay_out(inputs, self.layout)
        head: nn.Module = self.model.get_output_embeddings()
        _check_known(batch.target_N, head.weight.shape[0])
        hidden_ND = hidden_states(self.model.get_decoder(), batch, self.compute_dtype)
        bias_V = getattr(head, "bias", None)
        operands = (
            hidden_ND * self._logit_scale if self._logit_scale != 1.0 else hidden_ND,
            head.weight,
            batch.target_N.to(self.device),
        )
        settings = {
            "bias_V": None if bias_V is None else bias_V * self._logit_scale,
            "temperature": temperature,
            "softcap": self._softcap,
            "with_entropy_grad": with_entropy_grad,
        }
        if rollouts is None:
            return head_logprobs(*operands, **settings)
        return one_token_scores(*operands, rollouts, **settings)

    def hidden(self, inputs: ModelInputs) -> Tensor:
        """The backbone's output [N, D] at the positions that predict response tokens; one forward pass."""
        batch = lay_out(inputs, self.layout)
        return hidden_states(self.model.get_decoder(), batch, self.compute_dtype)

    @torch.no_grad()
    def all_logprobs(
        self,
        inputs: ModelInputs,
        temperature: float,
        tokens_per_microbatch: int,
        forward: Forward | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`logprobs` without gradient, over as many forward passes as the rows need; on the CPU.

        Args:
            forward: one forward pass; `logprobs` itself without one.
        """
        sizes = [len(ids) for ids in inputs.response_ids]
        if not any(sizes):
            return torch.zeros(0), torch.zeros(0)
        pieces: list[tuple[Tensor, ...]] = [(torch.zeros(0), torch.zeros(0))] * len(sizes)
        for rows in self.forward_passes(inputs, tokens_per_microbatch):
            taken = [sizes[row] for row in rows]
            answer = (forward or self.logprobs)(inputs.rows(rows), temperature)
            both = [tensor.cpu().split(taken) for tensor in answer]
            for row, *piece in zip(rows, *both, strict=True):
                pieces[row] = tuple(piece)
        logprob, entropy = zip(*pieces, strict=True)
        return torch.cat(logprob), torch.cat(entropy)

    def forward_passes(self, inputs: ModelInputs, tokens_per_microbatch: int) -> list[list[int]]:
        """Row indices of each forward pass that `all_logprobs` makes: those with a response token."""
        bins = cut(inputs.lengths, tokens_per_microbatch, self.layout)
        return [rows for rows in bins if any(len(inputs.response_ids[row]) for row in rows)]

    def frozen_copy(self) -> Policy:
        """The same policy with these weights for good, without gradient."""
        frozen = copy.copy(self)
        frozen.model = copy.deepcopy(self.model).requires_grad_(False)
        return frozen

    @torch.no_grad()
    def _own_logprobs(self) -> Tensor:
        """The proof's log-probs from the model's own logits, each sequence alone."""
        inputs, pieces = proof_inputs(self.model.get_output_embeddings().weight.shape[0]), []
        for prompt, response in zip(inputs.prompt_ids, inputs.response_ids, strict=True):
            row = torch.cat([prompt, response]).to(self.device)[None]
            logits_TV = self.model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]
            logprob_TV = torch.log_softmax(logits_TV, dim=-1)
            pieces.append(logprob_TV.gather(1, response.to(self.device)[:, None])[:, 0])
        return torch.cat(pieces)

    @torch.no_grad()
    def _proof_logprobs(self) -> Tensor:
        compute_dtype, self.compute_dtype = self.compute_dtype, self.model.dtype
        try:
            return self.logprobs(proof_inputs(self.model.get_output_embeddings().weight.shape[0]), 1.0)[0]
        finally:
            self.compute_dtype = compute_dtype


def _check_known(target_N: Tensor, vocabulary: int) -> None:
    """The model never reads a row's last token, so nothing else would notice an id it does not have."""
    if target_N.numel() and not 0 <= int(target_N.min()) <= int(target_N.max()) < vocabulary:
        raise DataError(
            "a response holds a token id that the model does not have",
            found=f"ids from {int(target_N.min())} to {int(target_N.max())}",
            needed=f"0 to {vocabulary - 1}",
            remedy="use the tokenizer that belongs to the model",
        )


def _logit_transform(config: Any) -> tuple[float, float | None]:
    """What the model multiplies its logits with, and the soft cap it puts on them.

    Cohere names the factor `logit_scale`, Falcon-H1 `lm_head_multiplier`; Granite divides by
    `logits_scaling`. Whatever else a model does is found by the proof in `Policy.use_layout`.
    """
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return scale, None if softcap is None else float(softcap)
