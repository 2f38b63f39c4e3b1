"""Requests that wait for a slot, and the prompts computed ahead for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlpost.rollout.engine import SampleRequest

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

PREFILL_TOKENS = 8192
"""Padded prompt tokens of one prefill pass; bounds the memory of prompts that wait computed."""


@dataclass(frozen=True)
class Admission:
    """Requests that enter the batch together.

    Attributes:
        requests: positions in the list of requests.
        prefix: keys and values of prompt tokens but the last; None when all have one token.
        rows: int64, each request's row in `prefix`.
    """

    requests: tuple[int, ...]
    prefix: DynamicCache | None
    rows: Tensor


class WaitingLine:
    """Hands out requests in an order that keeps the batch full and its rows alike.

    Requests with the same prompt stand together and share one prefill. Those that may run
    longest go first, so that the batch does not end on one late starter; among equals, long
    prompts go first, so that neighbours need little padding. The order is of no consequence
    for what is sampled.
    """

    def __init__(
        self, requests: Sequence[SampleRequest], prefill: Callable[[Sequence[tuple[int, ...]]], DynamicCache]
    ) -> None:
        self._prefill = prefill
        waiting: dict[tuple[int, ...], list[int]] = {}
        for i, request in enumerate(requests):
            waiting.setdefault(request.prompt_token_ids, []).append(i)
        longest = {p: max(requests[i].settings.max_tokens for i in where) for p, where in waiting.items()}
        self._waiting = sorted(waiting.items(), key=lambda item: (-longest[item[0]], -len(item[0])))
        self._length = len(requests)
        self._ready = self._admissions()
        self._current: Admission | None = None

    def __len__(self) -> int:
        return self._length

    def admit(self, room: int) -> Iterator[Admission]:
        """Up to `room` waiting requests, in one admission for each prefill they come from."""
        while room > 0 and self._length > 0:
            ready = self._current or next(self._ready)
            taken, left = _split(ready, room)
            self._current = left if left.requests else None
            self._length -= len(taken.requests)
            room -= len(taken.requests)
            yield taken

    def _admissions(self) -> Iterator[Admission]:
        start = 0
        while start < len(self._waiting):
            end, width = start, 0
            while end < len(self._waiting):
                width = max(width, len(self._waiting[end][0]))
                if end > start and width * (end + 1 - start) > PREFILL_TOKENS:
                    break
                end += 1
            batch, start = self._waiting[start:end], end
            members = [(i, row) for row, (_, where) in enumerate(batch) for i in where]
            yield Admission(
                requests=tuple(i for i, _ in members),
                prefix=self._prefill([prompt for prompt, _ in batch]) if width > 1 else None,
                rows=torch.tensor([row for _, row in members]),
            )


def _split(admission: Admission, room: int) -> tuple[Admission, Admission]:
    requests, prefix, rows = admission.requests, admission.prefix, admission.rows
    return (
        Admission(requests[:room], prefix, rows[:room]),
        Admission(requests[room:], prefix, rows[room:]),
    )
