"""DividedState: whole weights and optimizer state of a network that a ZeroEngine holds in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from rlpost.learner.learner_state import MOMENTS
from rlpost.learner.ranks import Ranks
from rlpost.learner.zero.engine import ZeroEngine
from rlpost.models import Adapter
from rlpost.weights.transfer import policy_tensors


class DividedState:
    """Reads and writes by the network's own names. Every method is called by all ranks.

    Args:
        engine: under whose ZeRO stage the network is divided.
        network: the one that the engine trains, or its frozen one; for the optimizer's state, the former.
        bucket_bytes: of weights that are gathered together.
        adapter: the network's, where it has one.
    """

    def __init__(
        self,
        engine: ZeroEngine,
        network: nn.Module,
        ranks: Ranks,
        bucket_bytes: int,
        adapter: Adapter | None = None,
    ) -> None:
        self._engine, self._network, self._ranks = engine, network, ranks
        self._bucket_bytes, self._adapter = bucket_bytes, adapter
        self._persistent = policy_tensors(network).keys() - dict(network.named_parameters()).keys()

    def shapes(self) -> dict[str, Sequence[int]]:
        """Of every whole tensor, by name, tied ones once."""
        buffers = {name: tensor.shape for name, tensor in self.buffers().items()}
        return {name: self._engine.shape(p) for name, p in self._network.named_parameters()} | buffers

    def weights(self) -> dict[str, Tensor] | None:
        """Copies of what a checkpoint holds on rank 0, on the CPU: the whole weights, or the adapter's.

        None on other ranks.
        """
        found: dict[str, Tensor] = {}
        for bucket in self._buckets(self._held()):
            with self._ranks.talking("gather weights"), self._engine.whole(list(bucket.values())):
                if self._ranks.rank == 0:
                    # What was gathered is gone afterwards, so it is always copied.
                    found |= {n: p.detach().to("cpu", copy=True) for n, p in bucket.items()}
        if self._ranks.rank:
            return None
        return found | {n: b.to("cpu", copy=True) for n, b in self._held_buffers().items()}

    def pieces(self, *, merged: bool = True) -> Iterator[dict[str, Tensor]]:
        """The whole weights, a bucket at a time; on other ranks than the first nothing.

        Args:
            merged: with the adapter in them; otherwise those that it stands beside.
        """
        keeps = self._ranks.rank == 0
        for bucket in self._buckets(self._everything()):
            with self._ranks.talking("gather weights"), self._engine.whole(list(bucket.values())):
                if not keeps:
                    continue
                if self._adapter is None:
                    yield dict(bucket)
                    continue
                for name, tensor in self._adapter.merged(bucket) if merged else self._adapter.base(bucket):
                    yield {name: tensor}
        if keeps:
            yield self.buffers()

    def copies(self) -> Iterator[tuple[str, Tensor]]:
        """A copy of each whole parameter, on every rank, one after the other; an adapter is in them."""
        for bucket in self._buckets(self._everything()):
            with self._engine.whole(list(bucket.values())):
                whole = bucket.items() if self._adapter is None else self._adapter.merged(bucket)
                for name, parameter in whole:
                    yield name, parameter.detach().clone()

    def factors(self) -> dict[str, Tensor]:
        """Copies of the adapter's whole weights, on every rank."""
        found: dict[str, Tensor] = {}
        for bucket in self._buckets(self._held()):
            with self._ranks.talking("gather the adapter"), self._engine.whole(list(bucket.values())):
                found |= {name: parameter.detach().clone() for name, parameter in bucket.items()}
        return found

    @torch.no_grad()
    def spread(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what a checkpoint holds, by name; every rank passes all of it."""
        # A divided parameter is the first rank's to change, and a mapped file is read where it is touched.
        writes = self._engine.stage < 3 or self._ranks.rank == 0
        for bucket in self._buckets(self._held()):
            parameters = list(bucket.values())
            with self._ranks.talking("spread weights"), self._engine.whole(parameters, changed=True):
                for name, parameter in bucket.items() if writes else ():
                    parameter.copy_(saved[name])
        for name, tensor in self._held_buffers().items():
            tensor.copy_(saved[name])

    def moments(self) -> dict[str, Tensor] | None:
        """AdamW's state as in `save_state` on rank 0; None on other ranks."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._trained():
            for key in MOMENTS:
                with self._ranks.talking("gather optimizer state"):
                    value = self._engine.moment(parameter, key)
                if value is not None and self._ranks.rank == 0:
                    found[f"{key}.{name}"] = value.detach().to("cpu", copy=True)
        return found if self._ranks.rank == 0 else None

    def set_moments(self, saved: Mapping[str, Tensor]) -> None:
        """Take up AdamW's state, after the engine was restarted; every rank passes all of it."""
        steps = [value for name, value in saved.items() if name.startswith("step.")]
        if not steps:
            return
        self._engine.make_moments(steps[0])
        for name, parameter in self._trained():
            for key in MOMENTS:
                if key != "step":
                    self._engine.set_moment(parameter, key, saved[f"{key}.{name}"])

    def buffers(self) -> dict[str, Tensor]:
        """Persistent ones, which ZeRO leaves whole."""
        return {n: b for n, b in self._network.named_buffers() if n in self._persistent}

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._network.named_parameters() if p.requires_grad]

    def _everything(self) -> Iterator[dict[str, nn.Parameter]]:
        """All parameters by name; a weight and the factors beside it stay together."""
        named = dict(self._network.named_parameters())
        taken: set[str] = set()
        for name, parameter in named.items():
            beside = None if self._adapter is None else self._adapter.factors_of(name)
            together = {name: parameter} | {factor: named[factor] for factor in beside or ()}
            if name not in taken:
                yield together
            taken |= together.keys()

    def _held(self) -> Iterator[dict[str, nn.Parameter]]:
        """What a checkpoint holds: the adapter's parameters, or all of them."""
        if self._adapter is None:
            yield from self._everything()
            return
        for name, parameter in self._adapter.trained.items():
            yield {name: parameter}

    def _held_buffers(self) -> dict[str, Tensor]:
        return self.buffers() if self._adapter is None else {}

    def _buckets(self, parts: Iterable[dict[str, nn.Parameter]]) -> Iterator[dict[str, nn.Parameter]]:
        """The parts in groups of bounded size that are gathered together."""
        bucket: dict[str, nn.Parameter] = {}
        size = 0
        for part in parts:
            own = sum(torch.Size(self._engine.shape(p)).numel() * p.element_size() for p in part.values())
            if bucket and size + own > self._bucket_bytes:
                yield bucket
                bucket, size = {}, 0
            bucket |= part
            size += own
        if bucket:
            yield bucket
