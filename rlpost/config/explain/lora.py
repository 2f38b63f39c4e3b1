"""What of the policy is trained where adapters are, and what that costs, in words."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.schema import LoraConfig, RunConfig, TinyModelConfig
from rlpost.config.words import count, listed


def adapters(lora: LoraConfig, config: RunConfig) -> str:
    """The lines about the adapters, as one text."""
    where = "all linear layers" if lora.target_modules == "all-linear" else listed(lora.target_modules)
    root = "sqrt(" if lora.rslora else ""
    scale = lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)
    lines = [
        f"LoRA of rank {lora.rank} beside {where} of the decoder, scale {lora.alpha:g} / "
        f"{root}{lora.rank}{')' if root else ''} = {scale:g}; all else is frozen",
        *_parameters(lora, config),
        "memory: 4 bytes a parameter of the frozen model, 16 one of the adapters (weight, gradient, AdamW's",
        "two moments), where training all weights takes 16 a parameter of the model; a reference takes 4 one",
        f"of the adapters{_division(config)}",
        "engines get merged weights; policy/adapter will hold the adapters for PEFT",
    ]
    return "\n".join(lines)


def _parameters(lora: LoraConfig, config: RunConfig) -> Iterator[str]:
    yield f"{lora.rank} x (inputs + outputs) parameters are trained for each layer"
    if config.model.init != "tiny":
        return
    widths = _tiny_layers(config.model.tiny)
    if lora.target_modules != "all-linear":
        widths = {name: width for name, width in widths.items() if name in lora.target_modules}
    blocks, width = config.model.tiny.layers, sum(widths.values())
    trained = blocks * lora.rank * width
    yield (
        f"{count(blocks, 'block')} x {lora.rank} x {width} = {trained} parameters, x 16 bytes = "
        f"{trained * 16 / 2**10:.0f} KiB"
    )


def _tiny_layers(tiny: TinyModelConfig) -> dict[str, int]:
    """Inputs + outputs of the linear layers of a block."""
    hidden, inner = tiny.hidden_size, tiny.intermediate_size
    attention = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), 2 * hidden)
    return attention | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)


def _division(config: RunConfig) -> str:
    learner, ranks = config.learner, config.cluster.learner_ranks
    if learner.backend != "deepspeed" or not learner.zero_stage or ranks == 1:
        return ""
    parts = ("moments", "gradients", "weights of both")[: learner.zero_stage]
    return f";\n{listed(parts)} are divided over the {count(ranks, 'rank')}"
