"""ValueNetwork: a backbone and a linear head that tells the value of every state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlpost.data.collate import ModelInputs
from rlpost.errors import ConfigError
from rlpost.learner.backbone import checkpoint_layers, hidden_states, proof_inputs
from rlpost.learner.microbatch import Layout, lay_out
from rlpost.learner.packed_attention import use_packed_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROOF_TOLERANCE = 1e-3
"""Largest difference of hidden states between the backbone alone and in a layout, relative to the largest."""


class ValueNetwork(nn.Module):
    """V [N, K] of the state before each response token, from the hidden state that predicts the token.

    Parameters stay float32 and the backbone computes in `compute_dtype`, as in `Policy`; the head computes
    in float32. `use_layout` comes before the first forward pass.

    Args:
        decoder: of a causal LM, in float32, on its device.
        head: of `value_head`, on the same device.
        compute_dtype: float32 or bfloat16.
        gradient_checkpointing: recompute each decoder layer in the backward pass.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        head: nn.Linear,
        *,
        compute_dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.head = decoder.eval(), head
        self.compute_dtype = compute_dtype
        self._attention = decoder.config._attn_implementation
        if gradient_checkpointing:
            checkpoint_layers(decoder)

    @torch.no_grad()
    def use_layout(self, layout: Layout) -> None:
        """Read micro-batches in this layout, after proving that the hidden states stay the backbone's own.

        Raises:
            ConfigError: they do not.
        """
        self.layout: Layout = layout
        self.backbone.set_attn_implementation(self._attention)
        inputs = proof_inputs(self.backbone.config.get_text_config().vocab_size)
        needed_ND = self._own_hidden(inputs)
        if layout == "packed":
            use_packed_attention(self.backbone)
        found_ND = hidden_states(self.backbone, lay_out(inputs, layout), self.head.weight.dtype)
        gap = float((found_ND - needed_ND).abs().max() / needed_ND.abs().max().clamp(min=1.0))
        # A NaN compares false with everything, so it must not be sought with `>`.
        if not gap <= PROOF_TOLERANCE:
            raise ConfigError(
                f"the critic's hidden states in the {layout} layout are not the model's own",
                where=f"critic.init, a {type(self.backbone).__name__}",
                found=f"a relative gap of {gap:.3g}",
                needed=f"at most {PROOF_TOLERANCE:g}",
                remedy="set train.layout: padded, for layers that do not keep within packed rows",
            )

    def values(self, inputs: ModelInputs) -> Tensor:
        """V [N, K] of the rows' response tokens, float32; one forward pass."""
        hidden_ND = hidden_states(self.backbone, lay_out(inputs, self.layout), self.compute_dtype)
        values_NK: Tensor = self.head(hidden_ND.to(self.head.weight.dtype))
        return values_NK

    def _own_hidden(self, inputs: ModelInputs) -> Tensor:
        """The proof's hidden states, each sequence alone."""
        pieces = []
        for prompt, response in zip(inputs.prompt_ids, inputs.response_ids, strict=True):
            row = torch.cat([prompt, response]).to(self.backbone.device)[None]
            pieces.append(self.backbone(input_ids=row, use_cache=False)[0][0, len(prompt) - 1 : -1])
        return torch.cat(pieces)


def value_head(decoder: PreTrainedModel, heads: int, device: torch.device) -> nn.Linear:
    """K linear heads on the decoder's hidden states, all zero: every value is 0 until something is learnt."""
    width = decoder.config.get_text_config().hidden_size
    head: nn.Linear = nn.utils.skip_init(nn.Linear, width, heads, device=device, dtype=decoder.dtype)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head
