"""The parts of the vLLM engine that need no vLLM: shared memory, and calls with a deadline."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

from rlpost.errors import DeadlineError, RolloutError
from rlpost.rollout.vllm_buckets import BufferReader, SharedBuffer, plan_buckets
from rlpost.rollout.vllm_calls import EngineCalls
from rlpost.weights import checksum

TENSORS = {
    "a": torch.arange(7, dtype=torch.float32),
    "b": torch.full((3, 5), 1.5, dtype=torch.bfloat16),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "c": torch.arange(64, dtype=torch.float16).view(8, 8),
}


def checksums_of_another_process(path, rounds, answers):
    """Reads every bucket that `rounds` names and answers with (name, checksum) pairs."""
    reader = BufferReader()
    for size, bucket in iter(rounds.get, None):
        answers.put([(name, checksum(tensor)) for name, tensor in reader.read(path, size, bucket)])


@pytest.mark.parametrize("limit", [1, 100, 200, 10**6])
def test_another_process_reads_every_tensor_as_it_was_written(limit):
    context = multiprocessing.get_context("spawn")
    rounds, answers = context.Queue(), context.Queue()
    buffer, found = SharedBuffer(), []
    reader = context.Process(
        target=checksums_of_another_process, args=(buffer.path, rounds, answers), daemon=True
    )
    reader.start()
    for bucket in plan_buckets(TENSORS, limit):
        buffer.write(bucket, TENSORS)
        rounds.put((buffer.size, bucket))
        found += answers.get(timeout=60)
    rounds.put(None)
    reader.join(timeout=60)
    buffer.close()
    assert found == [(name, checksum(tensor)) for name, tensor in TENSORS.items()]


def test_buckets_hold_all_tensors_in_order_within_the_limit():
    tensors = {f"t{i}": torch.zeros(i % 40 + 1) for i in range(300)}
    buckets = list(plan_buckets(tensors, 1024))
    assert [place.name for bucket in buckets for place in bucket] == list(tensors)
    for bucket in buckets:
        assert bucket[-1].offset + tensors[bucket[-1].name].nbytes <= 1024
        assert all(place.offset % 64 == 0 for place in bucket)


def test_the_number_of_buckets_depends_on_bytes_and_not_on_tensors():
    few = {"w": torch.zeros(1024)}
    many = {f"w{i}": torch.zeros(16) for i in range(64)}
    assert len(list(plan_buckets(few, 2048))) == 1
    assert len(list(plan_buckets(many, 2048))) == 2


@pytest.fixture
def calls():
    calls = EngineCalls("the engine")
    yield calls
    calls.close()


def engine_process():
    """A process as vLLM starts one, by its name; it does nothing."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(600,), name="EngineCore", daemon=True)
    process.start()
    return process


def test_a_call_gives_back_its_result_or_its_error(calls):
    assert calls.run("add", lambda beat: 1 + 1, 30, "key") == 2
    with pytest.raises(ZeroDivisionError):
        calls.run("divide", lambda beat: 1 / 0, 30, "key")
    assert calls.run("add", lambda beat: 2 + 2, 30, "key") == 4


def test_a_call_that_beats_may_take_longer_than_the_deadline(calls):
    def slow(beat):
        for _ in range(8):
            time.sleep(0.25)
            beat()
        return "done"

    assert calls.run("slow", slow, 1.5, "key") == "done"


def test_a_call_without_progress_ends_the_engine_and_every_later_call(calls):
    process = engine_process()
    for _ in range(2):
        with pytest.raises(DeadlineError, match="made no progress") as caught:
            calls.run("wait", lambda beat: time.sleep(60), 0.5, "a.key")
        assert "raise a.key" in str(caught.value)
    assert not process.is_alive()


def test_a_call_whose_engine_process_is_killed_names_the_signal(calls):
    process = engine_process()
    assert calls.run("look", lambda beat: len(calls.processes()), 30, "key") == 1

    def work(beat):
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(RolloutError, match="killed by signal 9"):
        calls.run("work", work, 30, "key")


def test_closed_calls_are_refused(calls):
    calls.close()
    with pytest.raises(RolloutError, match="is closed"):
        calls.run("add", lambda beat: 1, 30, "key")
