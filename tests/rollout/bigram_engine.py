"""An engine that is a bigram table, and the ways in which its weight transfers can be made to fail."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from rlpost.errors import RolloutError
from rlpost.models.tokenizer import build_tiny_tokenizer
from rlpost.rollout import Sample, SampleRequest
from rlpost.rollout.engine import generate_all, refuse_older_weights, refuse_other_names, refuse_sleep
from rlpost.rollout.request_checks import check_requests
from rlpost.rollout.sampling import SamplingPlan, draw, uniform
from rlpost.rollout.stop import StopWatch, TextView
from rlpost.weights import TransferReceipt, WeightBundle, checksum


def table_bundle(version: int, seed: int) -> WeightBundle:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 3 * torch.randn(size, generator=generator)
        for name, size in (("bias", (261,)), ("shift", (261,)), ("table", (261, 261)))
    }
    return WeightBundle.of(version, tensors)


class Response:
    """One request and what was sampled for it so far."""

    def __init__(self, request: SampleRequest, view: TextView) -> None:
        self.request, self._view = request, view
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self._watch = StopWatch(request.settings.stop, view)

    def push(self, token: int, logprob: float, version: int) -> bool:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)
        stopped = self._watch.push(token)
        return stopped or token == 2 or len(self.ids) == self.request.settings.max_tokens

    def sample(self) -> Sample:
        text, reason = self._view(self.ids), "eos" if self.ids[-1] == 2 else "length"
        if stopped := self._watch.finish():
            text, reason = stopped[1], "stop"
        return Sample(
            self.request.id, tuple(self.ids), tuple(self.logprobs), tuple(self.versions), reason, text
        )


class BigramEngine:
    """logits(next | previous) = table[previous] + bias + 2 shift, with at most one fault.

    Faults: "drops" leaves out `table`; "corrupts" flips one number in it; "swaps" exchanges
    `bias` and `shift`; "acknowledges only" reports the new version and holds the old weights;
    "keeps a packed copy" stores and reports all rightly but goes on computing with the old table;
    "keeps its prefix cache" does not reset, with the weights, what it knows of prompts.

    Attributes:
        events: "tensor NAME", "reset", then "hit" or "miss" for each response begun, in their order.
    """

    def __init__(self, fault: str | None = None) -> None:
        self._fault = fault
        self._tensors = dict(table_bundle(0, 0).tensors)
        self._packed = self._tensors["table"]
        self._version = -1
        self._view = TextView(build_tiny_tokenizer())
        self._running: list[Response] = []
        self._awake, self._has_weights = True, True
        self._cache: dict[str, torch.Tensor] = {}
        self.tokens = 0
        self.events: list[str] = []

    @property
    def version(self) -> int:
        return self._version

    @property
    def unfinished(self) -> int:
        return len(self._running)

    def add(self, requests: Sequence[SampleRequest]) -> None:
        self._require_weights()
        check_requests(requests, {r.request.id for r in self._running}, embeddings=261, positions=None)
        self._running += [Response(request, self._view) for request in requests]

    def step(self) -> list[Sample]:
        self._require_weights()
        over = [response for response in self._running if self._decode(response)]
        self._running = [response for response in self._running if response not in over]
        return [response.sample() for response in over]

    def abort(self) -> None:
        self._running = []

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        return generate_all(self, requests)

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        self._require(self._awake, "asleep")
        refuse_older_weights(self, bundle.version)
        refuse_other_names(self._tensors.keys(), bundle)
        self._version, self._has_weights = bundle.version, True
        if self._fault != "acknowledges only":
            self._apply({name: tensor.clone() for name, tensor in bundle.tensors.items()})
        return TransferReceipt(self._version, {n: checksum(t) for n, t in self._tensors.items()})

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        self._require_weights()
        return [
            tuple(float(torch.log_softmax(self._logits(a).double(), -1)[b]) for a, b in pairwise(sequence))
            for sequence in sequences
        ]

    def sleep(self) -> None:
        refuse_sleep(self)
        self._version, self._awake, self._has_weights = -1, False, False

    def wake(self) -> None:
        self._awake = True

    def check(self) -> None: ...

    def close(self) -> None:
        self.abort()

    def _apply(self, new: dict[str, torch.Tensor]) -> None:
        self.events += [f"tensor {name}" for name in new]
        if self._fault == "drops":
            new["table"] = self._tensors["table"]
        if self._fault == "corrupts":
            new["table"][17, 4] += 1e-3
        if self._fault == "swaps":
            new["bias"], new["shift"] = new["shift"], new["bias"]
        self._tensors = new
        if self._fault != "keeps a packed copy":
            self._packed = new["table"]
        if self._fault != "keeps its prefix cache":
            self._cache.clear()
            self.events.append("reset")

    def _logits(self, previous: int) -> torch.Tensor:
        return self._packed[previous] + self._tensors["bias"] + 2 * self._tensors["shift"]

    def _prompt_logits(self, prompt: tuple[int, ...]) -> torch.Tensor:
        """By the prompt's text alone, as a server caches that knows of no versions."""
        text = repr(prompt)
        self.events.append("hit" if text in self._cache else "miss")
        if text not in self._cache:
            self._cache[text] = self._logits(prompt[-1])
        return self._cache[text]

    def _decode(self, response: Response) -> bool:
        request, position = response.request, len(response.ids)
        plan = SamplingPlan.of([request.settings], 261, torch.device("cpu"))
        u = torch.from_numpy(uniform(np.array([request.seed], np.uint64), np.array([position])))
        first = not response.ids
        logits = self._prompt_logits(request.prompt_token_ids) if first else self._logits(response.ids[-1])
        token, logprob = draw(logits[None], plan, u)
        self.tokens += 1
        return response.push(int(token), float(logprob), self._version)

    def _require_weights(self) -> None:
        self._require(self._awake, "asleep")
        self._require(self._has_weights, "has no weights")

    def _require(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise RolloutError(f"the bigram engine {otherwise}")
