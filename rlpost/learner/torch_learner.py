"""TorchLearner: the learner on plain torch, one process or several gloo ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlpost.config.schema import ModelConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.errors import NonFiniteError
from rlpost.estimator import Measures, Objective, Prepared
from rlpost.learner.learner_state import load_state, load_weights, save_state
from rlpost.learner.local_update import LocalUpdate, combine, on_cpu
from rlpost.learner.microbatch import cut, oversized
from rlpost.learner.optimizer import (
    build_optimizer,
    clip_gradients,
    first_non_finite_gradient,
    gradient_norm,
    learning_rate,
    set_learning_rate,
)
from rlpost.learner.policy import Policy
from rlpost.learner.ranks import Ranks
from rlpost.learner.replay_batch import ReplayBatch, save_batch
from rlpost.models import load_model, load_tokenizer
from rlpost.weights.bundle import WeightBundle
from rlpost.weights.transfer import policy_tensors

SIGNALS = frozenset({"old_logprob", "ref_logprob", "entropy"})


class TorchLearner:
    """A `Learner`: the whole policy and AdamW on every rank, gradients summed over ranks.

    Parameters, gradients and optimizer state are float32 whatever `model.dtype` says (16 bytes a
    parameter, 20 with a reference); "bfloat16" means that the forward and backward pass compute in it
    and that exported weights are rounded to it. So an update of 1e-6 of a weight is never lost.

    Args:
        model: the policy's starting point.
        train: the first stage's settings; `start_stage` replaces them.
        seed: of the tiny model's random weights; ignored for others.
        rendezvous: where several ranks meet, see `Ranks`.
        reference: keep a frozen copy of the starting weights for "ref_logprob".
        replay_dir: where a batch goes whose loss or gradient is not finite; None saves none.
        threads: torch threads of this process; None leaves torch's choice.
        deadline_s: longest wait for another rank.

    Raises:
        ConfigError: the model cannot be loaded, or is of a kind that the learner would read wrongly.
        DeadlineError: the ranks did not all come.
    """

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        rendezvous: str | None = None,
        reference: bool = False,
        replay_dir: Path | None = None,
        threads: int | None = None,
        deadline_s: float = 1800.0,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._config, self._replay_dir = model, replay_dir
        self._ranks = Ranks(rank, world_size, rendezvous, deadline_s)
        network = load_model(model.model_copy(update={"dtype": "float32"}), seed)
        self.policy = Policy(
            network.to(_device(rank)),
            compute_dtype=getattr(torch, model.dtype),
            layout=train.layout,
            gradient_checkpointing=model.gradient_checkpointing,
        )
        self._parameters = [p for p in self.policy.model.parameters() if p.requires_grad]
        self.start_stage(train, reference)

    def start_stage(self, train: TrainConfig, reference: bool) -> None:
        """Fresh optimizer state and schedule; with `reference`, freeze a copy of the weights as they are."""
        self._train = train
        if train.layout != self.policy.layout:
            self.policy.use_layout(train.layout)
        self.optimizer = build_optimizer(self.policy.model, train)
        self.updates = 0
        self.reference = self.policy.frozen_copy() if reference else None

    def signals(self, inputs: ModelInputs, names: Sequence[str], temperature: float) -> dict[str, Tensor]:
        """Per-token signals [N] (float32, CPU) for this rank's rows, without gradient.

        Raises:
            ValueError: a name is unknown, or "ref_logprob" is asked of a learner without a reference.
        """
        if unknown := set(names) - SIGNALS:
            raise ValueError(f"unknown signals {sorted(unknown)}, known are {sorted(SIGNALS)}")
        limit = self._train.tokens_per_microbatch
        found: dict[str, Tensor] = {}
        if {"old_logprob", "entropy"} & set(names):
            logprob_N, entropy_N = self.policy.all_logprobs(inputs, temperature, limit)
            found |= {"old_logprob": logprob_N, "entropy": entropy_N}
        if "ref_logprob" in names:
            if self.reference is None:
                raise ValueError("this stage was started without a reference model")
            found["ref_logprob"] = self.reference.all_logprobs(inputs, temperature, limit)[0]
        return {name: found[name].float() for name in names}

    def update(
        self, inputs: ModelInputs, prepared: Prepared, objective: Objective, temperature: float
    ) -> dict[str, float]:
        """One optimizer step over this rank's rows; gradients are summed over ranks.

        Returns:
            the objective's measures and the learner's own, the same on every rank.

        Raises:
            NonFiniteError: before the optimizer step, on every rank; weights and optimizer state are
                as they were, and each rank's batch was saved for replay.
        """
        batch = ReplayBatch(inputs, prepared, objective, temperature, {})
        local = self.accumulate(inputs, prepared, objective, temperature)
        reports = self._ranks.gather({"fault": self._fault(local.loss), **local.report()})
        faults = [f"rank {r}: {report['fault']}" for r, report in enumerate(reports) if report["fault"]]
        norm = torch.zeros(())
        if not faults:
            self._ranks.sum_gradients(self._parameters)
            norm = gradient_norm(self._parameters)
            if not bool(norm.isfinite()):
                faults = [f"all ranks: the summed gradient has norm {float(norm)}"]
        if faults:
            self._refuse(batch, faults)
        rate = learning_rate(self._train, self.updates)
        set_learning_rate(self.optimizer, rate)
        clip_gradients(self._parameters, self._train.max_grad_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return combine(reports) | {"learner/grad_norm": float(norm), "learner/learning_rate": rate}

    def accumulate(
        self, inputs: ModelInputs, prepared: Prepared, objective: Objective, temperature: float
    ) -> LocalUpdate:
        """Leave the gradient of this rank's rows in the parameters; no other rank is involved."""
        if prepared.batch.length_S.tolist() != [len(r) for r in inputs.response_ids]:
            raise ValueError("the rows of the inputs are not those of the prepared batch")
        for parameter in self._parameters:
            # Zeros, not None: a rank without rows must sum the same tensors, and step the same ones.
            parameter.grad = torch.zeros_like(parameter)
        limit, lengths = self._train.tokens_per_microbatch, inputs.lengths
        bins = cut(lengths, limit, self._train.layout)
        loss, measures = 0.0, Measures()
        for rows in bins:
            part = prepared.rows(torch.tensor(rows, dtype=torch.int64)).to(self.policy.device)
            logprob_N, entropy_N = self.policy.logprobs(
                inputs.rows(rows), temperature, with_entropy_grad=objective.needs_entropy_gradient
            )
            output = objective.loss(logprob_N, part, entropy_N)
            output.loss.backward()
            loss += float(output.loss.detach())
            measures = measures + on_cpu(output.measures)
        trained = int(prepared.trained_N.sum())
        return LocalUpdate(loss, measures, trained, len(bins), oversized(lengths, limit))

    def export_weights(self, version: int) -> WeightBundle:
        """A snapshot of the policy's weights, in `model.dtype`, under the driver's version number."""
        dtype = getattr(torch, self._config.dtype)
        return WeightBundle.of(
            version,
            {
                name: tensor.detach().to(
                    "cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True
                )
                for name, tensor in policy_tensors(self.policy.model).items()
            },
        )

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Log-probs (temperature 1) of tokens 1.. of each sequence, as in `Engine.probe`."""
        asked = [torch.tensor(ids, dtype=torch.int64) for ids in sequences if len(ids) > 1]
        inputs = ModelInputs(tuple(ids[:1] for ids in asked), tuple(ids[1:] for ids in asked))
        logprob_N, _ = self.policy.all_logprobs(inputs, 1.0, self._train.tokens_per_microbatch)
        sizes = [max(0, len(ids) - 1) for ids in sequences]
        return [tuple(piece.tolist()) for piece in logprob_N.split(sizes)]

    def save(self, directory: Path) -> None:
        """Weights, optimizer, schedule, reference and RNG, enough to go on exactly; rank 0 writes."""
        self._write_state(directory)
        self._ranks.barrier()

    def load(self, directory: Path, weights_only: bool = False) -> None:
        """The inverse of `save`, after `start_stage`.

        Args:
            weights_only: leave optimizer and schedule of the new stage as they are; a reference is
                frozen again from the loaded weights.

        Raises:
            CheckpointError: the saved weights are those of another architecture, or unreadable.
        """
        if not weights_only:
            reference = None if self.reference is None else self.reference.model
            self.updates = load_state(directory, self.policy.model, self.optimizer, reference)
            return
        load_weights(directory, self.policy.model)
        if self.reference is not None:
            self.reference = self.policy.frozen_copy()

    def save_policy(self, directory: Path) -> None:
        """A plain Hugging Face directory: weights in `model.dtype`, config, tokenizer, chat template."""
        from transformers.utils.logging import disable_progress_bar

        if self._ranks.rank == 0:
            model = copy.deepcopy(self.policy.model).to("cpu", getattr(torch, self._config.dtype))
            disable_progress_bar()
            model.save_pretrained(directory)
            load_tokenizer(self._config).save_pretrained(directory)
        self._ranks.barrier()

    def _write_state(self, directory: Path) -> None:
        if self._ranks.rank == 0:
            reference = None if self.reference is None else self.reference.model
            save_state(directory, self.policy.model, self.optimizer, self.updates, reference)

    def _fault(self, loss: float) -> str | None:
        """What is not finite on this rank, in words; None when all is well."""
        parts = [] if torch.tensor(loss).isfinite() else [f"the loss is {loss}"]
        if not bool(gradient_norm(self._parameters).isfinite()):
            name = first_non_finite_gradient(self.policy.model)
            parts.append("the gradient's norm overflows" if name is None else f"the gradient of {name}")
        return "; ".join(parts) or None

    def _refuse(self, batch: ReplayBatch, faults: Sequence[str]) -> None:
        """Leave everything as it was, save the batch, raise NonFiniteError."""
        self.optimizer.zero_grad(set_to_none=True)
        kept = "no replay directory was given, so the batch was not saved"
        if self._replay_dir is not None:
            folder = self._replay_dir / f"update-{self.updates:06d}"
            facts = {"faults": list(faults), "rank": self._ranks.rank, "updates": self.updates}
            try:
                path = folder / f"batch-rank-{self._ranks.rank:03d}"
                save_batch(path, ReplayBatch(**vars(batch) | {"facts": facts}))
                self._write_state(folder / "learner")
                kept = f"the batch and the learner's state are in {folder}"
            except OSError as error:
                kept = f"the batch could not be saved: {error}"
        raise NonFiniteError(
            "a loss or gradient is not finite; no optimizer step was taken",
            where=f"update {self.updates} of the stage, learner rank {self._ranks.rank}",
            found=" | ".join(faults),
            needed="finite numbers",
            remedy=kept,
        )


def _device(rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())
