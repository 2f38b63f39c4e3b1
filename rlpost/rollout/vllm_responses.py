"""One response of a vLLM engine, from its request to its `Sample`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlpost.config.rules.engine_rules import VLLM_TEMPERATURES
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
        given: the versions of the weights that the engine is given, the one in use last; it goes on
            to grow while the response is sampled.
    """

    def __init__(
        self, request: SampleRequest, view: TextView, eos_ids: frozenset[int], given: Sequence[int]
    ) -> None:
        self.request = request
        self._view, self._eos_ids = view, eos_ids
        self._given, self._first = given, len(given) - 1
        self._watch = StopWatch(request.settings.stop, view) if request.settings.stop else None
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []

    @property
    def tokens(self) -> int:
        """Tokens taken so far."""
        return len(self._token_ids)

    def prompt(self) -> dict[str, list[int]]:
        """The prompt as vLLM takes it."""
        return {"prompt_token_ids": list(self.request.prompt_token_ids)}

    def parameters(self) -> SamplingParams:
        """vLLM's settings. Without stop strings nothing is sent before the response is complete."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        settings = self.request.settings
        return SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=settings.max_tokens,
            seed=self.request.seed,
            stop_token_ids=sorted(self._eos_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if self._watch else RequestOutputKind.FINAL_ONLY,
        )

    def push(self, output: CompletionOutput) -> bool:
        """Take the next tokens; True when the response is over: vLLM says so, or a stop string ends it."""
        for token_id, place in zip(output.token_ids, output.logprobs or (), strict=True):
            self._token_ids.append(token_id)
            self._logprobs.append(place[token_id].logprob)
            if self._watch is not None and self._watch.push(token_id):
                return True
        return output.finish_reason is not None

    def sample(self, spans: Sequence[tuple[str, int]]) -> Sample:
        """The whole response.

        Args:
            spans: (version, first token sampled with it), as vLLM reports them.

        Raises:
            WeightTransferError: a token was sampled with weights that the engine was not given, or
                with older ones than the token before.
        """
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
        return Sample(self.request.id, token_ids, logprobs, self._versions(spans, kept), reason, text)

    def _versions(self, spans: Sequence[tuple[str, int]], tokens: int) -> tuple[int, ...]:
        allowed = list(dict.fromkeys(self._given[self._first :]))
        labels = [label for label, _ in spans]
        starts = [start for _, start in spans]
        order = [allowed.index(int(v)) for v in labels if v in map(str, allowed)]
        if len(order) < len(labels) or order != sorted(order) or starts[:1] != [0]:
            raise WeightTransferError(
                "vLLM sampled with other weights than it was given",
                where=f"request {self.request.id!r}",
                found=", ".join(f"version {v} from token {n} on" for v, n in spans) or "no version",
                needed=f"version {', then '.join(map(str, allowed))}",
            )
        ends = [*starts[1:], tokens]
        return tuple(
            int(label)
            for label, start, end in zip(labels, starts, ends, strict=True)
            for _ in range(start, min(end, tokens))
        )


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
