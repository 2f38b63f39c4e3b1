"""What every engine of DeepSpeed in a process shares: its import, its group of ranks, its settings."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rlpost.config.schema import LearnerConfig, TrainConfig
from rlpost.versions import require


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, quiet, and without kernels that it would have to compile.

    Raises:
        UserError: it is not installed, or in a version that this package was not tested with.
    """
    require("deepspeed")
    # Read when DeepSpeed is first imported, which otherwise looks for accelerators by itself.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Nothing is then compiled for this machine: no compiler is needed, and no rank waits for one.
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def join(device: torch.device, deadline_s: float) -> Any:
    """DeepSpeed, with its group made of torch's default one, if that was not done before.

    Args:
        device: of this rank.
        deadline_s: longest wait for another rank in any of its calls.
    """
    deepspeed = import_deepspeed(device)
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    from deepspeed.utils import groups

    if groups._WORLD_GROUP is None:
        # A group that DeepSpeed makes itself would wait for torch's half hour.
        groups._WORLD_GROUP = dist.new_group(timeout=timedelta(seconds=deadline_s))
    return deepspeed


def parameter_divider(
    device: torch.device, deadline_s: float, settings: dict[str, Any]
) -> Callable[[nn.Parameter], None]:
    """A function that every rank calls with the same parameters in the same order.

    It gives all ranks the first one's values and leaves each with its part, as ZeRO 3 wants it.
    """
    deepspeed = join(device, deadline_s)
    init = deepspeed.zero.Init(module=nn.Module(), config_dict_or_path=settings)

    def divide(parameter: nn.Parameter) -> None:
        init._convert_to_zero_parameters([parameter])

    return divide


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """Of the parameter before it was divided."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


class Root(nn.Module):
    """Runs any computation on the model as a forward pass of DeepSpeed's outermost module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


class FrozenEngine:
    """A model without optimizer whose parameters stay divided between forward passes.

    Every method is called by all ranks, in the same order.

    Args:
        model: its parameters are divided.
        outside: parameters that are read outside of the module that owns them.
        settings: of `settings_of_deepspeed`.
    """

    def __init__(
        self, deepspeed: Any, model: nn.Module, outside: list[nn.Parameter], settings: dict[str, Any]
    ) -> None:
        # There is no optimizer state that could be kept elsewhere.
        zero = {k: v for k, v in settings["zero_optimization"].items() if k != "offload_optimizer"}
        self._model, self._root = model, Root(model)
        self._engine, *_ = deepspeed.initialize(
            model=self._root, config=settings | {"zero_optimization": zero}, dist_init_required=False
        )
        for parameter in outside:
            deepspeed.zero.register_external_parameter(self._root, parameter)

    def run(self, compute: Callable[[], Any]) -> Any:
        """A forward pass whose result is not differentiated."""
        with torch.no_grad():
            return self._root(compute)

    def close(self) -> None:
        """Take DeepSpeed off the model, whose parameters are lost."""
        self._engine.destroy()
        for parameter in self._model.parameters():
            # DeepSpeed keeps the outermost module for good, so its memory must go otherwise.
            vars(parameter).clear()
            parameter.data = torch.empty(0)
        del self._engine, self._root


def settings_of_deepspeed(settings: LearnerConfig, train: TrainConfig) -> dict[str, Any]:
    """The learner's settings in DeepSpeed's words."""
    elements = settings.bucket_mib * 2**20 // 4
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "reduce_bucket_size": elements,
        "allgather_bucket_size": elements,
    }
    if settings.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = elements
        # Smaller parameters, such as norms, stay whole: to gather each would take longer than to read it.
        zero["stage3_param_persistence_threshold"] = elements // 512
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        # How many sequences a pass holds is the learner's affair; DeepSpeed only counts them.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "zero_optimization": zero,
    }
