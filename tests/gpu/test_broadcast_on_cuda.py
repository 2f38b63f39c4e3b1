"""What a CPU cannot show of a broadcast: NCCL, and fingerprints that an accelerator computes."""

import subprocess
import sys
import textwrap

import pytest
import torch

from rlpost.weights.communicator import Communicator, Host
from rlpost.weights.fingerprints import fingerprints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

MEMBER = """
    import sys
    import torch
    from rlpost.weights.broadcast import Receiver, Seat, Sender
    from rlpost.weights.communicator import Host, Meeting
    from rlpost.weights.fingerprints import fingerprints
    from rlpost.weights.places import plan_places

    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    torch.cuda.set_device(rank)
    generator = torch.Generator().manual_seed(7)
    tensors = {f"{i:02d}": torch.randn(1000, 37, generator=generator) for i in range(50)}
    places = tuple(plan_places(tensors, 0, torch.bfloat16))
    if rank == 0:
        host = Host(deadline_s=60.0)
        print(host.port, flush=True)
        sender = Sender(host.meeting("nccl", world_size, 60.0), host, places, 2**20)
        for version in range(3):
            sender.send(version, [{name: tensor.cuda() + version} for name, tensor in tensors.items()])
        torch.cuda.synchronize()
        sender.close()
    else:
        meeting = Meeting("127.0.0.1", int(sys.argv[3]), "nccl", world_size, 60.0)
        receiver = Receiver(Seat(meeting, rank, places), 2**20)
        for version in range(3):
            for bucket in receiver.buckets():
                wanted = {name: (tensors[name].cuda() + version).bfloat16() for name in bucket}
                assert all(tensor.is_cuda for tensor in bucket.values())
                assert fingerprints(bucket) == fingerprints(wanted)
        receiver.close()
"""


def test_an_accelerator_computes_the_fingerprints_that_the_cpu_computes():
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.uint8):
        for size in (1, 7, 4099, 3_000_001):
            tensor = (100 * torch.randn(size)).to(dtype)
            assert fingerprints({"x": tensor}) == fingerprints({"x": tensor.cuda()})


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs an accelerator for each member")
def test_weights_are_broadcast_over_nccl():
    command = [sys.executable, "-c", textwrap.dedent(MEMBER)]
    world_size = min(4, torch.cuda.device_count())
    sender = subprocess.Popen([*command, "0", str(world_size)], stdout=subprocess.PIPE, text=True)
    port = sender.stdout.readline().strip()
    members = [
        subprocess.Popen([*command, str(rank), str(world_size), port]) for rank in range(1, world_size)
    ]
    try:
        assert [member.wait(timeout=240) for member in [sender, *members]] == [0] * world_size
    finally:
        for member in [sender, *members]:
            member.kill()


def test_a_group_of_one_meets_over_nccl_and_sends_to_itself():
    host = Host(deadline_s=60.0)
    alone = Communicator(host.meeting("nccl", 1, 60.0), 0, host)
    sent = torch.arange(1000, dtype=torch.uint8, device="cuda")
    alone.broadcast(sent)
    torch.cuda.synchronize()
    assert sent.sum() == torch.arange(1000, dtype=torch.uint8).sum()
    alone.close()
