"""One response of a vLLM engine, from its request to its `Sample`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpost.config.engine_rules import VLLM_TEMPERATURES
from rlpost.data.trajectory import FinishReason
from rlpost.errors import ConfigError, WeightTransferError
from rlpost.rollout.engine import Sample, SampleRequest
from rlpost.rollout.stop import StopWatch, TextView

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput


class Response:
    """Collects what vLLM sampled for one request and says where the response ends.

    Args:
        eos_ids: every id that ends a response.
    """

    def __init__(self, request: SampleRequest, view: TextView, eos_ids: frozenset[int]) -> None:
        self._request, self._view, self._eos_ids = request, view, eos_ids
        self._watch = StopWatch(request.settings.stop, view) if request.settings.stop else None
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._versions: list[str] = []
        self._over = False

    def prompt(self) -> dict[str, list[int]]:
        """The prompt as vLLM takes it."""
        return {"prompt_token_ids": list(self._request.prompt_token_ids)}

    def parameters(self) -> SamplingParams:
        """vLLM's settings. Without stop strings nothing is sent before the response is complete."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        settings = self._request.settings
        return SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=settings.max_tokens,
            seed=self._request.seed,
            stop_token_ids=sorted(self._eos_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if self._watch else RequestOutputKind.FINAL_ONLY,
        )

    def push(self, output: CompletionOutput) -> bool:
        """Take the next tokens; True when a stop string ended the response before vLLM did."""
        if self._over:
            return False
        self._versions += [span.version for span in output.weight_versions or ()]
        for token_id, place in zip(output.token_ids, output.logprobs or (), strict=True):
            self._token_ids.append(token_id)
            self._logprobs.append(place[token_id].logprob)
            if self._watch is not None and self._watch.push(token_id):
                self._over = True
                break
        return self._over and output.finish_reason is None

    def sample(self, version: int) -> Sample:
        """The whole response, sampled with the weights of `version`.

        Raises:
            WeightTransferError: vLLM says that it sampled with other weights.
        """
        if other := set(self._versions) - {str(version)}:
            raise WeightTransferError(
                "vLLM sampled with other weights than it was given",
                where=f"request {self._request.id!r}",
                found=f"version {', '.join(sorted(other))}",
                needed=f"version {version}",
            )
        stopped = self._watch.finish() if self._watch is not None else None
        kept, text = stopped or (len(self._token_ids), self._view(self._token_ids))
        token_ids = tuple(self._token_ids[:kept])
        reason: FinishReason = "length"
        if stopped:
            reason = "stop"
        elif token_ids[-1] in self._eos_ids:
            reason = "eos"
        # Rounding of the log-softmax can leave a certain token a hair above 0.
        logprobs = tuple(min(0.0, logprob) for logprob in self._logprobs[:kept])
        return Sample(self._request.id, token_ids, logprobs, (version,) * kept, reason, text)


def check_temperature(request: SampleRequest) -> None:
    """Raise ConfigError for temperatures that vLLM refuses, or silently replaces by another."""
    low, high = VLLM_TEMPERATURES
    temperature = request.settings.temperature
    if temperature and not low <= temperature <= high:
        raise ConfigError(
            "vLLM does not sample at this temperature",
            where=f"request {request.id!r}",
            found=temperature,
            needed=f"0, or {low:g} to {high:g}",
        )
