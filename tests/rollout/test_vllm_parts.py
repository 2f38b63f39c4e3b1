"""The parts of the vLLM engine that need no vLLM: shared memory, and calls with a deadline."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

from rlpost.errors import EngineLostError, RolloutError, WeightTransferError
from rlpost.rollout.vllm_buckets import SharedBuffer, read_update
from rlpost.rollout.vllm_calls import EngineCalls
from rlpost.weights import SharedWeights, checksum

TENSORS = {
    "a": torch.arange(7, dtype=torch.float32),
    "b": torch.full((3, 5), 1.5, dtype=torch.bfloat16),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "c": torch.arange(64, dtype=torch.float16).view(8, 8),
}


def checksums_of_another_process(updates, answers):
    """Reads what each update says and answers with the checksums, or with the error's text."""
    for update in iter(updates.get, None):
        try:
            answers.put({name: checksum for name, (_, checksum) in read_update(**update).items()})
        except WeightTransferError as error:
            answers.put(str(error))


@pytest.fixture
def reader(processes):
    """A function that has another process read an update."""
    updates, answers = processes.Queue(), processes.Queue()
    process = processes.Process(target=checksums_of_another_process, args=(updates, answers), daemon=True)
    process.start()

    def read(update):
        updates.put(update)
        return answers.get(timeout=60)

    yield read
    updates.put(None)
    process.join(timeout=60)


@pytest.mark.parametrize("where", ["plain", "shared"])
def test_another_process_reads_every_tensor_as_it_was_written(where, reader):
    buffer, owner = SharedBuffer(), SharedWeights()
    expected = {name: checksum(tensor) for name, tensor in TENSORS.items()}
    for limit in (1, 100, 200, 10**6):
        tensors = TENSORS
        if where == "shared":
            tensors = owner.export(0, [TENSORS], None).tensors
        found = {}
        for update in buffer.updates(tensors, limit):
            found |= reader(update)
        assert found == expected
        assert list(found) == list(TENSORS)


@pytest.mark.parametrize("where", ["plain", "shared"])
def test_a_transfer_takes_as_many_messages_for_a_thousand_tensors_as_for_ten(where, reader):
    buffer, owner = SharedBuffer(), SharedWeights()
    for limit, expected in ((2**18, 10), (2**22, 1)):
        for count in (10, 1000):
            tensors = {f"w{i}": torch.full((640_000 // count,), float(i)) for i in range(count)}
            if where == "shared":
                tensors = owner.export(0, [tensors], torch.float32).tensors
            answers = [reader(update) for update in buffer.updates(tensors, limit)]
            assert sum(len(answer) for answer in answers) == count
            assert len(answers) == expected


def test_tensors_in_shared_memory_do_not_go_through_the_engines_own_buffer():
    buffer, owner = SharedBuffer(), SharedWeights()
    tensors = owner.export(0, [TENSORS], torch.float32).tensors
    before = buffer.size
    (update,) = buffer.updates(tensors)
    assert buffer.size == before
    assert update["region"][1] == tensors.region.path


def test_an_update_that_was_overtaken_is_refused(reader):
    buffer = SharedBuffer()
    updates = buffer.updates(TENSORS, 100)
    first = next(updates)
    assert "a" in reader(first)
    next(updates)
    assert "given up this version" in reader(first)


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
        with pytest.raises(EngineLostError, match="made no progress") as caught:
            calls.run("wait", lambda beat: time.sleep(60), 0.5, "a.key")
        assert "raise a.key" in str(caught.value)
    assert not process.is_alive()


def test_a_call_whose_engine_process_is_killed_names_the_signal(calls):
    process = engine_process()
    assert calls.run("look", lambda beat: len(calls.processes()), 30, "key") == 1

    def work(beat):
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(EngineLostError, match="killed by signal 9"):
        calls.run("work", work, 30, "key")


def test_the_end_of_an_engine_leaves_the_process_of_one_that_started_later(calls):
    own = engine_process()
    calls.started()
    later = engine_process()
    calls.close()
    assert not own.is_alive() and later.is_alive()
    later.kill()
    later.join(timeout=30)


def test_closed_calls_are_refused(calls):
    calls.close()
    with pytest.raises(RolloutError, match="is closed"):
        calls.run("add", lambda beat: 1, 30, "key")


def test_an_engine_process_that_dies_between_two_calls_is_noticed(calls):
    process = engine_process()
    calls.check()
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=30)
    for _ in range(2):
        with pytest.raises(EngineLostError, match="killed by signal 9"):
            calls.check()
