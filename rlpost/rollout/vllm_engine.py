"""The vLLM engine: vLLM in processes of its own, with weights through shared memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlpost.config.schema import ModelConfig, VLLMConfig
from rlpost.errors import EngineLostError, RlpostError, RolloutError, WeightTransferError
from rlpost.rollout.engine import (
    Receivers,
    Sample,
    SampleRequest,
    generate_all,
    refuse_older_weights,
    refuse_other_names,
    refuse_sleep,
)
from rlpost.rollout.request_checks import check_requests
from rlpost.rollout.stop import TextView
from rlpost.rollout.vllm_buckets import SharedBuffer, broadcast_updates
from rlpost.rollout.vllm_calls import Beat, EngineCalls, unlink_shared_memory
from rlpost.rollout.vllm_requests import VLLMRequests
from rlpost.rollout.vllm_responses import Response, check_temperature
from rlpost.rollout.vllm_start import engine_arguments, is_on_cpu, model_shell, start_environment
from rlpost.rollout.vllm_transfer import check_shapes, join, transfer
from rlpost.versions import require
from rlpost.weights.broadcast import Seat, blank_tensors, refuse_other_tensors
from rlpost.weights.bundle import TransferReceipt, WeightBundle
from rlpost.weights.places import Place

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

T = TypeVar("T")

_TRANSFERS = ("load_weights", "join_broadcast", "receive_weights")


class VLLMEngine:
    """An `Engine` that samples with vLLM.

    It starts without weights: there is nothing to sample from before the first `load_weights`.

    Each request has its own stream of random numbers, decided by its seed, so a response does not
    depend on which others share its batch, on their order or on `slots`; only the last bits of
    matrix products do, which change a token when two are nearly as likely. The same seed gives
    other tokens than the torch engine's, and other tokens on an accelerator than on a CPU.

    Log-probs are of the processed distribution; at the threshold of top-p or top-k vLLM keeps
    tokens that tie with the last one kept. As with the torch engine, token ids that the tokenizer
    does not have are never sampled.

    Stop strings are looked for here, not by vLLM, so that both engines agree on where a response
    ends. Nothing waits without end: an engine that shows no progress within
    `options.stall_deadline_s` is ended. Its processes end with this one, however this one ends.

    Args:
        slots: responses decoded at the same time.
        threads: torch threads of the engine on a CPU; None leaves vLLM's choice.

    Raises:
        UserError: vLLM is not installed in the supported version.
        ConfigError: the model cannot be loaded.
        RolloutError: the engine did not start, or not in time.
    """

    def __init__(
        self, model: ModelConfig, options: VLLMConfig, *, slots: int = 64, threads: int | None = None
    ) -> None:
        require("vllm")
        self.slots = slots
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="rlpost-model-")
        self._shell = model_shell(model, Path(self._folder.name))
        self._view = TextView(self._shell.tokenizer)
        limits = [n for n in (self._shell.positions, options.max_model_len) if n is not None]
        self.positions = min(limits, default=None)
        """Tokens that prompt and response may have together; None without a limit."""
        self._version = -1
        self._has_weights, self._asleep = False, False
        self._given: list[int] = []
        self._announced: tuple[Place, ...] = ()
        self._buffer = SharedBuffer()
        self._calls = EngineCalls("the vLLM engine")
        self._end = weakref.finalize(self, _end, self._calls, self._buffer, self._folder)
        try:
            self._engine: LLMEngine = self._start(model, threads)
            self._requests = VLLMRequests(self._engine)
        except Exception:
            self._end()
            raise

    @property
    def version(self) -> int:
        """The policy version of the weights in use; -1 before the first transfer."""
        return self._version

    @property
    def unfinished(self) -> int:
        """The requests whose responses are still to come."""
        return self._requests.unfinished

    @property
    def tokens(self) -> int:
        """Tokens sampled since the engine was made."""
        return self._requests.tokens

    def add(self, requests: Sequence[SampleRequest]) -> None:
        """Take requests into vLLM's queue; see `Engine.add`.

        Raises:
            ConfigError: also for a temperature that vLLM does not sample at.
        """
        self._require_awake()
        in_use = self._requests.ids
        check_requests(requests, in_use, embeddings=self._shell.embeddings, positions=self.positions)
        for request in requests:
            check_temperature(request)
        if requests:
            self._require_weights()
            eos_ids = self._shell.eos_ids
            responses = [Response(request, self._view, eos_ids, self._given) for request in requests]
            self._call("add", lambda beat: self._requests.add(responses, beat))

    def step(self) -> list[Sample]:
        """Take what vLLM samples; see `Engine.step`."""
        self._require_awake()
        return self._call("step", self._requests.step) if self.unfinished else []

    def abort(self) -> None:
        """Forget all unfinished requests."""
        if keys := self._requests.forget():
            # A dead engine has forgotten them, and the next call says that it is dead.
            with suppress(RlpostError):
                self._call("abort", lambda _: self._engine.abort_request(keys))

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Sample one response per request, in their order; see `Engine.generate`."""
        return generate_all(self, requests)

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        """Give every vLLM process the weights, report what it received; see `Engine.load_weights`.

        Raises:
            WeightTransferError: a tensor is missing or unexpected, or has another shape here (nothing
                was sent); or vLLM did not take the weights, and the engine was ended.
        """
        self._require_awake()
        refuse_older_weights(self, bundle.version)
        refuse_other_names(self._shell.shapes.keys(), bundle)
        check_shapes(bundle.tensors, self._shell.shapes)
        return self._replace_weights("load_weights", bundle.version, self._buffer.updates(bundle.tensors))

    def receivers(self) -> Receivers:
        """The processes that hold a part of the model each."""
        return Receivers(self._options.tensor_parallel, "cpu" if is_on_cpu() else "cuda")

    def join_broadcast(self, seat: Seat) -> None:
        """Meet the learner and the other engines; see `Engine.join_broadcast`."""
        self._require_awake()
        announced = blank_tensors(seat.places)
        refuse_other_tensors(announced, self._shell.shapes)
        check_shapes(announced, self._shell.shapes)
        self._call("join_broadcast", lambda _: join(self._engine, seat))
        self._announced = seat.places

    def receive_weights(self, version: int) -> TransferReceipt:
        """Have every vLLM process take what the learner sends; see `Engine.receive_weights`."""
        self._require_awake()
        refuse_older_weights(self, version)
        return self._replace_weights("receive_weights", version, broadcast_updates(self._announced))

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Log-probs (temperature 1, unprocessed, nats) of tokens 1.. of each given sequence.

        Raises:
            RolloutError: a sequence leaves no position free after it, which vLLM needs; or there are
                no weights yet.
            EngineLostError: the engine died, or made no progress.
        """
        self._require_awake()
        self._require_weights()
        for number, sequence in enumerate(sequences):
            if self.positions is not None and len(sequence) >= self.positions:
                raise RolloutError(
                    "the probe does not fit into the model's positions",
                    where=f"probe sequence {number}",
                    found=f"{len(sequence)} tokens",
                    needed=f"at most {self.positions - 1}",
                )
        asked = [sequence for sequence in sequences if len(sequence) > 1]
        found = iter(self._call("probe", lambda beat: self._requests.probe(asked, beat)))
        return [next(found) if len(sequence) > 1 else () for sequence in sequences]

    def sleep(self) -> None:
        """Give up the accelerator's memory (vLLM's sleep level 2); on a CPU this frees nothing."""
        refuse_sleep(self)
        if not self._asleep and not is_on_cpu():
            self._call("sleep", lambda _: self._engine.sleep(level=2))
        self._version, self._has_weights, self._asleep = -1, False, True

    def wake(self) -> None:
        """Take the memory back."""
        if self._asleep and not is_on_cpu():
            self._call("wake", lambda _: self._engine.wake_up())
        self._asleep = False

    def check(self) -> None:
        """Raise what the next call would, if the engine's processes have died."""
        self._calls.check()

    def processes(self) -> list[int]:
        """The ids of the engine processes that this process started; theirs are below them."""
        return [process.pid for process in self._calls.processes() if process.pid is not None]

    def close(self) -> None:
        """End the engine's processes."""
        self._end()

    def _start(self, model: ModelConfig, threads: int | None) -> LLMEngine:
        options = self._options

        def start(beat: Beat) -> LLMEngine:
            with start_environment(options, threads):
                from vllm.engine.arg_utils import EngineArgs
                from vllm.v1.engine.llm_engine import LLMEngine

                arguments = engine_arguments(model, self._shell, options, self.slots, threads)
                return LLMEngine.from_engine_args(EngineArgs(**arguments))

        setting = "rollout.vllm.start_deadline_s"
        try:
            engine = self._calls.run("start", start, options.start_deadline_s, setting)
        except EngineLostError as error:
            # What ends one that starts ends the next one too.
            raise RolloutError(error.what, **error.details) from error
        except RlpostError:
            raise
        except Exception as error:
            raise RolloutError(
                "the vLLM engine did not start",
                where="rollout.vllm",
                found=f"{type(error).__name__}: {str(error).strip()}",
                remedy="the engine's own messages stand above",
            ) from error
        self._calls.started()
        for process in self.processes():
            unlink_shared_memory(process)
        length = engine.model_config.max_model_len
        self.positions = min(length, self.positions or length)
        return engine

    def _replace_weights(
        self, call: str, version: int, updates: Iterable[dict[str, list[Any]]]
    ) -> TransferReceipt:
        # Should the transfer break off, no half-new model may pass for any version.
        self._version, self._has_weights = -1, False
        received = self._call(call, lambda beat: transfer(self._engine, version, updates, beat))
        self._version, self._has_weights = version, True
        self._given.append(version)
        return TransferReceipt(version, received)

    def _require_awake(self) -> None:
        if self._asleep:
            raise RolloutError("the vLLM engine is asleep", where="rollout.engine", needed="wake first")

    def _require_weights(self) -> None:
        if not self._has_weights:
            raise RolloutError(
                "the vLLM engine has no weights", where="rollout.engine", needed="load_weights first"
            )

    def _call(self, what: str, work: Callable[[Beat], T]) -> T:
        try:
            return self._calls.run(
                what, work, self._options.stall_deadline_s, "rollout.vllm.stall_deadline_s"
            )
        except RlpostError:
            raise
        except Exception as error:
            # After an error of its own, what vLLM still has in its queues is unknown.
            self._end()
            kind = WeightTransferError if what in _TRANSFERS else RolloutError
            raise kind(
                f"the vLLM engine failed in {what}", found=f"{type(error).__name__}: {str(error).strip()}"
            ) from error


def _end(calls: EngineCalls, buffer: SharedBuffer, folder: Any) -> None:
    calls.close()
    buffer.close()
    folder.cleanup()
