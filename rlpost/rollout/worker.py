"""The rollout worker: prompts in, unscored trajectories out; inline or as a Ray actor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from rlpost.config.schema import ModelConfig, RolloutConfig
from rlpost.data.trajectory import Prompt, Trajectory, Turn
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout.engine import Engine, Receivers, Sample, SampleRequest, SamplingSettings
from rlpost.rollout.stepping import InlineStepper, Stepper, ThreadStepper
from rlpost.rollout.torch_engine import TorchEngine
from rlpost.rollout.vllm_engine import VLLMEngine
from rlpost.weights.broadcast import Seat
from rlpost.weights.bundle import TransferReceipt, WeightBundle, verify_receipt
from rlpost.weights.transfer import policy_tensors


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


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What has come of the tasks of a rollout worker since the last report.

    Attributes:
        finished: a `RolloutTask` ends as a trajectory, a `SampleRequest` as a sample; in no
            particular order.
        unfinished: tasks that are still to be reported.
        tokens: sampled by this worker so far, those of unfinished and aborted tasks included.
        version: of the engine's weights; -1 before the first transfer.
    """

    finished: tuple[Trajectory | Sample, ...]
    unfinished: int
    tokens: int
    version: int


class RolloutWorker:
    """Owns one engine, which it loads when first asked for something.

    Tasks are submitted at any time and reported when they are finished; weights may come in between.
    With `background`, methods may be called by several threads at the same time.

    Args:
        seed: decides the random weights of a tiny model, until the learner's arrive.
        threads: torch threads of this process; None leaves torch's choice. For workers in
            processes of their own.
        background: sample all the time, on a thread; otherwise only while somebody polls.
    """

    CONCURRENT: ClassVar[frozenset[str]] = frozenset({"poll"})
    """A poll may be waiting while weights come; see `ActorGroup`."""

    def __init__(
        self,
        model: ModelConfig,
        rollout: RolloutConfig,
        *,
        seed: int,
        threads: int | None = None,
        background: bool = False,
    ) -> None:
        self._model, self._rollout = model, rollout
        self._seed, self._threads = seed, threads
        self._stepper: Stepper = ThreadStepper(self._build) if background else InlineStepper(self._build)
        self._tasks: dict[str, RolloutTask | SampleRequest] = {}

    def configure(self, rollout: RolloutConfig) -> None:
        """Take a new stage's settings; the weights and their version stay.

        A vLLM engine keeps the options it was started with; the rules of the configuration make
        sure that all stages ask for the same.
        """
        self._rollout = rollout

        def configure(engine: Engine) -> None:
            if isinstance(engine, TorchEngine):
                engine.slots = rollout.slots

        if self._stepper.built:
            self._stepper.call(configure)

    def submit(self, tasks: Sequence[RolloutTask | SampleRequest]) -> None:
        """Take tasks; each will be in one report, unless it is aborted.

        Raises:
            ConfigError, RolloutError: a task cannot be served; none was taken. See `Engine.add`.
        """

        def add(engine: Engine) -> None:
            engine.add([_request(task) for task in tasks])
            self._tasks.update((task.id, task) for task in tasks)

        self._stepper.call(add)

    def poll(self, wait_s: float) -> WorkerReport:
        """Wait until a task has finished, none is unfinished, or `wait_s` seconds are over.

        Raises:
            RlpostError: sampling failed or the engine died. Tasks stay unfinished, and every further
                poll raises the same, until `abort`.
        """
        progress = self._stepper.poll(wait_s)
        # What was aborted since is nobody's any more.
        pairs = ((self._tasks.pop(sample.id, None), sample) for sample in progress.finished)
        finished = tuple(_outcome(task, sample) for task, sample in pairs if task is not None)
        return WorkerReport(finished, progress.unfinished, progress.tokens, progress.version)

    def abort(self) -> None:
        """Forget all tasks that were not reported."""
        self._stepper.abort()
        self._tasks.clear()

    def rollout(self, tasks: Sequence[RolloutTask]) -> list[Trajectory]:
        """One single-turn trajectory per task, in their order, by a worker that has no other tasks.

        Raises:
            ConfigError, RolloutError: see `Engine.generate`.
        """
        samples = self.generate([_request(task) for task in tasks])
        return [_trajectory(task, sample) for task, sample in zip(tasks, samples, strict=True)]

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """One sample per request, in their order, by a worker that has no other tasks."""
        return self._stepper.call(lambda engine: engine.generate(requests))

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        """Give the engine new weights, with which tasks go on; the receipt is for `WeightTransfer.check`."""
        return self._stepper.call(lambda engine: engine.load_weights(bundle))

    def load_saved_weights(self, version: int) -> TransferReceipt:
        """Give the engine the weights that the model was saved with, where no learner sends any.

        The receipt says what it holds: equal for all engines of equal weights and dtype.
        """

        def load(engine: Engine) -> TransferReceipt:
            if isinstance(engine, TorchEngine):
                return engine.load_weights(WeightBundle.of(version, engine.weights()))
            saved = policy_tensors(load_model(self._model, self._seed))
            bundle = WeightBundle.of(version, saved)
            receipt = engine.load_weights(bundle)
            verify_receipt(bundle, receipt)
            return receipt

        return self._stepper.call(load)

    def receivers(self) -> Receivers:
        """Who would take part in a broadcast of weights; starts the engine."""
        return self._stepper.call(lambda engine: engine.receivers())

    def join_broadcast(self, seat: Seat) -> None:
        """Have the engine meet the learner and the other engines."""
        self._stepper.call(lambda engine: engine.join_broadcast(seat))

    def receive_weights(self, version: int) -> TransferReceipt:
        """Have the engine take the weights that the learner sends to all, as in `load_weights`."""
        return self._stepper.call(lambda engine: engine.receive_weights(version))

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """The engine's log-probs of tokens 1.. of each sequence."""
        return self._stepper.call(lambda engine: engine.probe(sequences))

    def policy_version(self) -> int:
        """The version of the engine's weights; -1 before the first transfer."""
        return self._stepper.call(lambda engine: engine.version)

    def sleep(self) -> None:
        """Give up weights and accelerator memory; no task may be unfinished."""
        self._stepper.call(lambda engine: engine.sleep())

    def wake(self) -> None:
        """Take the memory back; `load_weights` is next."""
        self._stepper.call(lambda engine: engine.wake())

    def close(self) -> None:
        """End the engine and the thread; nothing may be called after."""
        self._stepper.close()

    def _build(self) -> Engine:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        slots = self._rollout.slots
        if self._rollout.engine == "vllm":
            return VLLMEngine(self._model, self._rollout.vllm, slots=slots, threads=self._threads)
        model = load_model(self._model, self._seed)
        if torch.cuda.is_available():
            model.to("cuda")
        return TorchEngine(model, load_tokenizer(self._model), slots=slots)


def _request(task: RolloutTask | SampleRequest) -> SampleRequest:
    if isinstance(task, SampleRequest):
        return task
    return SampleRequest(task.id, task.prompt.token_ids, task.seed, task.settings)


def _outcome(task: RolloutTask | SampleRequest, sample: Sample) -> Trajectory | Sample:
    return sample if isinstance(task, SampleRequest) else _trajectory(task, sample)


def _trajectory(task: RolloutTask, sample: Sample) -> Trajectory:
    turn = Turn(sample.token_ids, sample.text, True, sample.logprobs, sample.versions)
    greedy = task.settings.temperature == 0
    return Trajectory(task.id, task.prompt, (turn,), sample.finish_reason, task.seed, greedy=greedy)
