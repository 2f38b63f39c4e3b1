"""What a forward and backward pass of the learner keeps: transformers' layers, SDPA, the fused head.

The formulas follow the tensors that autograd saves, one decoder layer at a time; the tests count them. Under
bfloat16 the residual stream and the norms stay float32, and each linear module keeps casts of its input and
weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlpost.sizing.model_facts import ModelFacts

FLOAT32 = 4


@dataclass(frozen=True)
class Pass:
    """How the learner computes.

    Attributes:
        tokens: of the largest micro-batch.
        compute_bytes: of an activation: 2 for bfloat16, 4 for float32.
        checkpointing: whether decoder layers are computed again in the backward pass.
        packed: the layout; packed attention writes its result once more.
        on_accelerator: which block of logits the head takes.
    """

    tokens: int
    compute_bytes: int
    checkpointing: bool
    packed: bool
    on_accelerator: bool

    @property
    def low_precision(self) -> bool:
        """Whether it runs under autocast."""
        return self.compute_bytes < FLOAT32


def layer_bytes_per_token(facts: ModelFacts, run: Pass) -> int:
    """Bytes that one decoder layer keeps of one token."""
    queries, keys = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    wide, b = facts.hidden, run.compute_bytes
    # Each norm keeps what it reads, what it has normalised, and one number.
    kept = facts.norms * FLOAT32 * (2 * wide + 1)
    if run.low_precision:
        # Every linear module casts its input for itself; those of attention and feed-forward follow below.
        inside = queries + (0 if facts.experts else facts.intermediate)
        kept += b * (facts.linear_inputs - inside + (wide if facts.experts else 0))
    else:
        kept += b * 2 * wide
    if facts.head_norms:
        kept += (FLOAT32 + b) * (queries + keys) + FLOAT32 * (facts.heads + facts.kv_heads)
    # Queries, keys, values and the result; a number for each head; the result once more where it was packed.
    kept += b * (2 * queries + 2 * keys) + FLOAT32 * facts.heads + (b * queries if run.packed else 0)
    return kept + (_expert_bytes(facts) if facts.experts else b * 4 * facts.intermediate)


def _expert_bytes(facts: ModelFacts) -> int:
    """Of one token: float32 whatever the pass computes in, as transformers runs its experts."""
    chosen = facts.experts_per_token
    through = 2 * chosen * facts.hidden + 4 * facts.intermediate
    # The router's scores, and where each token goes, forth and back.
    return FLOAT32 * (through + facts.experts + chosen) + 8 * 4 * chosen


def layer_weight_casts(facts: ModelFacts, run: Pass) -> int:
    """Bytes of the low-precision weights that one layer keeps for the backward pass."""
    return run.compute_bytes * facts.linear_weights if run.low_precision else 0


def kept_bytes(facts: ModelFacts, run: Pass) -> int:
    """Bytes that the whole model keeps from its forward to its backward pass, without the head's blocks."""
    layer = layer_bytes_per_token(facts, run) * run.tokens + layer_weight_casts(facts, run)
    # The last norm, the hidden states that the head reads, positions.
    ends = ((2 * FLOAT32 + run.compute_bytes) * facts.hidden + 8 * facts.head_size + 48) * run.tokens
    if run.checkpointing:
        return facts.layers * FLOAT32 * facts.hidden * run.tokens + layer + ends
    return facts.layers * layer + ends


def head_bytes(facts: ModelFacts, run: Pass, *, entropy_gradient: bool = False) -> int:
    """Bytes of the head's own in its backward pass: blocks of logits, and the gradient of its weight."""
    from rlpost.learner.heads.logit_blocks import (
        ACCELERATOR_BLOCK_BYTES,
        CPU_BLOCK_BYTES,
        MIN_BLOCK_COLUMNS,
    )

    limit = ACCELERATOR_BLOCK_BYTES if run.on_accelerator else CPU_BLOCK_BYTES
    all_columns = FLOAT32 * run.tokens * facts.vocabulary
    block = min(all_columns, max(limit, FLOAT32 * run.tokens * MIN_BLOCK_COLUMNS))
    casts = run.on_accelerator and run.low_precision
    blocks = block * (2 if entropy_gradient else 1) + (block // 2 if casts else 0)
    gradients = FLOAT32 * facts.vocabulary * facts.hidden + FLOAT32 * facts.hidden * run.tokens
    return blocks + gradients


def backward_bytes(facts: ModelFacts, run: Pass) -> int:
    """Bytes of gradients in flight in a layer's backward pass: of its widest activations and one weight."""
    widest = max(3 * facts.intermediate, 2 * (facts.heads + facts.kv_heads) * facts.head_size)
    return run.tokens * (run.compute_bytes * widest + 2 * FLOAT32 * facts.hidden) + FLOAT32 * (
        max(facts.linear_weights // 3, 1)
    )
