"""Six small families, as different as the plan must tell apart."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": COMMON | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": COMMON | {"model_type": "qwen3", "head_dim": 24, "tie_word_embeddings": True},
    "qwen3_moe": COMMON
    | {
        "model_type": "qwen3_moe",
        "head_dim": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "tie_word_embeddings": False,
    },
    "llama": COMMON | {"model_type": "llama", "head_dim": 24, "tie_word_embeddings": False},
    "gemma2": COMMON
    | {
        "model_type": "gemma2",
        "head_dim": 24,
        "query_pre_attn_scalar": 16,
        "sliding_window": 64,
        "tie_word_embeddings": True,
    },
    "mistral": COMMON
    | {
        "model_type": "mistral",
        "num_key_value_heads": 4,
        "sliding_window": 64,
        "tie_word_embeddings": False,
    },
}
"""What their config.json would say."""


def build(family: str, device: str = "cpu") -> Any:
    """The model in float32, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**FAMILIES[family]), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
