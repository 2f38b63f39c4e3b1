"""A learner's weights reach a vLLM engine's own processes: read in shared memory, or from a broadcast."""

import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch

from rlpost.config.schema import LoraConfig, ModelConfig, TinyModelConfig, TrainConfig, VLLMConfig
from rlpost.data.collate import ModelInputs
from rlpost.errors import BrokenTransferError, EngineLostError, WeightTransferError
from rlpost.estimator import TokenBatch, build_objective
from rlpost.learner import TorchLearner
from rlpost.models import load_model
from rlpost.rollout import VLLMEngine
from rlpost.weights import SharedWeights, WeightBundle, policy_tensors, verify_receipt
from rlpost.weights.broadcast import Seat
from rlpost.weights.communicator import Communicator, Meeting

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

TINY = TinyModelConfig(hidden_size=32, layers=2, heads=1, intermediate_size=32, max_positions=96)
MODEL = ModelConfig(init="tiny", tiny=TINY)
NAME = "model.layers.1.mlp.up_proj.weight"


def tensors(seed):
    return policy_tensors(load_model(MODEL, seed))


def flipped(bundle):
    """With one bit of `NAME` changed in the memory."""
    place = next(p for p in bundle.tensors.places if p.name == NAME)
    file = os.open(bundle.tensors.region.path, os.O_RDWR)
    byte = os.pread(file, 1, place.offset)[0]
    os.pwrite(file, bytes([byte ^ 1]), place.offset)
    os.close(file)
    return bundle


@pytest.fixture(scope="module")
def engine():
    engine = VLLMEngine(MODEL, VLLMConfig(kv_cache_gib=0.25), slots=4, threads=1)
    yield engine
    engine.close()


def test_vllm_reads_the_learners_memory_and_proves_what_it_read(engine, monkeypatch):
    owner, read = SharedWeights(), []
    rpc = engine._engine.collective_rpc

    def noted(method, *args, **kwargs):
        if method == "update_weights":
            read.append(kwargs["kwargs"]["update_info"]["region"][1])
        return rpc(method, *args, **kwargs)

    monkeypatch.setattr(engine._engine, "collective_rpc", noted)
    for version in range(3):
        shared = pickle.loads(pickle.dumps(owner.export(version, [tensors(version)], torch.float32)))
        verify_receipt(shared, engine.load_weights(shared))
        assert read.pop() == shared.tensors.region.path
        assert engine.version == version
        probed = engine.probe([(65, 66, 67, 68)])
        plain = WeightBundle.of(version, tensors(version))
        verify_receipt(plain, engine.load_weights(plain))
        assert read.pop() not in [memory.path for memory in owner._memories]
        assert engine.probe([(65, 66, 67, 68)]) == probed
    assert not read


def test_a_bit_that_changes_in_the_memory_after_the_export_is_found_in_vllms_copy(engine):
    owner = SharedWeights()
    sent = owner.export(5, [tensors(5)], torch.float32)
    receipt = engine.load_weights(flipped(sent))
    with pytest.raises(WeightTransferError, match=f"tensor '{NAME}' did not arrive"):
        verify_receipt(sent, receipt)


def test_weights_whose_owner_is_gone_are_refused_and_the_engine_goes_on_with_its_own(engine):
    owner, gone = SharedWeights(), SharedWeights()
    sent = owner.export(6, [tensors(6)], torch.float32)
    verify_receipt(sent, engine.load_weights(sent))
    before = engine.probe([(65, 66, 67, 68)])
    lost = gone.export(7, [tensors(7)], torch.float32)
    gone.close()
    with pytest.raises(WeightTransferError, match="memory is gone"):
        engine.load_weights(lost)
    assert engine.version == 6
    assert engine.probe([(65, 66, 67, 68)]) == before


def met(engine, seed, model=MODEL):
    """A learner that has met the engine's processes."""
    learner = TorchLearner(model, TrainConfig(learning_rate=1e-2), seed=seed)
    offer = learner.offer_weights(True, 60.0)
    meeting = Meeting(offer.host, offer.port, "gloo", 1 + engine.receivers().processes, 60.0)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(engine.join_broadcast, Seat(meeting, 1, offer.places))
        learner.join_broadcast(meeting)
        joining.result()
    return learner


def broadcast(learner, engine, version):
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(engine.receive_weights, version)
        return learner.send_weights(version), receiving.result()


def test_vllms_processes_receive_what_a_learner_broadcasts_and_a_bit_lost_on_the_way_is_found(
    engine, monkeypatch
):
    probe = [(65, 66, 67, 68)]
    for seed, version in ((10, 10), (11, 11)):
        learner = met(engine, seed)
        for number in (version, version + 10):
            bundle, receipt = broadcast(learner, engine, number)
            verify_receipt(bundle, receipt)
            assert engine.version == number
            assert engine.probe(probe)[0] == pytest.approx(learner.probe(probe)[0], abs=1e-4)
    send = Communicator.broadcast
    offset = next(p.offset for p in learner.offer_weights(True, 60.0).places if p.name == NAME)
    learner = met(engine, 12)

    def faulty(self, tensor):
        tensor[offset] ^= 1
        send(self, tensor)

    monkeypatch.setattr(Communicator, "broadcast", faulty)
    bundle, receipt = broadcast(learner, engine, 30)
    with pytest.raises(WeightTransferError, match=f"tensor '{NAME}' did not arrive"):
        verify_receipt(bundle, receipt)


def demonstration():
    """The arguments of an update that learns one response of eight tokens."""
    batch = TokenBatch(
        sequence_N=torch.zeros(8, dtype=torch.int64),
        mask_N=torch.ones(8, dtype=torch.bool),
        turn_N=torch.zeros(8, dtype=torch.int64),
        group_S=torch.zeros(1, dtype=torch.int64),
        reward_S=torch.ones(1, dtype=torch.float64),
        truncated_S=torch.zeros(1, dtype=torch.bool),
        demonstration_S=torch.ones(1, dtype=torch.bool),
    )
    objective = build_objective({"base": "sft"}, max_response_tokens=8)
    inputs = ModelInputs((torch.tensor([65, 66]),), (torch.arange(67, 75),))
    return inputs, objective.prepare(batch), objective, 1.0


def test_vllm_computes_what_a_learner_with_an_adapter_does_before_and_after_updates(engine):
    adapted = MODEL.model_copy(update={"lora": LoraConfig(rank=4, alpha=8.0)})
    learner, probe, answers = met(engine, 20, adapted), [(65, 66, 67, 68), (70, 71)], []
    for version in (50, 52, 54):
        shared = pickle.loads(pickle.dumps(learner.export_weights(version, shared=True)))
        verify_receipt(shared, engine.load_weights(shared))
        for found, needed in zip(engine.probe(probe), learner.probe(probe), strict=True):
            assert found == pytest.approx(needed, abs=1e-4)
        answers.append(engine.probe(probe)[0])
        bundle, receipt = broadcast(learner, engine, version + 1)
        verify_receipt(bundle, receipt)
        assert engine.probe(probe)[0] == pytest.approx(answers[-1], abs=1e-6)
        learner.update(*demonstration())
    assert max(abs(a - b) for a, b in zip(answers[0], answers[2], strict=True)) > 1e-2


def test_another_models_tensors_are_refused_before_anybody_waits(engine):
    other = MODEL.model_copy(update={"tiny": TINY.model_copy(update={"layers": 1})})
    offer = TorchLearner(other, TrainConfig(), seed=0).offer_weights(True, 60.0)
    meeting = Meeting(offer.host, offer.port, "gloo", 2, 60.0)
    with pytest.raises(WeightTransferError, match=r"'model\.layers\.1\..*'"):
        engine.join_broadcast(Seat(meeting, 1, offer.places))


def test_an_engine_that_dies_in_a_broadcast_is_lost_and_the_learner_is_told(engine):
    learner = met(engine, 40)
    with ThreadPoolExecutor(1) as pool:
        os.kill(engine.processes()[0], signal.SIGSTOP)
        receiving = pool.submit(engine.receive_weights, 40)
        os.kill(engine.processes()[0], signal.SIGKILL)
        with pytest.raises(EngineLostError):
            receiving.result()
    with pytest.raises(BrokenTransferError):
        for version in range(40, 60):
            learner.send_weights(version)
