"""Key-value storage for rows of different lengths: one slot per row, one write position per row."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, heads, capacity, head size] each."""

    is_sliding = False

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zeros: a masked column is still multiplied by its weight of zero, so it must be finite."""
        self.keys, self.values = (
            x.new_zeros(self._step.slots, x.shape[1], self._step.capacity, x.shape[3])
            for x in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store one new column per active row; return the columns in use of the active rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step, index = self._step, self._step.index(key_states.shape[1])
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            size = store.shape[-1]
            store.view(-1, size).index_copy_(0, index, new.reshape(-1, size))
        return self.keys[: step.rows, :, : step.width], self.values[: step.rows, :, : step.width]

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store a prefix [rows, heads, columns, head size] from column 0 of each slot on."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys[slots, :, : keys.shape[2]] = keys
        self.values[slots, :, : values.shape[2]] = values

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy the columns in use of some slots over others."""
        for store in (self.keys, self.values):
            store[target, :, : self._step.width] = store[source, :, : self._step.width]

    def grow(self) -> None:
        """Take the step's new numbers of slots and columns; what is stored stays."""
        old = self.keys, self.values
        self.lazy_initialization(*old)
        for store, kept in zip((self.keys, self.values), old, strict=True):
            store[: kept.shape[0], :, : kept.shape[2]] = kept

    def get_seq_length(self) -> int:
        """The columns before the one being written; rows differ, callers must pass position ids."""
        return self._step.width - 1

    def get_max_length(self) -> int:
        """No fixed limit: the storage grows."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns in use, offset)."""
        return self._step.width, 0


class Step:
    """What all layers share during one decoding step.

    Attributes:
        slots, capacity: the allocated rows and columns.
        rows: active rows, the first ones.
        width: columns in use, the longest active row's length.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self.rows, self.width = 0, 0
        self._position_B = torch.empty(0, dtype=torch.int64)
        self._index: dict[int, Tensor] = {}

    def begin(self, position_B: Tensor, width: int) -> None:
        self.rows, self.width = len(position_B), width
        self._position_B = position_B
        self._index.clear()

    def index(self, heads: int) -> Tensor:
        """int64 [rows * heads], where each row's new column lies in the flattened storage."""
        if heads not in self._index:
            lane = torch.arange(self.rows * heads, device=self._position_B.device).view(-1, heads)
            self._index[heads] = (lane * self.capacity + self._position_B[:, None]).view(-1)
        return self._index[heads]


class SlotCache(Cache):
    """The cache of a batch whose rows come, go and grow independently.

    Active rows are always the first slots. The attention mask is the caller's to pass
    (`mask`), as are the position ids.

    Args:
        capacity: columns allocated at first.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(layers=[])
        self.step = Step(1, capacity)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store one column per active row in the layer; return the columns in use."""
        return self._layer(layer_idx).update(key_states, value_states)

    def begin_step(self, position_B: Tensor, width: int) -> None:
        """Set where each active row writes next (`position_B`, int64) and how wide the rows are then."""
        self.reserve(len(position_B), width)
        self.step.begin(position_B, width)

    def store(self, slots: Tensor, prefix: DynamicCache, rows: Tensor) -> None:
        """Copy the computed prefixes `rows` of `prefix` into `slots`, for which there is room (`reserve`)."""
        self.reserve(self.step.slots, prefix.layers[0].keys.shape[2])
        for i, layer in enumerate(prefix.layers):
            self._layer(i).fill(slots, layer.keys[rows], layer.values[rows])

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for so many rows of so many columns; what grows is doubled at least."""
        step = self.step
        if slots > step.slots or columns > step.capacity:
            if slots > step.slots:
                step.slots = max(slots, 2 * step.slots)
            if columns > step.capacity:
                step.capacity = max(columns, 2 * step.capacity)
            for layer in self.layers:
                layer.grow()

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows over others."""
        for layer in self.layers:
            layer.move(source, target)

    def mask(self, position_B: Tensor, dtype: torch.dtype) -> Tensor:
        """Additive mask [rows, 1, 1, width]: row b sees columns 0..position_B[b]."""
        column_T = torch.arange(self.step.width, device=position_B.device)
        hidden_BT = column_T > position_B[:, None]
        mask_BT = torch.zeros(hidden_BT.shape, dtype=dtype, device=position_B.device)
        return mask_BT.masked_fill_(hidden_BT, torch.finfo(dtype).min)[:, None, None]

    def _layer(self, index: int) -> SlotLayer:
        while len(self.layers) <= index:
            self.layers.append(SlotLayer(self.step))
        return self.layers[index]
