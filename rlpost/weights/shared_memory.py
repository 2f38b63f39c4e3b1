"""Memory that one process writes and others of the same host read.

It is anonymous memory (memfd): it has no name that could be left behind, counts against no
/dev/shm limit, and is gone when the last process that maps it is. Linux only.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from rlpost.errors import WeightTransferError

HEADER_BYTES = 64
"""Before the contents: the number of the writing that they come from."""

_NUMBER = struct.Struct("<q")
_BEING_WRITTEN = 0


@cache
def host_identity() -> str:
    """Equal in two processes exactly when each can open the other's shared memory, if the user is the same.

    Containers of one machine differ: they do not see each other's processes.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


@dataclass(frozen=True, slots=True)
class Region:
    """What a reader must know to find some contents and to see that they are still those.

    Attributes:
        host: the owner's `host_identity`.
        path: where the memory can be opened while the owner lives.
        inode: of the memory; a later process that got the owner's number has another one there.
        size: bytes to map.
        writing: which writing into the memory this is, counted from 1.
    """

    host: str
    path: str
    inode: int
    size: int
    writing: int


class OwnedMemory:
    """The writer's end. It grows as needed and keeps its size, so its pages are made only once.

    Every writing is between `begin` and `finish`.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("rlpost-weights", os.MFD_CLOEXEC)
        self._writings = 0
        self.size = HEADER_BYTES
        os.ftruncate(self._file, self.size)
        self.map = mmap.mmap(self._file, self.size)
        self.close = weakref.finalize(self, os.close, self._file)

    @property
    def path(self) -> str:
        """Where processes of the same user can open the memory while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def begin(self) -> None:
        """From now on, nobody may trust what was read; earlier contents are given up."""
        _NUMBER.pack_into(self.map, 0, _BEING_WRITTEN)

    def reserve(self, size: int) -> None:
        """Make `map` at least `size` bytes long; what was written stays."""
        if size > self.size:
            os.ftruncate(self._file, size)
            self.map = mmap.mmap(self._file, size)
            self.size = size

    def finish(self) -> Region:
        """The contents are complete: how others find them."""
        self._writings += 1
        _NUMBER.pack_into(self.map, 0, self._writings)
        return Region(host_identity(), self.path, os.fstat(self._file).st_ino, self.size, self._writings)


def map_region(region: Region) -> mmap.mmap:
    """The memory, with the contents that `region` describes, for reading.

    What is written to it reaches no other process. Who has it mapped keeps it when the owner ends.

    Raises:
        WeightTransferError: the owner is gone, or of another host, or has overwritten the contents.
    """
    if region.host != host_identity():
        raise WeightTransferError(
            "the weights lie in the shared memory of another host or container",
            where=region.path,
            found=region.host,
            needed=host_identity(),
        )
    memory = _mapped(region.path, region.inode, region.size)
    check_region(region, memory)
    return memory


def check_region(region: Region, memory: mmap.mmap) -> None:
    """Make sure that what was read until now came from the contents that `region` describes.

    Raises:
        WeightTransferError: the owner has begun to overwrite them.
    """
    (writing,) = _NUMBER.unpack_from(memory, 0)
    if writing != region.writing:
        raise WeightTransferError(
            "the owner of the weights' shared memory has given up this version for a newer one",
            where=region.path,
            found="a writing that goes on" if writing == _BEING_WRITTEN else f"writing {writing}",
            needed=f"writing {region.writing}",
            remedy="load the newest version; the one before it is kept, no older one",
        )


# The two memories that a learner uses in turn; mapped anew, all their pages would have to be found again.
@lru_cache(maxsize=2)
def _mapped(path: str, inode: int, size: int) -> mmap.mmap:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _gone(path, str(error)) from error
    try:
        if os.fstat(file).st_ino != inode:
            raise _gone(path, "something else in its place")
        return mmap.mmap(file, size, access=mmap.ACCESS_COPY)
    finally:
        os.close(file)


def _gone(path: str, found: str) -> WeightTransferError:
    return WeightTransferError(
        "the weights' shared memory is gone: the process that owned it has ended",
        where=path,
        found=found,
        remedy="export the weights again, from the learner that runs now",
    )
