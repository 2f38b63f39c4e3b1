"""A trained policy as a Hugging Face directory."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlpost.config.schema import ModelConfig
from rlpost.models import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_policy(
    directory: Path, own: PreTrainedModel, weights: Mapping[str, Tensor], config: ModelConfig
) -> None:
    """Weights, config, tokenizer and chat template, as transformers and vLLM load them.

    Args:
        own: the model that the weights are of.
        weights: whole, in the dtype they are saved in; those of a plain model.
    """
    from transformers.utils.logging import disable_progress_bar

    with torch.device("meta"):
        model = type(own)(copy.deepcopy(own.config)).to(getattr(torch, config.dtype))
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = own.generation_config
    disable_progress_bar()
    # accelerate imports DeepSpeed here, where it is installed, and that would look for accelerators.
    os.environ.setdefault("DS_ACCELERATOR", own.device.type)
    model.save_pretrained(directory)
    load_tokenizer(config).save_pretrained(directory)
