"""The rollout worker: prompts in, unscored trajectories out; inline or as a Ray actor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlpost.config.schema import ModelConfig, RolloutConfig
from rlpost.data.trajectory import Prompt, Trajectory, Turn
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout.engine import Engine, Sample, SampleRequest, SamplingSettings
from rlpost.rollout.torch_engine import TorchEngine
from rlpost.rollout.vllm_engine import VLLMEngine
from rlpost.weights.bundle import TransferReceipt, WeightBundle


@dataclass(frozen=True, slots=True)
class RolloutTask:
    """One trajectory wanted.

    Attributes:
        id: the trajectory's.
        seed: decides its tokens, given the weights; see `sample_seed`.
    """

    id: str
    prompt: Prompt
    seed: int
    settings: SamplingSettings


def sample_seed(run_seed: int, stage: str, step: int, prompt_id: str, sample_index: int) -> int:
    """The seed in [0, 2^63) of one sample of a run: a BLAKE2b hash, equal on every machine."""
    key = repr((run_seed, stage, step, prompt_id, sample_index)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


def sampling_settings(rollout: RolloutConfig) -> SamplingSettings:
    """The sampling settings of training."""
    return SamplingSettings(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_tokens=rollout.max_response_tokens,
        stop=tuple(rollout.stop),
    )


class RolloutWorker:
    """Owns one engine, which it loads when first asked for something.

    Args:
        seed: decides the random weights of a tiny model, until the learner's arrive.
        threads: torch threads of this process; None leaves torch's choice. For workers in
            processes of their own.
    """

    def __init__(
        self, model: ModelConfig, rollout: RolloutConfig, *, seed: int, threads: int | None = None
    ) -> None:
        self._model, self._rollout = model, rollout
        self._seed, self._threads = seed, threads
        self._loaded: Engine | None = None

    def configure(self, rollout: RolloutConfig) -> None:
        """Take a new stage's settings; the weights and their version stay.

        A vLLM engine keeps the options it was started with; the rules of the configuration make
        sure that all stages ask for the same.
        """
        self._rollout = rollout
        if isinstance(self._loaded, TorchEngine):
            self._loaded.slots = rollout.slots

    def rollout(self, tasks: Sequence[RolloutTask]) -> list[Trajectory]:
        """One single-turn trajectory per task, in their order.

        Raises:
            ConfigError, RolloutError: see `Engine.generate`.
        """
        samples = self.generate([SampleRequest(t.id, t.prompt.token_ids, t.seed, t.settings) for t in tasks])
        return [_trajectory(task, sample) for task, sample in zip(tasks, samples, strict=True)]

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """The engine's samples, in the order of the requests."""
        return self._engine().generate(requests)

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        """Give the engine new weights; the receipt is for `WeightTransfer.check`."""
        return self._engine().load_weights(bundle)

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """The engine's log-probs of tokens 1.. of each sequence."""
        return self._engine().probe(sequences)

    def policy_version(self) -> int:
        """The version of the engine's weights; -1 before the first transfer."""
        return self._engine().version

    def _engine(self) -> Engine:
        if self._loaded is None:
            self._loaded = self._build()
        return self._loaded

    def _build(self) -> Engine:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        slots = self._rollout.slots
        if self._rollout.engine == "vllm":
            return VLLMEngine(self._model, self._rollout.vllm, slots=slots, threads=self._threads)
        model = load_model(self._model, self._seed)
        return TorchEngine(model, load_tokenizer(self._model), slots=slots)


def _trajectory(task: RolloutTask, sample: Sample) -> Trajectory:
    turn = Turn(sample.token_ids, sample.text, True, sample.logprobs, sample.versions)
    greedy = task.settings.temperature == 0
    return Trajectory(task.id, task.prompt, (turn,), sample.finish_reason, task.seed, greedy=greedy)
