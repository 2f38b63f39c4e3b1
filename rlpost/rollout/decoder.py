"""Continuous batching: a fixed number of slots, kept busy while requests come and go."""

from __future__ import annotations

import itertools
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
from rlpost.rollout.waiting import WaitingLine, prefill_batches

if TYPE_CHECKING:
    from transformers.cache_utils import Cache, DynamicCache

FIRST_COLUMNS = 64
"""Columns allocated at first; storage doubles when a row outgrows it."""

_ROW = np.dtype(
    [
        ("request", np.int64),  # the number of the request that the slot serves
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
    """The responses that run, those that wait for a slot, and their keys and values.

    The last prompt token of a row is read by the first decoding step, not by the prefill: so
    every response token comes from the same code, and a prompt's prefill can be shared.

    Args:
        slots: responses decoded at the same time.
        eos_ids: every id that ends a response.
        version: of the model's weights; each token is marked with it.

    Attributes:
        ids: of the requests added and not yet returned.
        sampled: tokens so far.
    """

    def __init__(
        self, model: CausalModel, *, slots: int, eos_ids: frozenset[int], view: TextView, version: int
    ) -> None:
        self._model, self._view, self._version = model, view, version
        self.ids: set[str] = set()
        self.sampled = 0
        self._rows: NDArray[np.void] = np.zeros(slots, dtype=_ROW)
        self._active = 0
        self._tokens = np.zeros((slots, 0), dtype=np.int64)
        self._versions = np.zeros((slots, 0), dtype=np.int64)
        self._logprobs = np.zeros((slots, 0), dtype=np.float64)
        self._cache = SlotCache(FIRST_COLUMNS)
        self._is_eos_V = np.isin(np.arange(model.vocabulary), list(eos_ids))
        self._numbers = itertools.count()
        self._running: dict[int, SampleRequest] = {}
        self._watches: dict[int, StopWatch] = {}
        self._waiting = WaitingLine()
        self._plan: SamplingPlan | None = None

    def add(self, requests: Sequence[SampleRequest]) -> None:
        """Let the requests wait for a slot."""
        self._waiting.add(requests)
        self.ids.update(request.id for request in requests)

    def step(self) -> list[Sample]:
        """One token for every response that runs; the responses that are then over."""
        self._admit()
        if not self._active:
            return []
        if self._plan is None:
            settings = [self._running[i].settings for i in self._rows["request"][: self._active]]
            self._plan = SamplingPlan.of(settings, self._model.vocabulary, self._model.device)
        done_B = self._decode(self._plan)
        return self._retire(done_B) if done_B.any() else []

    def refresh(self, version: int) -> None:
        """Go on with the model's new weights: everything that the old ones computed is computed anew."""
        self._version = version
        self._waiting.forget_prefixes()
        rows = self._rows[: self._active]
        order = np.argsort(-rows["position"], kind="stable")
        for batch in prefill_batches((rows["position"][order] + 1).tolist()):
            slots = order[batch.start : batch.stop]
            if rows["position"][slots[0]] > 0:
                prefix = self._prefill([self._sequence(int(slot)) for slot in slots])
                device = self._model.device
                self._cache.store(
                    torch.from_numpy(slots).to(device), prefix, torch.arange(len(slots), device=device)
                )

    def _sequence(self, slot: int) -> tuple[int, ...]:
        row = self._rows[slot]
        response = self._tokens[slot, : row["sampled"]].tolist()
        return (*self._running[int(row["request"])].prompt_token_ids, *response)

    def _admit(self) -> None:
        room = len(self._rows) - self._active
        if not room or not self._waiting:
            return
        self._plan = None
        # At once for all that come, so that storage is not copied for each admission.
        self._cache.reserve(self._active + min(room, len(self._waiting)), 0)
        for admission in self._waiting.admit(room, self._prefill):
            start, self._active = self._active, self._active + len(admission.requests)
            self._widen(max(r.settings.max_tokens for r in admission.requests))
            for slot, request in enumerate(admission.requests, start):
                self._seat(slot, request)
            if admission.prefix is not None:
                slots = torch.arange(start, self._active, device=self._model.device)
                self._cache.store(slots, admission.prefix, admission.rows.to(self._model.device))

    def _widen(self, columns: int) -> None:
        if (more := columns - self._tokens.shape[1]) > 0:
            self._tokens, self._versions, self._logprobs = (
                np.pad(array, ((0, 0), (0, more))) for array in (self._tokens, self._versions, self._logprobs)
            )

    def _seat(self, slot: int, request: SampleRequest) -> None:
        i, prompt, settings = next(self._numbers), request.prompt_token_ids, request.settings
        seed = request.seed & 0xFFFF_FFFF_FFFF_FFFF
        watched = bool(settings.stop)
        self._running[i] = request
        self._rows[slot] = (i, seed, prompt[-1], len(prompt) - 1, 0, settings.max_tokens, watched)
        if watched:
            self._watches[i] = StopWatch(settings.stop, self._view)

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> DynamicCache:
        from transformers.cache_utils import DynamicCache

        # Padding on the right is never seen: attention is causal, and decoding overwrites it.
        width = max(len(p) for p in prompts) - 1
        token_BT = torch.tensor([[*p[:-1], *[0] * (width + 1 - len(p))] for p in prompts])
        position_BT = torch.arange(width).expand(len(prompts), -1)
        device, cache = self._model.device, DynamicCache()
        self._model.next_logits(token_BT.to(device), position_BT.to(device), cache)
        return cache

    def _decode(self, plan: SamplingPlan) -> NDArray[np.bool_]:
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
        self._versions[np.arange(n), rows["sampled"]] = self._version
        self.sampled += n
        rows["token"] = token_B
        rows["position"] += 1
        rows["sampled"] += 1
        done_B = self._is_eos_V[token_B] | (rows["sampled"] >= rows["max_tokens"])
        if self._watches:
            for slot in np.flatnonzero(rows["watched"]):
                done_B[slot] |= self._watches[rows["request"][slot]].push(int(token_B[slot]))
        return done_B

    def _retire(self, done_B: NDArray[np.bool_]) -> list[Sample]:
        """The samples of finished rows, whose gaps the last rows that go on close."""
        samples = [self._sample(int(slot)) for slot in np.flatnonzero(done_B)]
        left = int((~done_B).sum())
        gaps = np.flatnonzero(done_B[:left])
        if len(gaps):
            movers = left + np.flatnonzero(~done_B[left:])
            for array in (self._rows, self._tokens, self._versions, self._logprobs):
                array[gaps] = array[movers]
            device = self._model.device
            self._cache.move(torch.from_numpy(movers).to(device), torch.from_numpy(gaps).to(device))
        self._active, self._plan = left, None
        return samples

    def _sample(self, slot: int) -> Sample:
        row = self._rows[slot]
        i, n = int(row["request"]), int(row["sampled"])
        request = self._running.pop(i)
        self.ids.remove(request.id)
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
        return Sample(
            id=request.id,
            token_ids=tuple(token_ids[:n]),
            logprobs=tuple(self._logprobs[slot, :n].tolist()),
            versions=tuple(self._versions[slot, :n].tolist()),
            finish_reason=reason,
            text=text,
        )
