"""The model that a critic's own backbone is taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpost.config.schema import ModelConfig
from rlpost.errors import ConfigError
from rlpost.models import build_shell, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def critic_model_config(policy: ModelConfig, init: str) -> ModelConfig:
    """How the model at `critic.init` is loaded: as the policy, in float32.

    Raises:
        ConfigError: it has fewer token ids than the policy, or cannot be loaded.
    """
    config = policy.model_copy(update={"init": init, "revision": None, "dtype": "float32"})
    own, needed = (build_shell(c).config.get_text_config().vocab_size for c in (config, policy))
    if own < needed:
        raise ConfigError(
            "the critic's model does not know all tokens of the policy",
            where="critic.init",
            found=f"{own} token ids in {init}",
            needed=f"at least {needed}, those of {policy.init}",
            remedy="take a model of the same family, or null",
        )
    return config


def load_critic_model(policy: ModelConfig, init: str, seed: int) -> PreTrainedModel:
    """The causal LM at `critic.init`, in float32, on the CPU.

    Raises:
        ConfigError: as in `critic_model_config`.
    """
    return load_model(critic_model_config(policy, init), seed)
