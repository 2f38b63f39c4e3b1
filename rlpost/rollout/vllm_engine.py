"""The vLLM engine: vLLM in processes of its own, with weights through shared memory."""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlpost.config.schema import ModelConfig, VLLMConfig
from rlpost.errors import RlpostError, RolloutError, WeightTransferError
from rlpost.rollout.engine import Sample, SampleRequest
from rlpost.rollout.stop import TextView
from rlpost.rollout.torch_engine import check_request
from rlpost.rollout.vllm_buckets import SharedBuffer, plan_buckets
from rlpost.rollout.vllm_calls import Beat, EngineCalls, unlink_shared_memory
from rlpost.rollout.vllm_responses import Response, check_temperature
from rlpost.rollout.vllm_start import engine_arguments, model_shell, start_environment
from rlpost.versions import require
from rlpost.weights.bundle import TransferReceipt, WeightBundle

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

T = TypeVar("T")


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
        RolloutError: the engine did not start.
        DeadlineError: it did not start in time.
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
        self._positions = min(limits, default=None)
        self._version = -1
        self._checksums = dict.fromkeys(self._shell.shapes, 0)
        self._has_weights = False
        self._ids = itertools.count()
        self._buffer = SharedBuffer()
        self._calls = EngineCalls("the vLLM engine")
        self._end = weakref.finalize(self, _end, self._calls, self._buffer, self._folder)
        try:
            self._engine: LLMEngine = self._start(model, threads)
        except Exception:
            self._end()
            raise

    @property
    def version(self) -> int:
        """The policy version of the weights in use; -1 before the first transfer."""
        return self._version

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Sample one response per request, in the order of the requests.

        Raises:
            ConfigError: a prompt plus `max_tokens` exceeds the model's positions, or a setting
                is out of range. Nothing was sampled.
            RolloutError: a prompt is empty or holds ids the model does not know; there are no
                weights yet; or the engine died.
            DeadlineError: the engine made no progress.
        """
        for request in requests:
            check_request(request, embeddings=self._shell.embeddings, positions=self._positions)
            check_temperature(request)
        if not requests:
            return []
        self._require_weights()
        batch = next(self._ids)
        responses = {
            f"{batch}-{i}": Response(request, self._view, self._shell.eos_ids)
            for i, request in enumerate(requests)
        }
        self._call("generate", lambda beat: self._sample(responses, beat))
        return [response.sample(self._version) for response in responses.values()]

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        """Give every vLLM process the weights, drop its prefix cache, report what it received.

        When names are missing or unexpected nothing is sent, the version stays, and the
        receipt shows the names the engine has.

        Raises:
            WeightTransferError: a tensor has another shape here (nothing was sent); or vLLM did
                not take the weights, and the engine has none now.
        """
        if self._shell.shapes.keys() == bundle.tensors.keys():
            self._check_shapes(bundle)
            # Should the transfer break off, no half-new model may pass for any version.
            self._version, self._has_weights = -1, False
            self._checksums = self._call("load_weights", lambda beat: self._transfer(bundle, beat))
            self._version, self._has_weights = bundle.version, True
        return TransferReceipt(self._version, dict(self._checksums))

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Log-probs (temperature 1, unprocessed, nats) of tokens 1.. of each given sequence.

        Raises:
            RolloutError: a sequence leaves no position free after it, which vLLM needs; there are
                no weights yet; or the engine died.
            DeadlineError: the engine made no progress.
        """
        self._require_weights()
        for number, sequence in enumerate(sequences):
            if self._positions is not None and len(sequence) >= self._positions:
                raise RolloutError(
                    "the probe does not fit into the model's positions",
                    where=f"probe sequence {number}",
                    found=f"{len(sequence)} tokens",
                    needed=f"at most {self._positions - 1}",
                )
        asked = {f"{next(self._ids)}-p": s for s in sequences if len(s) > 1}
        answers = self._call("probe", lambda beat: self._prompt_logprobs(asked, beat))
        found = iter([answers[key] for key in asked])
        return [next(found) if len(sequence) > 1 else () for sequence in sequences]

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

                arguments = engine_arguments(model, self._shell, options, self.slots)
                return LLMEngine.from_engine_args(EngineArgs(**arguments))

        setting = "rollout.vllm.start_deadline_s"
        try:
            engine = self._calls.run("start", start, options.start_deadline_s, setting)
        except RlpostError:
            raise
        except Exception as error:
            raise RolloutError(
                "the vLLM engine did not start",
                where="rollout.vllm",
                found=f"{type(error).__name__}: {str(error).strip()}",
                remedy="the engine's own messages stand above",
            ) from error
        for process in self.processes():
            unlink_shared_memory(process)
        length = engine.model_config.max_model_len
        self._positions = min(length, self._positions or length)
        return engine

    def _sample(self, responses: dict[str, Response], beat: Beat) -> None:
        for key, response in responses.items():
            self._engine.add_request(key, response.prompt(), response.parameters())
            beat()
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            beat()
            over = [o.request_id for o in outputs if responses[o.request_id].push(o.outputs[0])]
            if over:
                self._engine.abort_request(over)

    def _prompt_logprobs(self, asked: dict[str, tuple[int, ...]], beat: Beat) -> dict[str, tuple[float, ...]]:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        for key, sequence in asked.items():
            self._engine.add_request(key, {"prompt_token_ids": list(sequence)}, parameters)
            beat()
        answers: dict[str, tuple[float, ...]] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                pairs = zip(asked[output.request_id], output.prompt_logprobs, strict=True)
                answers[output.request_id] = tuple(place[i].logprob for i, place in pairs if place)
            beat()
        return answers

    def _transfer(self, bundle: WeightBundle, beat: Beat) -> dict[str, int]:
        engine = self._engine
        engine.collective_rpc("start_weight_update")
        for bucket in plan_buckets(bundle.tensors):
            self._buffer.write(bucket, bundle.tensors)
            places = [(p.name, p.dtype, list(p.shape), p.offset) for p in bucket]
            info = {"path": self._buffer.path, "size": self._buffer.size, "places": places}
            engine.collective_rpc("update_weights", kwargs={"update_info": info})
            beat()
        engine.collective_rpc("finish_weight_update")
        beat()
        if not engine.reset_prefix_cache():
            raise WeightTransferError("vLLM kept a prefix cache of the old weights", where="load_weights")
        engine.set_weight_version(str(bundle.version))
        received: list[dict[str, int]] = engine.collective_rpc("received_checksums")
        for rank, checksums in enumerate(received):
            if checksums != received[0]:
                name = min(checksums.items() ^ received[0].items())[0]
                raise WeightTransferError(
                    f"tensor {name!r} arrived differently in the engine's processes",
                    where=f"tensor-parallel ranks 0 and {rank}",
                )
        return received[0]

    def _check_shapes(self, bundle: WeightBundle) -> None:
        for name, tensor in bundle.tensors.items():
            if tuple(tensor.shape) != self._shell.shapes[name]:
                raise WeightTransferError(
                    f"tensor {name!r} does not fit the engine's model",
                    found=list(tensor.shape),
                    needed=list(self._shell.shapes[name]),
                    remedy="load learner and engine from the same model section",
                )

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
            kind = WeightTransferError if what == "load_weights" else RolloutError
            raise kind(
                f"the vLLM engine failed in {what}", found=f"{type(error).__name__}: {str(error).strip()}"
            ) from error


def _end(calls: EngineCalls, buffer: SharedBuffer, folder: Any) -> None:
    calls.close()
    buffer.close()
    folder.cleanup()
