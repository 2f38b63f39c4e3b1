"""Causal language models: loaded from Hugging Face, or a tiny Qwen2 with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from rlpost.config.schema import ModelConfig
from rlpost.errors import ConfigError
from rlpost.models.tokenizer import SPECIAL_TOKENS, TINY_VOCABULARY_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(config: ModelConfig, seed: int = 0, *, as_saved: bool = False) -> PreTrainedModel:
    """The causal LM of `config.init`, on the CPU, in `config.dtype`, in evaluation mode.

    Args:
        seed: decides the random weights of the tiny model; ignored for others.
        as_saved: in the dtype that the model was saved in instead; float32 for the tiny one.

    Raises:
        ConfigError: nothing loadable is there.
    """
    dtype = getattr(torch, config.dtype)
    if config.init == "tiny":
        return build_tiny_model(config, seed).to(torch.float32 if as_saved else dtype).eval()
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with loading(config):
        model = AutoModelForCausalLM.from_pretrained(
            config.init,
            revision=config.revision,
            dtype="auto" if as_saved else dtype,
            trust_remote_code=config.trust_remote_code,
            attn_implementation="sdpa",
        )
    return model.eval()


def build_shell(config: ModelConfig) -> PreTrainedModel:
    """The modules of the causal LM of `config.init`, in evaluation mode, in float32.

    Buffers are computed, on the CPU; parameters are on the device "meta", which has no memory for them.

    Raises:
        ConfigError: there is no configuration to be loaded.
    """
    with torch.random.fork_rng(devices=[]), _parameters_on_meta():
        if config.init == "tiny":
            return build_tiny_model(config, 0).eval()
        from transformers import AutoConfig, AutoModelForCausalLM

        trusted = config.trust_remote_code
        with loading(config):
            architecture = AutoConfig.from_pretrained(
                config.init, revision=config.revision, trust_remote_code=trusted
            )
            model = AutoModelForCausalLM.from_config(
                architecture,
                dtype=torch.float32,
                trust_remote_code=trusted,
                attn_implementation="sdpa",
            )
        return model.eval()


def max_positions(config: ModelConfig) -> int | None:
    """The longest sequence that the causal LM of `config.init` reads; None without a limit.

    Raises:
        ConfigError: there is no configuration to be loaded.
    """
    if config.init == "tiny":
        return config.tiny.max_positions
    from transformers import AutoConfig

    with loading(config):
        architecture = AutoConfig.from_pretrained(
            config.init, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    return getattr(architecture.get_text_config(), "max_position_embeddings", None)


@contextmanager
def loading(config: ModelConfig) -> Iterator[None]:
    """Around code of transformers that reads `config.init`.

    Raises:
        ConfigError: nothing loadable is there.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the model cannot be loaded",
            where="model.init",
            found=f"{config.init!r}: {str(error).splitlines()[0]}",
            needed="a Hugging Face id, a local model directory, or `tiny`",
        ) from error


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules that are built inside keep no memory for parameters, which torch's device "meta" would
    take from buffers too: those that are computed would be lost."""
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        # One that is there already is tied, and must stay the same.
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = without_memory  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


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
