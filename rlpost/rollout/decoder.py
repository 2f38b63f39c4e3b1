"""Continuous batching: the loop that keeps a fixed number of slots busy until every request is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpost.data.trajectory import FinishReason
from rlpost.rollout.engine import Sample, SampleRequest
from rlpost.rollout.kv_cache import SlotCache
from rlpost.rollout.sampling import SamplingPlan, draw, uniform
from rlpost.rollout.stop import StopWatch, TextView
from rlpost.rollout.waiting import Admission, WaitingLine

if TYPE_CHECKING:
    from transformers.cache_utils import Cache, DynamicCache

FIRST_COLUMNS = 64
"""Response columns allocated at first; storage doubles when a row outgrows it."""

_ROW = np.dtype(
    [
        ("request", np.int64),  # which request the slot serves
        ("seed", np.uint64),
        ("token", np.int64),  # the token to be read next
        ("position", np.int64),  # its position in the sequence, and its column in the cache
        ("sampled", np.int64),  # response tokens so far
        ("max_tokens", np.int64),
        ("watched", np.bool_),  # has stop strings
    ],
    align=True,
)


class CausalModel(Protocol):
    """The forward pass the decoder needs; `TorchEngine` provides it."""

    device: torch.device
    dtype: torch.dtype
    vocabulary: int

    def next_logits(
        self, token_BT: Tensor, position_BT: Tensor, cache: Cache, mask: Tensor | None = None
    ) -> Tensor:
        """Logits [B, vocabulary] after the last column; keys and values go to `cache`."""
        ...


class Decoder:
    """One call's worth of decoding.

    The last prompt token of a row is read by the first decoding step, not by the prefill: so
    every response token comes from the same code, and a prompt's prefill can be shared.
    """

    def __init__(
        self,
        model: CausalModel,
        requests: Sequence[SampleRequest],
        *,
        slots: int,
        eos_ids: frozenset[int],
        view: TextView,
        version: int,
    ) -> None:
        self._model, self._requests, self._view, self._version = model, requests, view, version
        slots = min(slots, len(requests))
        longest_prompt = max(len(r.prompt_token_ids) for r in requests)
        longest_response = max(r.settings.max_tokens for r in requests)
        self._rows: NDArray[np.void] = np.zeros(slots, dtype=_ROW)
        self._active = 0
        self._tokens = np.zeros((slots, longest_response), dtype=np.int64)
        self._logprobs = np.zeros((slots, longest_response), dtype=np.float64)
        self._cache = SlotCache(slots, longest_prompt + min(longest_response, FIRST_COLUMNS))
        self._is_eos_V = np.isin(np.arange(model.vocabulary), list(eos_ids))
        self._watches: dict[int, StopWatch] = {}
        self._samples: list[Sample | None] = [None] * len(requests)
        self._waiting = WaitingLine(requests, self._prefill)

    def run(self) -> list[Sample]:
        """Sample every request; the result is in their order."""
        while self._waiting or self._active:
            self._admit()
            plan = self._plan()
            done_B = self._step(plan)
            while not done_B.any():
                done_B = self._step(plan)
            self._retire(done_B)
        return [sample for sample in self._samples if sample is not None]

    def _admit(self) -> None:
        for admission in self._waiting.admit(len(self._rows) - self._active):
            start, self._active = self._active, self._active + len(admission.requests)
            for slot, i in enumerate(admission.requests, start):
                self._seat(slot, i)
            self._copy_prompts(admission, start)

    def _seat(self, slot: int, i: int) -> None:
        request = self._requests[i]
        prompt, settings = request.prompt_token_ids, request.settings
        seed = request.seed & 0xFFFF_FFFF_FFFF_FFFF
        watched = bool(settings.stop)
        self._rows[slot] = (i, seed, prompt[-1], len(prompt) - 1, 0, settings.max_tokens, watched)
        if watched:
            self._watches[i] = StopWatch(settings.stop, self._view)

    def _copy_prompts(self, admission: Admission, start: int) -> None:
        if admission.prefix is not None:
            device = self._model.device
            slots = torch.arange(start, start + len(admission.requests), device=device)
            self._cache.admit(slots, admission.prefix, admission.rows.to(device))

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> DynamicCache:
        from transformers.cache_utils import DynamicCache

        # Padding on the right is never seen: attention is causal, and decoding overwrites it.
        width = max(len(p) for p in prompts) - 1
        token_BT = torch.tensor([[*p[:-1], *[0] * (width + 1 - len(p))] for p in prompts])
        position_BT = torch.arange(width).expand(len(prompts), -1)
        device, cache = self._model.device, DynamicCache()
        self._model.next_logits(token_BT.to(device), position_BT.to(device), cache)
        return cache

    def _plan(self) -> SamplingPlan:
        settings = [self._requests[i].settings for i in self._rows["request"][: self._active]]
        return SamplingPlan.of(settings, self._model.vocabulary, self._model.device)

    def _step(self, plan: SamplingPlan) -> NDArray[np.bool_]:
        """One token for every active row; True where a row's response is over."""
        rows, n, device = self._rows[: self._active], self._active, self._model.device
        position_B = torch.tensor(rows["position"], device=device)
        self._cache.begin_step(position_B, int(rows["position"].max()) + 1)
        logits_BV = self._model.next_logits(
            torch.tensor(rows["token"], device=device)[:, None],
            position_B[:, None],
            self._cache,
            self._cache.mask(position_B, self._model.dtype),
        )
        uniform_B = torch.from_numpy(uniform(rows["seed"], rows["sampled"])).to(device)
        drawn_B, logprob_B = draw(logits_BV, plan, uniform_B)
        token_B = drawn_B.cpu().numpy()
        self._tokens[np.arange(n), rows["sampled"]] = token_B
        self._logprobs[np.arange(n), rows["sampled"]] = logprob_B.cpu().numpy()
        rows["token"] = token_B
        rows["position"] += 1
        rows["sampled"] += 1
        done_B = self._is_eos_V[token_B] | (rows["sampled"] >= rows["max_tokens"])
        if self._watches:
            for slot in np.flatnonzero(rows["watched"]):
                done_B[slot] |= self._watches[rows["request"][slot]].push(int(token_B[slot]))
        return done_B

    def _retire(self, done_B: NDArray[np.bool_]) -> None:
        """Hand in finished rows and close the gaps with the last rows that go on."""
        for slot in np.flatnonzero(done_B):
            self._hand_in(int(slot))
        left = int((~done_B).sum())
        gaps = np.flatnonzero(done_B[:left])
        if len(gaps):
            movers = left + np.flatnonzero(~done_B[left:])
            for array in (self._rows, self._tokens, self._logprobs):
                array[gaps] = array[movers]
            device = self._model.device
            self._cache.move(torch.from_numpy(movers).to(device), torch.from_numpy(gaps).to(device))
        self._active = left

    def _hand_in(self, slot: int) -> None:
        row = self._rows[slot]
        i, n = int(row["request"]), int(row["sampled"])
        token_ids = self._tokens[slot, :n].tolist()
        stopped = self._watches.pop(i).finish() if row["watched"] else None
        if stopped is not None:
            n, text = stopped
        else:
            text = self._view(token_ids)
        reason: FinishReason = "length"
        if stopped is not None:
            reason = "stop"
        elif self._is_eos_V[token_ids[-1]]:
            reason = "eos"
        self._samples[i] = Sample(
            id=self._requests[i].id,
            token_ids=tuple(token_ids[:n]),
            logprobs=tuple(self._logprobs[slot, :n].tolist()),
            versions=(self._version,) * n,
            finish_reason=reason,
            text=text,
        )
