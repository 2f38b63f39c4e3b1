"""Causal language models: loaded from Hugging Face, or a tiny Qwen2 with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rlpost.config.schema import ModelConfig
from rlpost.errors import ConfigError
from rlpost.models.tokenizer import SPECIAL_TOKENS, TINY_VOCABULARY_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(config: ModelConfig, seed: int = 0) -> PreTrainedModel:
    """The causal LM of `config.init`, on the CPU, in `config.dtype`, in evaluation mode.

    Args:
        seed: decides the random weights of the tiny model; ignored for others.

    Raises:
        ConfigError: nothing loadable is there.
    """
    dtype = getattr(torch, config.dtype)
    if config.init == "tiny":
        return build_tiny_model(config, seed).to(dtype).eval()
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.init,
            revision=config.revision,
            dtype=dtype,
            trust_remote_code=config.trust_remote_code,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the model cannot be loaded",
            where="model.init",
            found=f"{config.init!r}: {str(error).splitlines()[0]}",
            needed="a Hugging Face id, a local model directory, or `tiny`",
        ) from error
    return model.eval()


def build_tiny_model(config: ModelConfig, seed: int) -> PreTrainedModel:
    """Qwen2 of `config.tiny`'s size (about 1.1 M parameters by default), initialised from `seed`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tiny = config.tiny
    architecture = Qwen2Config(
        vocab_size=TINY_VOCABULARY_SIZE,
        hidden_size=tiny.hidden_size,
        intermediate_size=tiny.intermediate_size,
        num_hidden_layers=tiny.layers,
        num_attention_heads=tiny.heads,
        num_key_value_heads=tiny.heads,
        max_position_embeddings=tiny.max_positions,
        # The usual 0.02 suits widths of a thousand and more; narrow models then learn very slowly.
        initializer_range=tiny.hidden_size**-0.5,
        tie_word_embeddings=tiny.tie_embeddings,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        bos_token_id=SPECIAL_TOKENS.index("<bos>"),
        eos_token_id=SPECIAL_TOKENS.index("<eos>"),
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(architecture)
