"""Attention within the rows of a packed sequence, registered with transformers.

A block-diagonal mask over [L, L] would make 256 short rows in one micro-batch cost 256 times the
attention they need. Instead the rows are laid one below the other for the attention alone, in groups of
like length: right padding and a causal kernel then need no mask. Everything else in the model stays packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "rlpost_packed"
"""The name of this attention in transformers' registry."""

GROUP_RATIO = 1.25
"""The longest row of a group is at most this much longer than its shortest."""


@dataclass(frozen=True)
class RowGroup:
    """Rows of like length: `index` int64 [rows * width] says which packed token each place holds."""

    index: Tensor
    rows: int
    width: int


@dataclass(frozen=True)
class PackedRows:
    """Where the rows lie in a packed sequence of L tokens.

    Attributes:
        groups: the rows by like length.
        place_L: int64 [L], the place of each packed token among the groups' places, end to end.
    """

    groups: tuple[RowGroup, ...]
    place_L: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> PackedRows:
        """The layout of rows of these lengths (none 0), packed in this order."""
        starts = torch.tensor((0, *lengths), dtype=torch.int64).cumsum(0)
        groups, place_L, offset = [], torch.empty(int(starts[-1]), dtype=torch.int64), 0
        for rows in _like_length(lengths):
            width = max(lengths[row] for row in rows)
            start_R1 = starts[rows][:, None]
            length_R1 = torch.tensor([lengths[row] for row in rows])[:, None]
            within_1W = torch.arange(width)[None]
            # A place beyond a row's end repeats its last token: causality hides it from the others.
            index_RW = start_R1 + torch.minimum(within_1W, length_R1 - 1)
            real_RW = within_1W < length_R1
            places_RW = offset + torch.arange(len(rows) * width).view(len(rows), width)
            place_L[index_RW[real_RW]] = places_RW[real_RW]
            groups.append(RowGroup(index_RW.flatten().to(device), len(rows), width))
            offset += len(rows) * width
        return cls(tuple(groups), place_L.to(device))


def _like_length(lengths: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        if groups and lengths[groups[-1][0]] <= GROUP_RATIO * lengths[row]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let the model's attention layers keep within rows; forward calls must pass `packed_rows`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_rows: PackedRows | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA of [1, heads, L, head size] within each row; returns [1, L, heads, head size].

    Raises:
        ValueError: the model was called without `packed_rows`, or on more than one packed sequence.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packed_rows is None or query.shape[0] != 1:
        raise ValueError("packed attention needs one packed sequence and its `packed_rows`")
    tokens = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    outputs = []
    for group in packed_rows.groups:
        laid_out = [
            tensor.index_select(0, group.index).unflatten(0, (group.rows, group.width)).transpose(1, 2)
            for tensor in tokens
        ]
        mask = _window_mask(group.width, sliding_window, query.device)
        output, _ = sdpa_attention_forward(
            module, *laid_out, attention_mask=mask, dropout=dropout, is_causal=True, **options
        )
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs).index_select(0, packed_rows.place_L)[None], None


def _window_mask(width: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    if sliding_window is None or width <= sliding_window:
        return None
    distance = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)[None]
    return ((distance >= 0) & (distance < sliding_window))[None, None]
