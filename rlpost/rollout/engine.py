"""What every sampling engine is: token ids in, token ids with log-probs and versions out.

The torch engine and the vLLM engine pass the same contract tests (tests/rollout/engine_contract.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlpost.data.trajectory import FinishReason
from rlpost.weights.bundle import TransferReceipt, WeightBundle


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How one response is sampled.

    Attributes:
        temperature: divides the logits; 0 means greedy.
        top_p: nucleus mass in (0, 1]; 1 keeps all.
        top_k: number of tokens kept; 0 keeps all.
        max_tokens: the response ends with finish reason "length" after this many tokens.
        stop: the response ends with finish reason "stop" once its text holds one of these.
            The tokens that completed it stay in `token_ids`; `text` ends before it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One response wanted. Its tokens depend on the weights, this record and nothing else."""

    id: str
    prompt_token_ids: tuple[int, ...]
    seed: int
    settings: SamplingSettings


@dataclass(frozen=True, slots=True)
class Sample:
    """One response.

    Attributes:
        id: the request's.
        token_ids: every sampled token, the EOS or the stop string's tokens included.
        logprobs: per token, in nats, of the *processed* distribution (after temperature,
            top-k and top-p). At temperature 0, of the unscaled distribution.
        versions: the policy version that sampled each token.
        finish_reason: "eos", "stop" or "length".
        text: decoded without special tokens and without the stop string.
    """

    id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    finish_reason: FinishReason
    text: str


class Engine(Protocol):
    """A sampler with weights that can be replaced between calls."""

    @property
    def version(self) -> int:
        """The policy version of the weights now in use; -1 before the first transfer."""
        ...

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Sample one response per request, in the order of the requests."""
        ...

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        """Take the weights, drop every cache that older weights filled, report what arrived."""
        ...

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Log-probs (temperature 1, unprocessed) of tokens 1.. of each given sequence."""
        ...
