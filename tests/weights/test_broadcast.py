"""Weights sent over gloo, between threads of one process: each has its own end of the group."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rlpost.errors import BrokenTransferError, WeightTransferError
from rlpost.weights import TransferReceipt, verify_receipt
from rlpost.weights.broadcast import Receiver, Seat, Sender
from rlpost.weights.communicator import Communicator, Host
from rlpost.weights.fingerprints import fingerprints
from rlpost.weights.places import plan_places

LIMIT = 4096


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"layer.{i}": torch.randn(17, 11, generator=generator) for i in range(9)}
    large = torch.randn(3000, generator=generator)
    return tensors | {"large": large, "ids": torch.arange(5), "none": torch.empty(0)}


def plan(tensors, dtype=torch.float32):
    return tuple(plan_places(tensors, 0, dtype))


def group(members, places, receive_plans=None, deadline_s=60.0):
    """A sender and so many receivers, which have met."""
    host = Host(deadline_s=deadline_s)
    meeting = host.meeting("gloo", 1 + members, deadline_s)
    plans = receive_plans or [places] * members
    with ThreadPoolExecutor(1 + members) as pool:
        receivers = [pool.submit(Receiver, Seat(meeting, 1 + i, plans[i]), LIMIT) for i in range(members)]
        sender = pool.submit(Sender, meeting, host, places, LIMIT)
        return sender.result(), [receiver.result() for receiver in receivers]


def received(receiver):
    return {name: tensor for bucket in receiver.buckets() for name, tensor in bucket.items()}


def transfer(sender, receivers, tensors, version=1):
    with ThreadPoolExecutor(len(receivers)) as pool:
        arriving = [pool.submit(received, receiver) for receiver in receivers]
        bundle = sender.send(version, [{name: t} for name, t in tensors.items()])
        return bundle, [future.result() for future in arriving]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_receiver_gets_every_bit_of_every_version(dtype):
    sender, receivers = group(3, plan(weights(), dtype))
    for version in range(3):
        tensors = weights(version)
        bundle, arrived = transfer(sender, receivers, tensors, version)
        assert bundle.version == version
        assert bundle.nbytes == sum(p.nbytes for p in plan(tensors, dtype))
        for own in arrived:
            for name, tensor in tensors.items():
                assert torch.equal(own[name], tensor.to(dtype) if tensor.is_floating_point() else tensor)
            verify_receipt(bundle, TransferReceipt(version, fingerprints(own)))


def test_the_number_of_broadcasts_depends_on_bytes_and_not_on_the_number_of_tensors(monkeypatch):
    counted = []
    broadcast = Communicator.broadcast

    def counting(self, tensor):
        counted.append(self.rank)
        broadcast(self, tensor)

    monkeypatch.setattr(Communicator, "broadcast", counting)
    few, many = {"one": torch.ones(900)}, {f"{i:03d}": torch.ones(16) for i in range(56)}
    for tensors in (few, many):
        sender, receivers = group(1, plan(tensors))
        transfer(sender, receivers, tensors)
    assert sorted(counted) == [0, 0, 1, 1]


def altered(monkeypatch, change):
    """Alters what the sender puts on the way, after its fingerprints were taken."""
    broadcast = Communicator.broadcast

    def faulty(self, tensor):
        if self.rank == 0 and tensor.numel() > 2048:
            change(tensor)
        broadcast(self, tensor)

    monkeypatch.setattr(Communicator, "broadcast", faulty)


def flip(buffer):
    buffer[768 * 3 + 5] ^= 4


def swap(buffer):
    first = buffer[768:1536].clone()
    buffer[768:1536] = buffer[1536:2304]
    buffer[1536:2304] = first


def shift(buffer):
    buffer[:748] = buffer[:748].roll(4)


@pytest.mark.parametrize(("change", "name"), [(flip, "layer.3"), (swap, "layer.1"), (shift, "layer.0")])
def test_a_tensor_that_is_altered_or_changes_places_on_the_way_is_named(monkeypatch, change, name):
    tensors = {f"layer.{i}": t for i, t in enumerate(weights().values()) if i < 5}
    sender, receivers = group(2, plan(tensors))
    altered(monkeypatch, change)
    bundle, arrived = transfer(sender, receivers, tensors)
    for own in arrived:
        with pytest.raises(WeightTransferError, match=f"tensor '{name}' did not arrive as it was sent"):
            verify_receipt(bundle, TransferReceipt(1, fingerprints(own)))


@pytest.mark.parametrize("fault", ["dropped", "reordered", "reshaped", "added"])
def test_a_learner_whose_tensors_are_not_those_it_announced_says_so_after_all_its_pieces(fault):
    tensors = weights()
    sent = dict(tensors)
    if fault == "dropped":
        del sent["layer.4"]
    elif fault == "reordered":
        sent = dict(sorted(sent.items(), key=lambda item: item[0] == "layer.4"))
    elif fault == "reshaped":
        sent["layer.4"] = sent["layer.4"].t()
    else:
        sent["more"] = torch.ones(1)
    gathered = []

    def pieces():
        for name, tensor in sent.items():
            yield {name: tensor}
            gathered.append(name)

    sender, receivers = group(1, plan(tensors), deadline_s=2.0)
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(received, receivers[0])
        with pytest.raises(WeightTransferError, match="more" if fault == "added" else r"layer\.4") as caught:
            sender.send(1, pieces())
        assert not isinstance(caught.value, BrokenTransferError)
        assert set(gathered) | {"more"} == set(sent) | {"more"}
        sender.close()
        if fault != "added":
            with pytest.raises(BrokenTransferError):
                arriving.result()


def test_a_member_that_does_not_come_or_goes_away_ends_the_wait_of_the_others():
    host = Host(deadline_s=2.0)
    with pytest.raises(BrokenTransferError, match="broke off"):
        Communicator(host.meeting("gloo", 2, 2.0), 0, host)
    tensors = weights()
    sender, (stays, goes) = group(2, plan(tensors), deadline_s=20.0)
    goes.close()
    failures = []

    def receive():
        with pytest.raises(BrokenTransferError) as caught:
            received(stays)
        failures.append(caught.value)

    thread = threading.Thread(target=receive)
    thread.start()
    with pytest.raises(BrokenTransferError):
        for version in range(20):
            sender.send(version, [tensors])
    sender.close()
    thread.join(60)
    assert failures


def test_members_listen_on_loopback_alone_when_all_are_on_one_host():
    assert Host(deadline_s=5.0).address == "127.0.0.1"
