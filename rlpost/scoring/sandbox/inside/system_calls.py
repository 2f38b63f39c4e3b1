"""A seccomp filter: system calls that no program under test needs and that reach beyond its own processes.

Refused calls fail with EPERM and the program goes on. It is a second fence inside the namespaces, and where
there are none, the one that stands between a program and the network, and other processes of its user.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Sequence

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`; of an argument the lower half, on a little-endian machine."""
X32 = 0x40000000
NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW... flags that clone takes
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}

REFUSED = {
    # other processes
    "ptrace": (101, 117),
    "kcmp": (312, 272),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # namespaces and mounts, by which a program could get capabilities of its own
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # large parts of the kernel that Python does without; io_uring would go round this filter
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "personality": (135, 92),
    # what outlives a program, or is memory that no limit counts
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
ONLY_ITSELF = {
    # their first argument may be 0 or the caller's own number
    "prlimit64": (302, 261),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
REFUSED_BY_WHO = {"setpriority": (141, 140), "ioprio_set": (251, 30)}
SIGNALS = {
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
TKILL, SOCKET, CLONE, CLONE3 = (200, 130), (41, 198), (56, 220), (435, 435)

Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Whether the filter is known for this machine."""
    return platform.machine() in AUDIT_ARCHITECTURE


def install(families: Sequence[int], own_pid: int | None = None) -> None:
    """Filter this process and all that it starts, for good.

    Args:
        families: kinds of sockets that may be made; none at all when empty (pairs of sockets always may).
        own_pid: given where processes of others can be seen: signals then go to this process, or its own
            group, and to no other.

    Raises:
        OSError: the kernel refuses.
    """
    program = rules(platform.machine(), families, own_pid)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def rules(machine: str, families: Sequence[int], own_pid: int | None) -> list[Instruction]:
    """The filter as instructions of the classic packet filter: code, jump if true, if false, operand."""
    column = COLUMN[machine]
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT_ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine == "x86_64":
        program += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, ERRNO | ENOSYS)]
    for numbers in [*REFUSED.values(), *REFUSED_BY_WHO.values()]:
        program += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ERRNO | EPERM)]
    # Its flags lie in memory, where no filter can look; C libraries then fall back to clone.
    program += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERRNO | ENOSYS)]
    refuse_bits = [
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, NEW_NAMESPACES),
        (RETURN, 0, 0, ERRNO | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    program += _only_for(CLONE[column], refuse_bits)
    program += _only_for(SOCKET[column], _one_of(families))
    itself = [0] if own_pid is None else [0, own_pid]
    for numbers in ONLY_ITSELF.values():
        program += _only_for(numbers[column], _one_of(itself))
    if own_pid is not None:
        program += [(EQUAL, 0, 1, TKILL[column]), (RETURN, 0, 0, ERRNO | EPERM)]
        for numbers in SIGNALS.values():
            program += _only_for(numbers[column], _one_of(itself))
    return [*program, (RETURN, 0, 0, ALLOW)]


def _only_for(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which ends in a return, when the call is this one."""
    return [(EQUAL, 0, len(body), number), *body]


def _one_of(values: Sequence[int]) -> list[Instruction]:
    """Allow the call when its first argument is one of these numbers."""
    body: list[Instruction] = [(LOAD, 0, 0, FIRST_ARGUMENT)]
    for value in values:
        body += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*body, (RETURN, 0, 0, ERRNO | EPERM)]
