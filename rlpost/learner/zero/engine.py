"""ZeroEngine: all that the learner wants of DeepSpeed; only this file and deepspeed_runtime import it.

DeepSpeed divides optimizer state (ZeRO 1), gradients (2) and weights (3) over the ranks (Rajbhandari et
al. 2020). Some of what is needed here has no public name in it, which is why one release is supported.
"""

from __future__ import annotations

import atexit
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlpost.config.schema import LearnerConfig, TrainConfig
from rlpost.learner.optimizer import build_optimizer, configure_optimizer, gradient_norm, set_learning_rate
from rlpost.learner.zero.runtime import FrozenEngine, Root, join, settings_of_deepspeed, whole_shape


class ZeroEngine:
    """The model and AdamW under ZeRO. Every method is called by all ranks, in the same order.

    The gradient is that of the sum of all losses: over ranks and over backward passes.

    Args:
        model: float32, on this rank's device; under ZeRO 3 its parameters were divided before.
        outside: parameters that are read outside of the module that owns them.
        world_size: of torch's default process group, which must exist.
        deadline_s: longest wait for another rank in any call.

    Raises:
        UserError: DeepSpeed is not installed, or in another version.
    """

    def __init__(
        self,
        model: nn.Module,
        outside: Sequence[nn.Parameter],
        settings: LearnerConfig,
        train: TrainConfig,
        *,
        world_size: int,
        deadline_s: float,
    ) -> None:
        device = next(model.parameters()).device
        self._deepspeed = join(device, deadline_s)
        self._model, self._world_size = model, world_size
        self.stage, self._rank, self._linked = settings.zero_stage, dist.get_rank(), False
        self._root: Root | None = Root(model)
        self._settings = settings_of_deepspeed(settings, train)
        self._frozen: list[FrozenEngine] = []
        self._engine, *_ = self._deepspeed.initialize(
            model=self._root,
            optimizer=build_optimizer(model, train, whole_shape),
            config=self._settings,
            dist_init_required=False,
        )
        if self.stage == 3:
            for parameter in outside:
                self._deepspeed.zero.register_external_parameter(self._root, parameter)
        atexit.register(_close, weakref.ref(self))

    def close(self) -> None:
        """On the way out: `release`, and leave the group of ranks."""
        from deepspeed.utils import groups

        self.release()
        groups._WORLD_GROUP = None
        self._deepspeed.comm.comm.cdb = None
        gc.collect()

    def release(self) -> None:
        """Take DeepSpeed off the model; whole parameters are lost under ZeRO 3."""
        if self._root is None:
            return
        for frozen in list(self._frozen):
            self.drop_frozen(frozen)
        self._engine.destroy()
        for parameter in self._model.parameters():
            vars(parameter).clear()
        self._engine = self._root = None

    def freeze(self, model: nn.Module, outside: Sequence[nn.Parameter]) -> FrozenEngine:
        """An engine for another model, which is divided and never trained."""
        self._frozen.append(FrozenEngine(self._deepspeed, model, list(outside), self._settings))
        return self._frozen[-1]

    def drop_frozen(self, frozen: FrozenEngine | None) -> None:
        """Give up such a model, if it is one."""
        if frozen is not None:
            self._frozen.remove(frozen)
            frozen.close()

    @property
    def optimizer(self) -> torch.optim.AdamW:
        """The plain optimizer inside, over this rank's part of the parameters."""
        optimizer: torch.optim.AdamW = self._engine.basic_optimizer
        return optimizer

    def restart(self, train: TrainConfig) -> None:
        """Fresh optimizer state, under the settings of another stage."""
        configure_optimizer(self.optimizer, train)
        self._engine._config.gradient_clipping = train.max_grad_norm
        self.optimizer.state.clear()
        self._linked = False
        if self.stage:
            self._engine.optimizer.clip_grad = train.max_grad_norm

    def run(self, compute: Callable[[], Any]) -> Any:
        """A forward pass whose result is not differentiated."""
        return self._root(compute)

    def forward(self, compute: Callable[[], Any]) -> Any:
        """A forward pass whose result is to be differentiated."""
        return self._engine(compute)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss` to what the backward passes before it left.

        Args:
            last: no other backward pass follows before the step.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks, and ZeRO 3 knows nothing else.
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def gradient_norm(self) -> Tensor:
        """Of the whole gradient, infinite when any element is not finite."""
        if self.stage == 0:
            return gradient_norm(self._model.parameters())
        zero = self._engine.optimizer
        if self.stage == 3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            norm = combine_grad_norm_groups(zero._get_norm_groups())
        else:
            norm = zero.scaled_global_norm()
        return torch.as_tensor(norm).float().cpu()

    def first_non_finite_gradient(self) -> str | None:
        """The first parameter, in the model's order, whose gradient holds a NaN or an infinity."""
        from deepspeed.utils import safe_get_full_grad

        for name, parameter in self._model.named_parameters():
            gradient = safe_get_full_grad(parameter) if parameter.requires_grad else None
            if gradient is not None and not bool(gradient.isfinite().all()):
                return name
        return None

    def step(self, rate: float) -> None:
        """Clip the gradient and take an optimizer step; the gradient must be finite."""
        set_learning_rate(self.optimizer, rate)
        self._engine.step()
        if not self._engine.was_step_applied():
            raise RuntimeError("DeepSpeed took no optimizer step for a gradient whose norm is finite")
        if not self._linked:
            self._link_moments()

    def discard_gradient(self) -> None:
        """Forget the gradient, as DeepSpeed does when it refuses a step itself."""
        if self.stage == 0:
            self._engine.zero_grad()
            return
        zero = self._engine.optimizer
        if self.stage == 3:
            zero._pre_step()
            zero._overflow_clean_up(1.0)
            return
        zero.zero_grad(set_to_none=True)
        zero._release_preflattened_grad_buffers()
        zero.micro_step_id = -1
        if zero.cpu_offload:
            zero.reset_cpu_buffers()
            zero._offload_accumulated_param_ids = set()
        else:
            for group in zero.averaged_gradients:
                zero.averaged_gradients[group] = zero.all_grad_tensors[group] = None

    def shape(self, parameter: nn.Parameter) -> Sequence[int]:
        """Of the whole parameter."""
        return whole_shape(parameter)

    @contextmanager
    def whole(self, parameters: Sequence[nn.Parameter], *, changed: bool = False) -> Iterator[None]:
        """Inside, the parameters are whole on every rank.

        Args:
            changed: rank 0 writes to them; on leaving, its values are those of all ranks.
        """
        with self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if changed else None):
            yield

    def weights_changed(self) -> None:
        """Take the float32 copies that the optimizer steps from the weights."""
        if self.stage:
            self._engine.optimizer.refresh_fp32_params()

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor | None:
        """One whole tensor of AdamW's state, on every rank; None before the first step."""
        if not self.optimizer.state:
            return None
        if self.stage == 0:
            value: Tensor = self.optimizer.state[parameter][key]
            return value
        if key == "step":
            step: Tensor = next(iter(self.optimizer.state.values()))["step"]
            return step
        from deepspeed.utils import safe_get_full_optimizer_state

        whole: Tensor = safe_get_full_optimizer_state(parameter, key)
        return whole

    def make_moments(self, step: Tensor) -> None:
        """AdamW's state as after `step` steps, its moments still zero."""
        self.optimizer.state.clear()
        for owned in self._owned():
            self.optimizer.state[owned] = {
                "step": step.clone(),
                "exp_avg": torch.zeros_like(owned),
                "exp_avg_sq": torch.zeros_like(owned),
            }
        self._link_moments()

    def set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """Take up this rank's part of a whole tensor of AdamW's state."""
        value = value.to(parameter.device)
        if self.stage == 0:
            self.optimizer.state[parameter][key].copy_(value)
        elif self.stage == 3:
            from deepspeed.utils import safe_set_local_optimizer_state

            size = parameter.ds_tensor.numel()
            padded = nn.functional.pad(value.flatten(), (0, size * self._world_size - value.numel()))
            safe_set_local_optimizer_state(parameter, padded[size * self._rank :][:size], key)
        else:
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, value, key)

    def _link_moments(self) -> None:
        """Tell ZeRO 1 and 2 where each parameter's moments are, once AdamW has made them all.

        DeepSpeed does so by itself after the first group of parameters was stepped, and then finds
        none for the others.
        """
        if self.stage in (1, 2):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        self._linked = True

    def _owned(self) -> list[Tensor]:
        """What AdamW steps on this rank: parameters, or flat parts of many."""
        if self.stage == 0:
            return [p for group in self.optimizer.param_groups for p in group["params"]]
        zero = self._engine.optimizer
        return list(
            zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        )


def _close(engine: weakref.ref[ZeroEngine]) -> None:
    """On the way out: gloo's threads end with the last reference to their group, and must end before
    the interpreter does, or the process aborts."""
    if (alive := engine()) is not None:
        alive.close()
