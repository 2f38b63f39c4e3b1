"""LoRA: low-rank adapters inside a causal LM. PEFT makes their layers; only this file imports it."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlpost.config.schema import LoraConfig, ModelConfig
from rlpost.errors import ConfigError
from rlpost.versions import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "default"
"""PEFT's name of an adapter that is given none."""


class Adapter:
    """Trained factors beside frozen linear layers: `W x + scale * B A x` (Hu et al. 2021, section 4.1).

    The model keeps its class; inside, each adapted layer is PEFT's, with the layer before in it. Everything
    but the factors A [rank, in] and B [out, rank] is frozen. B begins with zeros, so the model begins as
    it was; A is drawn from `seed` and the layer's name alone, so it is the same on every rank.

    Args:
        model: on its device; changed in place.
        config: whose `lora` is given.
        seed: of the run.

    Raises:
        ConfigError: a target is not a linear layer of the model's decoder.
        UserError: PEFT is not installed, or in a version that is not supported.
    """

    def __init__(self, model: PreTrainedModel, config: ModelConfig, seed: int) -> None:
        require("peft")
        import peft

        assert config.lora is not None
        lora = config.lora
        self._settings = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=_targets(model, lora),
            use_rslora=lora.rslora,
            task_type="CAUSAL_LM",
            base_model_name_or_path=config.init,
            revision=config.revision,
        )
        with torch.random.fork_rng(devices=[]):
            peft.inject_adapter_in_model(self._settings, model, _NAME)
        self._layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if hasattr(module, "lora_A")
        }
        self._frozen: dict[str, tuple[nn.Linear, nn.Linear]] | None = None
        for name, layer in self._layers.items():
            _draw(layer.lora_A[_NAME].weight, seed, name)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The factors by their names in the model, in its order."""
        found = {}
        for name, layer in self._layers.items():
            found[f"{name}.lora_A.{_NAME}.weight"] = layer.lora_A[_NAME].weight
            found[f"{name}.lora_B.{_NAME}.weight"] = layer.lora_B[_NAME].weight
        return found

    def base_name(self, name: str) -> str | None:
        """What the base model calls a tensor of the adapted one; None for a factor."""
        if ".lora_A." in name or ".lora_B." in name:
            return None
        return name.replace(".base_layer.", ".")

    def factors_of(self, name: str) -> tuple[str, str] | None:
        """The names of A and B beside a tensor of the adapted model; None where there are none."""
        module = name.removesuffix(".base_layer.weight")
        if module not in self._layers:
            return None
        return f"{module}.lora_A.{_NAME}.weight", f"{module}.lora_B.{_NAME}.weight"

    @torch.no_grad()
    def merged(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the adapted model, one after the other, as those of a plain one of the base's kind.

        Where a weight has factors, the result is a new tensor; any other is the one that was given.

        Args:
            tensors: by their names in the adapted model, whole; each weight comes with its factors.
        """
        for name, tensor in tensors.items():
            if (base := self.base_name(name)) is None:
                continue
            if (factors := self.factors_of(name)) is not None:
                a, b = (tensors[factor] for factor in factors)
                scale = self._layers[base.removesuffix(".weight")].scaling[_NAME]
                tensor = torch.addmm(tensor.detach(), b, a, alpha=scale)
            yield base, tensor

    def base(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The base's own among tensors of the adapted model, by the base's names."""
        for name, tensor in tensors.items():
            if (base := self.base_name(name)) is not None:
                yield base, tensor

    @torch.no_grad()
    def merged_copy(self, model: PreTrainedModel) -> PreTrainedModel:
        """A plain model of its own, with the adapter in its weights, all of which can be trained."""
        copied = copy.deepcopy(model)
        for name in self._layers:
            layer: Any = copied.get_submodule(name)
            layer.merge(adapter_names=[_NAME])
            copied.set_submodule(name, layer.get_base_layer())
        return copied.requires_grad_(True)

    def freeze(self, factors: Mapping[str, Tensor]) -> None:
        """Keep these factors for `frozen`, in the place of any before.

        Args:
            factors: whole, by the names of `trained`; they become the adapter's own.
        """
        self._frozen = {}
        for name in self._layers:
            pair = [_linear(factors[f"{name}.{kind}.{_NAME}.weight"]) for kind in ("lora_A", "lora_B")]
            self._frozen[name] = (pair[0], pair[1])

    def thaw(self) -> None:
        """Forget what was kept."""
        self._frozen = None

    @property
    def kept(self) -> dict[str, Tensor]:
        """What `freeze` was given."""
        assert self._frozen is not None
        names = zip(*[iter(self.trained)] * 2, strict=True)
        pairs = zip(names, self._frozen.values(), strict=True)
        return {name: linear.weight for both, pair in pairs for name, linear in zip(both, pair, strict=True)}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, the model computes with the factors that were kept; for passes without gradient."""
        assert self._frozen is not None
        trained = {name: (layer.lora_A[_NAME], layer.lora_B[_NAME]) for name, layer in self._layers.items()}
        try:
            self._use(self._frozen)
            yield
        finally:
            self._use(trained)

    def _use(self, factors: Mapping[str, tuple[nn.Module, nn.Module]]) -> None:
        for name, (a, b) in factors.items():
            self._layers[name].lora_A[_NAME], self._layers[name].lora_B[_NAME] = a, b

    def save(self, directory: Path, factors: Mapping[str, Tensor]) -> None:
        """A directory that `peft.PeftModel.from_pretrained` loads beside the base model.

        Args:
            factors: whole, by the names of `trained`.
        """
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        named = {
            f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor.detach().cpu().contiguous()
            for name, tensor in factors.items()
        }
        save_file(named, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = copy.copy(self._settings)
        settings.inference_mode = True
        # PEFT keeps a set, whose order in the file would be another in every process.
        settings.target_modules = sorted(settings.target_modules)
        settings.save_pretrained(directory)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer


@torch.no_grad()
def _draw(weight: nn.Parameter, seed: int, name: str) -> None:
    """What PEFT draws from the process's random state: uniform up to 1 / sqrt(in)."""
    digest = hashlib.blake2b(f"lora/{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    bound = 1.0 / math.sqrt(weight.shape[1])
    drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
    weight.copy_(drawn)


def _targets(model: PreTrainedModel, lora: LoraConfig) -> list[str]:
    """The linear layers to be adapted, in PEFT's words: each name stands for all that end with it."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    linear = [
        f"{decoder}.{name}".lstrip(".")
        for name, module in model.get_decoder().named_modules()
        if isinstance(module, nn.Linear)
    ]
    if not linear:
        raise ConfigError(
            "this model has no linear layer that an adapter could stand beside",
            where="model.lora",
            found=type(model).__name__,
            remedy="train the whole model: model.lora: null",
        )
    short = sorted({name.rpartition(".")[2] for name in linear})
    wanted = short if lora.target_modules == "all-linear" else list(lora.target_modules)
    for target in wanted:
        meant = [name for name, _ in model.named_modules() if f".{name}".endswith(f".{target}")]
        if not meant or not set(meant) <= set(linear):
            raise _refusal(target, bool(meant), short)
    return wanted


def _refusal(target: str, exists: bool, short: list[str]) -> ConfigError:
    near = get_close_matches(target, short, n=1)
    return ConfigError(
        "an adapter can stand beside linear layers of the decoder only"
        if exists
        else "the model has no module of this name",
        where="model.lora.target_modules",
        found=repr(target),
        needed=f"some of {', '.join(short)}, or all-linear",
        remedy=f"did you mean `{near[0]}`?" if near else None,
    )
