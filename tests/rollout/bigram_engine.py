"""An engine that is a bigram table, and the ways in which its weight transfers can be made to fail."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from rlpost.models.tokenizer import build_tiny_tokenizer
from rlpost.rollout import Sample, SampleRequest
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


class BigramEngine:
    """logits(next | previous) = table[previous] + bias + 2 shift, with at most one fault.

    Faults: "drops" leaves out `table`; "corrupts" flips one number in it; "swaps" exchanges
    `bias` and `shift`; "acknowledges only" reports the new version and holds the old weights;
    "keeps a packed copy" stores and reports all rightly but goes on computing with the old table.
    """

    def __init__(self, fault: str | None = None) -> None:
        self._fault = fault
        self._tensors = dict(table_bundle(0, 0).tensors)
        self._packed = self._tensors["table"]
        self._version = -1
        self._view = TextView(build_tiny_tokenizer())

    @property
    def version(self) -> int:
        return self._version

    def load_weights(self, bundle: WeightBundle) -> TransferReceipt:
        if bundle.tensors.keys() == self._tensors.keys():
            self._version = bundle.version
            if self._fault != "acknowledges only":
                self._apply({name: tensor.clone() for name, tensor in bundle.tensors.items()})
        return TransferReceipt(self._version, {n: checksum(t) for n, t in self._tensors.items()})

    def _apply(self, new: dict[str, torch.Tensor]) -> None:
        if self._fault == "drops":
            new["table"] = self._tensors["table"]
        if self._fault == "corrupts":
            new["table"][17, 4] += 1e-3
        if self._fault == "swaps":
            new["bias"], new["shift"] = new["shift"], new["bias"]
        self._tensors = new
        if self._fault != "keeps a packed copy":
            self._packed = new["table"]

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        return [self._sample(request) for request in requests]

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        return [
            tuple(float(torch.log_softmax(self._logits(a).double(), -1)[b]) for a, b in pairwise(sequence))
            for sequence in sequences
        ]

    def _logits(self, previous: int) -> torch.Tensor:
        return self._packed[previous] + self._tensors["bias"] + 2 * self._tensors["shift"]

    def _sample(self, request: SampleRequest) -> Sample:
        plan = SamplingPlan.of([request.settings], 261, torch.device("cpu"))
        watch = StopWatch(request.settings.stop, self._view)
        ids, logprobs, reason = list(request.prompt_token_ids), [], "length"
        for position in range(request.settings.max_tokens):
            u = torch.from_numpy(uniform(np.array([request.seed], np.uint64), np.array([position])))
            token, logprob = draw(self._logits(ids[-1])[None], plan, u)
            ids.append(int(token))
            logprobs.append(float(logprob))
            if watch.push(ids[-1]) or ids[-1] == 2:
                reason = "eos"
                break
        response = tuple(ids[len(request.prompt_token_ids) :])
        text = self._view(response)
        if stopped := watch.finish():
            text, reason = stopped[1], "stop"
        versions = (self._version,) * len(response)
        return Sample(request.id, response, tuple(logprobs), versions, reason, text)
