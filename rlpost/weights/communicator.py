"""Communicator: processes of several groups and hosts, one of which sends tensors to all others.

It is a process group of torch beside the default one, of NCCL between accelerators and of gloo between
CPUs. Torch's groups and not vLLM's own communicator, because they run on both, and end a wait in time.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from rlpost.errors import BrokenTransferError
from rlpost.machine import own_address

Backend = Literal["gloo", "nccl"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where and how the members of a group find each other.

    Attributes:
        host: address of the member with rank 0.
        world_size: number of members.
        deadline_s: longest wait for the others, when meeting and in each broadcast.
    """

    host: str
    port: int
    backend: Backend
    world_size: int
    deadline_s: float


class Host:
    """Where processes meet: a store of torch's that listens on one address only.

    It serves as long as this object lives.

    Args:
        address: of this host; the default serves this host alone.
    """

    def __init__(self, *, deadline_s: float, address: str = LOOPBACK) -> None:
        self.address = address
        with socket.create_server((self.address, 0)) as listener:
            self.port: int = listener.getsockname()[1]
            self.store = dist.TCPStore(
                self.address,
                self.port,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=deadline_s),
                master_listen_fd=listener.detach(),
            )

    def meeting(self, backend: Backend, world_size: int, deadline_s: float) -> Meeting:
        """For so many members."""
        return Meeting(self.address, self.port, backend, world_size, deadline_s)


class Communicator:
    """One member of a group; it waits until all are there.

    A group serves until one of its members is lost; then each of the others must join a new one.

    Args:
        rank: from 0, which sends.
        host: of the meeting, for rank 0.

    Raises:
        BrokenTransferError: the others did not come in time.
    """

    def __init__(self, meeting: Meeting, rank: int, host: Host | None = None) -> None:
        self.rank, self.backend = rank, meeting.backend
        self.deadline = timedelta(seconds=meeting.deadline_s)
        self.device = torch.device("cpu")
        if self.backend == "nccl":
            self.device = torch.device("cuda", torch.cuda.current_device())
        try:
            store = host.store if host is not None else self._store(meeting)
            self._group = self._make(dist.PrefixStore("weights", store), meeting)
        except (RuntimeError, dist.DistError) as error:
            raise _broken(f"member {rank} of {meeting.world_size} did not meet the others", error) from error

    def broadcast(self, tensor: Tensor) -> None:
        """Rank 0's `tensor` for all; must be contiguous, on `device`, of one dtype and size everywhere.

        On an accelerator it is only ordered before what the current stream does next.

        Raises:
            BrokenTransferError: another member is gone or too late; the group is of no more use.
        """
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        options.timeout = self.deadline
        try:
            self._group.broadcast([tensor], options).wait()
        except (RuntimeError, dist.DistError) as error:
            raise _broken(f"member {self.rank} could not go on", error) from error

    def close(self) -> None:
        """Let go of the others, without waiting for them."""
        if self.backend == "nccl" and self._group is not None:
            self._group.abort()
        self._group = None

    def _store(self, meeting: Meeting) -> dist.Store:
        return dist.TCPStore(meeting.host, meeting.port, is_master=False, timeout=self.deadline)

    def _make(self, store: dist.Store, meeting: Meeting) -> Any:
        if self.backend == "nccl":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self.deadline
            return dist.ProcessGroupNCCL(store, self.rank, meeting.world_size, options)
        options = dist.ProcessGroupGloo._Options()
        options._timeout = self.deadline
        # Else gloo listens on whatever address the host's name stands for.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address(meeting.host))]
        return dist.ProcessGroupGloo(store, self.rank, meeting.world_size, options)


def _broken(what: str, error: Exception) -> BrokenTransferError:
    return BrokenTransferError(
        "the broadcast of the weights broke off",
        where=what,
        found=str(error).strip().splitlines()[0],
        remedy="look for a process that died or stands still; weights.deadline_s is the longest wait",
    )
