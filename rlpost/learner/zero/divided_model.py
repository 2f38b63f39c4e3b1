"""A model whose parameters are divided over the ranks as they come, so that no rank need hold all.

The first rank loads the model on the host in the ordinary way and hands out one parameter after the
other. The others build the modules alone, from the configuration, without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlpost.config.schema import ModelConfig
from rlpost.errors import ConfigError
from rlpost.learner.ranks import Ranks
from rlpost.models import build_shell, load_model
from rlpost.weights.transfer import policy_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Divide = Callable[[nn.Parameter], None]
"""Called by all ranks: gives them the first one's values and leaves each its part."""


@dataclass(frozen=True)
class Plan:
    """What the model's parameters are.

    Attributes:
        owner: of every parameter by name, the name of the one that it is tied to, or its own.
        shapes: of the parameters that are tied to no other, in the model's order.
    """

    owner: dict[str, str]
    shapes: dict[str, list[int]]

    @classmethod
    def of(cls, model: nn.Module) -> Plan:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        everything = model.named_parameters(remove_duplicate=False)
        return cls(
            {name: names[id(parameter)] for name, parameter in everything},
            {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        )


def load_divided(
    config: ModelConfig, seed: int, ranks: Ranks, device: torch.device, divide: Divide
) -> tuple[PreTrainedModel, Plan]:
    """The model of `config` in float32, with the weights that `load_model` finds on the first rank.

    Args:
        seed: of the tiny model's random weights; ignored for others.
        device: where this rank computes.

    Raises:
        ConfigError: the first rank cannot load the model (on every rank), or what it loads has other
            parameters than the configuration says.
    """
    loaded, plan = _load_on_first(config, seed, ranks)
    shell = build_shell(config)
    _check_same(shell, plan)
    values = _whole_values(loaded, plan, device)
    with torch.no_grad(), ranks.talking("hand out the weights"):
        fill(shell, plan, device, values, divide)
        persistent = policy_tensors(shell).keys() - dict(shell.named_parameters()).keys()
        buffers = {} if loaded is None else dict(loaded.named_buffers())
        for name, buffer in shell.named_buffers():
            if name not in persistent:
                continue
            if loaded is not None:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)
    if loaded is not None:
        shell.generation_config = loaded.generation_config
    return shell, plan


def fill(
    shell: PreTrainedModel,
    plan: Plan,
    device: torch.device,
    values: Iterable[tuple[str, Tensor]],
    divide: Divide,
) -> None:
    """Give a shell its parameters, one after the other, each divided before the next is made.

    Args:
        values: whole float32 tensors on `device`, in the order of `plan.shapes`; only those of the
            first rank are read.
    """
    parameters = {name: nn.Parameter(torch.empty(0, device=device)) for name in plan.shapes}
    for name, value in values:
        parameters[name].data = value
        del value
        divide(parameters[name])
    for name, owner in plan.owner.items():
        module, _, attribute = name.rpartition(".")
        setattr(shell.get_submodule(module), attribute, parameters[owner])
    shell.to(device)


def _load_on_first(config: ModelConfig, seed: int, ranks: Ranks) -> tuple[PreTrainedModel | None, Plan]:
    loaded: PreTrainedModel | None = None
    message: dict[str, object] = {}
    failure: ConfigError | None = None
    if ranks.rank == 0:
        try:
            loaded = load_model(config, seed, as_saved=True)
            message = vars(Plan.of(loaded))
        except ConfigError as error:
            failure, message = error, {"failure": str(error)}
    said = ranks.gather(message)[0]
    if failure is not None:
        raise failure
    if "failure" in said:
        raise ConfigError("the first learner rank cannot load the model", found=said["failure"])
    return loaded, Plan(**said)


def _check_same(shell: nn.Module, plan: Plan) -> None:
    own = {name: list(p.shape) for name, p in shell.named_parameters(remove_duplicate=False)}
    needed = {name: plan.shapes[owner] for name, owner in plan.owner.items()}
    if differing := sorted(name for name in own.keys() | needed.keys() if own.get(name) != needed.get(name)):
        raise ConfigError(
            "the loaded model has other parameters than its configuration says",
            where="model.init",
            found=f"{len(differing)} that differ, the first is {differing[0]}",
            needed="the same on every learner rank",
            remedy="set learner.zero_stage to 2 or less, where each rank loads the whole model",
        )


def _whole_values(
    loaded: PreTrainedModel | None, plan: Plan, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    own = {} if loaded is None else dict(loaded.named_parameters())
    for name, shape in plan.shapes.items():
        if loaded is None:
            yield name, torch.empty(shape, dtype=torch.float32, device=device)
            continue
        yield name, own[name].detach().to(device, torch.float32)
        # The host's copy is not needed any more.
        own[name].data = torch.empty(0, dtype=own[name].dtype)
