"""Requests that wait for a slot, and the prompts computed ahead for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlpost.rollout.engine import SampleRequest

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

Prefill = Callable[[Sequence[tuple[int, ...]]], "DynamicCache"]
"""Keys and values of prompts but for each one's last token, a row each."""

PREFILL_TOKENS = 8192
"""Padded prompt tokens of one prefill pass; bounds the memory of prompts that wait computed."""


@dataclass(frozen=True)
class Admission:
    """Requests that enter the batch together.

    Attributes:
        prefix: keys and values of prompt tokens but the last; None when all have one token.
        rows: int64, each request's row in `prefix`.
    """

    requests: tuple[SampleRequest, ...]
    prefix: DynamicCache | None
    rows: Tensor


class WaitingLine:
    """Hands out requests in an order that keeps the batch full and its rows alike.

    What is added first goes first. Of requests added together, those with the same prompt stand
    together and share one prefill. Those that may run longest go first, so that the batch does not
    end on one late starter; among equals, long prompts go first, so that neighbours need little
    padding. The order is of no consequence for what is sampled.
    """

    def __init__(self) -> None:
        self._groups: deque[list[SampleRequest]] = deque()
        self._ready: Admission | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, requests: Sequence[SampleRequest]) -> None:
        """Put the requests at the end."""
        groups = _by_prompt(requests)
        groups.sort(key=lambda g: (-max(r.settings.max_tokens for r in g), -len(g[0].prompt_token_ids)))
        self._groups.extend(groups)
        self._length += len(requests)

    def admit(self, room: int, prefill: Prefill) -> Iterator[Admission]:
        """Up to `room` waiting requests, in one admission for each prefill they come from."""
        while room > 0 and self._length > 0:
            taken, left = _split(self._ready or self._compute(prefill), room)
            self._ready = left if left.requests else None
            self._length -= len(taken.requests)
            room -= len(taken.requests)
            yield taken

    def forget_prefixes(self) -> None:
        """Compute again what was computed ahead, when its turn comes."""
        if self._ready is not None:
            self._groups.extendleft(reversed(_by_prompt(self._ready.requests)))
            self._ready = None

    def _compute(self, prefill: Prefill) -> Admission:
        size = len(next(prefill_batches(len(group[0].prompt_token_ids) for group in self._groups)))
        groups = [self._groups.popleft() for _ in range(size)]
        prompts = [group[0].prompt_token_ids for group in groups]
        members = [(request, row) for row, group in enumerate(groups) for request in group]
        return Admission(
            requests=tuple(request for request, _ in members),
            prefix=prefill(prompts) if max(map(len, prompts)) > 1 else None,
            rows=torch.tensor([row for _, row in members]),
        )


def prefill_batches(lengths: Iterable[int]) -> Iterator[range]:
    """Runs of neighbours whose padded tokens fit into one prefill pass; a sequence too long goes alone."""
    start = end = width = 0
    for length in lengths:
        if end > start and max(width, length) * (end + 1 - start) > PREFILL_TOKENS:
            yield range(start, end)
            start, width = end, 0
        width = max(width, length)
        end += 1
    if end > start:
        yield range(start, end)


def _by_prompt(requests: Iterable[SampleRequest]) -> list[list[SampleRequest]]:
    groups: dict[tuple[int, ...], list[SampleRequest]] = {}
    for request in requests:
        groups.setdefault(request.prompt_token_ids, []).append(request)
    return list(groups.values())


def _split(admission: Admission, room: int) -> tuple[Admission, Admission]:
    requests, prefix, rows = admission.requests, admission.prefix, admission.rows
    return (
        Admission(requests[:room], prefix, rows[:room]),
        Admission(requests[room:], prefix, rows[room:]),
    )
