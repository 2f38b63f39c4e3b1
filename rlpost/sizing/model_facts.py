"""ModelFacts: sizes of a causal LM from its configuration alone. Only this file builds models for that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rlpost.config.schema import LoraConfig, ModelConfig
from rlpost.errors import ConfigError
from rlpost.sizing.published import PUBLISHED, published

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Parameter:
    """One tensor of a model, tied ones once.

    Attributes:
        elements: numbers in it.
        vector: it has fewer than two dimensions; AdamW keeps such in a group of their own.
        trained: false for what stands beside an adapter.
    """

    elements: int
    vector: bool
    trained: bool = True


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a causal LM.

    Attributes:
        name: what `model.init` says.
        source: where the configuration came from, in words.
        kind: transformers' name of the architecture.
        parameters: each tensor; with an adapter, its factors follow.
        buffer_bytes: of tensors that are no parameters.
        linear_weights, linear_inputs: of a decoder layer's linear modules, elements of all weights and of all
            inputs of one token; experts, which transformers keeps in tensors of their own, are none.
        norms: a decoder layer's norms over the whole width.
        head_norms: whether queries and keys are normalised, head by head.
        vocabulary, hidden, layers, heads, kv_heads, head_size, intermediate: its dimensions; `intermediate`
            is what one token passes through, so the sum over its experts.
        window: tokens of a sliding window; None without one.
        windowed_layers: layers that have it.
        positions: the longest sequence; None without a limit.
        tied: whether input and output embeddings are one matrix.
        experts, experts_per_token: of each layer; 0 where it is dense.
        largest_module: parameters of the module that holds most itself.
        largest_bucket: parameters of what ZeRO 3 gathers at once: a decoder layer, an embedding or a head.
    """

    name: str
    source: str
    kind: str
    parameters: tuple[Parameter, ...]
    buffer_bytes: int
    linear_weights: int
    linear_inputs: int
    norms: int
    head_norms: bool
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    window: int | None
    windowed_layers: int
    positions: int | None
    tied: bool
    experts: int
    experts_per_token: int
    largest_module: int
    largest_bucket: int

    @property
    def total(self) -> int:
        """Parameters, an adapter's included."""
        return sum(parameter.elements for parameter in self.parameters)

    @property
    def trained(self) -> int:
        """Those with a gradient."""
        return sum(parameter.elements for parameter in self.parameters if parameter.trained)

    @property
    def base(self) -> int:
        """Those of the model that engines hold: without an adapter."""
        return self.total if self.trained == self.total else self.total - self.trained

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(parameter.elements for parameter in self.parameters)

    def small(self, threshold: int) -> int:
        """Elements of all tensors with at most so many."""
        return sum(p.elements for p in self.parameters if p.elements <= threshold)


@lru_cache(maxsize=8)
def _of_init(model: str, hub: bool) -> ModelFacts:
    return _measure(ModelConfig.model_validate_json(model), hub)


def model_facts(config: ModelConfig, *, hub: bool = True) -> ModelFacts:
    """What `config` says of the model, and of its adapter, without weights.

    Args:
        hub: ask the Hugging Face hub for the configuration of an id; otherwise only a local directory, the
            hub's cache on this machine, and the published configurations that come with rlpost.

    Raises:
        ConfigError: there is no configuration to be had.
    """
    return _of_init(config.model_dump_json(), hub)


def _measure(config: ModelConfig, hub: bool) -> ModelFacts:
    import torch
    from transformers import AutoModelForCausalLM

    from rlpost.models import build_shell

    if config.init == "tiny":
        return facts_of(build_shell(config), config, "model.tiny")
    architecture, source = _architecture(config, hub)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            architecture,
            dtype=torch.float32,
            trust_remote_code=config.trust_remote_code,
            attn_implementation="sdpa",
        )
    return facts_of(model, config, source)


def facts_of(model: Any, config: ModelConfig, source: str) -> ModelFacts:
    """The facts of a causal LM of transformers, on any device."""
    from torch import nn

    text = model.config.get_text_config()
    decoder = model.get_decoder()
    heads = int(text.num_attention_heads)
    factors = [] if config.lora is None else _factors(decoder, config.lora)
    parameters = [
        Parameter(p.numel(), p.ndim < 2, trained=config.lora is None) for p in model.parameters()
    ] + [Parameter(elements, vector=False) for elements in factors]
    layer = decoder.layers[-1]
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    experts = int(_first(text, "num_experts", "num_local_experts", "n_routed_experts") or 0)
    kinds = getattr(text, "layer_types", None) or []
    windowed = sum(kind == "sliding_attention" for kind in kinds)
    return ModelFacts(
        name=config.init,
        source=source,
        kind=model.config.model_type,
        parameters=tuple(parameters),
        buffer_bytes=sum(buffer.nbytes for buffer in model.buffers()),
        linear_weights=sum(module.weight.numel() for module in linear),
        linear_inputs=sum(module.in_features for module in linear),
        norms=sum(
            name.endswith("norm.weight") and p.numel() == text.hidden_size
            for name, p in layer.named_parameters()
        ),
        head_norms=any(name.endswith("q_norm.weight") for name, _ in layer.named_parameters()),
        vocabulary=int(text.vocab_size),
        hidden=int(text.hidden_size),
        layers=int(text.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_size=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        intermediate=_intermediate(text, experts),
        window=getattr(text, "sliding_window", None) if windowed else None,
        windowed_layers=windowed,
        positions=getattr(text, "max_position_embeddings", None),
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        experts=experts,
        experts_per_token=int(getattr(text, "num_experts_per_tok", 0) or 0) if experts else 0,
        largest_module=max(_own(module) for module in model.modules()),
        largest_bucket=max(sum(p.numel() for p in layer.parameters()), _own(model.get_input_embeddings())),
    )


def _own(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))


def _intermediate(text: Any, experts: int) -> int:
    """The feed-forward width that one token passes through."""
    if not experts:
        return int(text.intermediate_size)
    width = int(getattr(text, "moe_intermediate_size", None) or text.intermediate_size)
    return width * int(text.num_experts_per_tok) + int(
        getattr(text, "shared_expert_intermediate_size", None) or 0
    )


def _first(text: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(text, name, None))), None)


def _factors(decoder: nn.Module, lora: LoraConfig) -> list[int]:
    """Elements of each adapter's two matrices: rank x in, and out x rank."""
    from torch import nn

    found = []
    for name, module in decoder.named_modules():
        wanted = lora.target_modules == "all-linear" or any(
            f".{name}".endswith(f".{target}") for target in lora.target_modules
        )
        if isinstance(module, nn.Linear) and wanted:
            found += [lora.rank * module.in_features, lora.rank * module.out_features]
    return found


def _architecture(config: ModelConfig, hub: bool) -> tuple[Any, str]:
    """transformers' configuration, and where it is from."""
    from transformers import AutoConfig

    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    # What is on this machine first: a hub that cannot be reached is asked for half a minute.
    for local in (True, False) if hub else (True,):
        known = published(config.init) if local else None
        try:
            architecture = AutoConfig.from_pretrained(config.init, local_files_only=local, **options)
            return architecture, "its config.json"
        except (OSError, ValueError) as error:
            if known is not None:
                return AutoConfig.for_model(**known), "its published configuration, as rlpost knows it"
            failure = error
    raise _unknown(config, hub, failure) from failure


def _unknown(config: ModelConfig, hub: bool, error: Exception) -> ConfigError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigError(
        "the model's configuration cannot be had, so its memory cannot be planned",
        where="model.init",
        found=f"{config.init!r}: {said}",
        needed="a local directory, an id of the Hugging Face hub that can be reached"
        + ("" if hub else " (not asked: no hub)")
        + f", or one of {len(PUBLISHED)} whose configuration rlpost knows",
        remedy="download the model's config.json into a directory, and name that as model.init",
    )
