"""Ranks: what the learner ranks say to each other."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import ParseResult, urlparse

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlpost.errors import DeadlineError
from rlpost.machine import own_address
from rlpost.weights.communicator import LOOPBACK

BUCKET_BYTES = 64 * 2**20
"""Gradients are flattened into buffers of this size before they are summed."""

SIOCGIFADDR = 0x8915
"""Linux: asks for an interface's address."""

_LOST = re.compile(r"gloo|nccl|[Tt]imed out|[Tt]imeout|[Cc]onnection (closed|reset)")
"""What torch's errors say when another rank is late or gone; they have no class of their own."""


class Ranks:
    """A gloo process group of `world_size` learner ranks, or nothing at all for one rank.

    Every rank must make the same calls in the same order, also one that holds no sequences. Device
    tensors are summed through host memory.

    Args:
        rendezvous: where the ranks meet: "file:///path" on this machine (the file must not exist), or
            "tcp://address:port", where somebody keeps a store for this group alone. With several ranks it
            is required.
        deadline_s: longest wait for another rank in any call.
        backend: what carries tensors, in torch's notation.
        always: make a group of one for a single rank, too.

    Raises:
        DeadlineError: the ranks did not all come.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        rendezvous: str | None = None,
        deadline_s: float = 1800.0,
        *,
        backend: str = "gloo",
        always: bool = False,
    ) -> None:
        self.rank, self.world_size, self.deadline_s = rank, world_size, deadline_s
        if world_size == 1:
            if always and not dist.is_initialized():
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
                atexit.register(_leave)
            return
        if rendezvous is None:
            raise ValueError("several ranks need a rendezvous")
        place = urlparse(rendezvous)
        with self._deadline("meet"):
            # Else gloo listens on whatever address the host's name stands for.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(place.hostname))
            dist.init_process_group(
                backend,
                store=_store(place, world_size, timedelta(seconds=deadline_s)),
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=deadline_s),
            )
        # Gloo's threads must end before the interpreter does, or the process aborts on its way out.
        atexit.register(_leave)

    def gather(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Every rank's message, in the order of ranks; JSON values, NaN and infinity allowed."""
        data = json.dumps(message).encode()
        if self.world_size == 1:
            return [json.loads(data)]
        with self._deadline("exchange reports"):
            mine = torch.tensor([len(data)])
            sizes = [torch.zeros_like(mine) for _ in range(self.world_size)]
            dist.all_gather(sizes, mine)
            longest = max(int(size) for size in sizes)
            padded = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8)
            texts = [torch.empty_like(padded) for _ in range(self.world_size)]
            dist.all_gather(texts, padded)
        return [json.loads(bytes(text.tolist())) for text in texts]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up every gradient over the ranks, in place; all ranks end with the same bits."""
        if self.world_size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with self._deadline("sum gradients"):
                dist.all_reduce(flat, op=dist.ReduceOp.SUM)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather({})

    @contextmanager
    def talking(self, action: str) -> Iterator[None]:
        """Around code in which a library makes ranks wait for each other.

        Raises:
            DeadlineError: instead of torch's error, when another rank is late or gone.
        """
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
                raise
            with self._deadline(action):
                raise

    @contextmanager
    def _deadline(self, action: str) -> Iterator[None]:
        try:
            yield
        # torch raises plain RuntimeErrors both when a rank is late and when one is gone.
        except (RuntimeError, dist.DistError, OSError) as error:
            raise DeadlineError(
                f"learner rank {self.rank} could not {action} with the other ranks",
                found=str(error).splitlines()[0],
                needed=f"all {self.world_size} ranks alive and answering",
                remedy="look for the first error of another rank; cluster.deadline_s is the longest wait",
            ) from error


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _store(place: ParseResult, world_size: int, timeout: timedelta) -> dist.Store:
    if place.scheme == "file":
        store: dist.Store = dist.FileStore(place.path, world_size)
    else:
        # torch's own "tcp://" would make the first rank listen, on every interface.
        store = dist.TCPStore(place.hostname, place.port, is_master=False, timeout=timeout)
    store.set_timeout(timeout)
    return store


def _interface(host: str | None) -> str:
    """The network interface by which this machine reaches another one, or itself for None."""
    own = LOOPBACK if host is None else own_address(host)
    if own.startswith("127."):
        return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                request = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(request[20:24]) == own:
                    return name
    raise OSError(f"no network interface has the address {own}, by which {host} is reached")
