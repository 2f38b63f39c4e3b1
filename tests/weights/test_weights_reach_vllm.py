"""A learner's weights in shared memory, read there by a vLLM engine's own processes."""

import os
import pickle
from importlib.util import find_spec

import pytest
import torch

from rlpost.config.schema import ModelConfig, TinyModelConfig, VLLMConfig
from rlpost.errors import WeightTransferError
from rlpost.models import load_model
from rlpost.rollout import VLLMEngine
from rlpost.weights import SharedWeights, WeightBundle, policy_tensors, verify_receipt

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
    engine = VLLMEngine(MODEL, VLLMConfig(), slots=4, threads=1)
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
