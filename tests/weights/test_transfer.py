import os

import pytest
import torch

from rlpost.config.schema import ModelConfig, TinyModelConfig
from rlpost.errors import WeightTransferError
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout import TorchEngine
from rlpost.weights import SharedWeights, WeightBundle, WeightTransfer, policy_tensors, verify_receipt

LEARNER = [(-1.0, -2.0), (-0.5,)]


def transfer(every=3):
    return WeightTransfer(every, tolerance=0.01, probe_sequences=((5, 6, 7), (8, 9)))


def tiny(seed=0, **kwargs):
    size = TinyModelConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16, **kwargs)
    return load_model(ModelConfig(init="tiny", tiny=size), seed)


def test_the_first_transfer_and_every_nth_version_are_probed():
    checks = transfer(every=3)
    probed = []
    for version in range(4, 13):
        if checks.due(version):
            probed.append(version)
            checks.check_probe([LEARNER], LEARNER)
    assert probed == [4, 6, 9, 12]


def test_the_probe_gap_is_the_largest_over_engines_and_tokens():
    metrics = transfer().check_probe([[(-1.0, -2.001), (-0.5,)], [(-1.004, -2.0), (-0.5,)]], LEARNER)
    assert metrics == {"weights/probe_gap": pytest.approx(0.004)}


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ([(-1.0, -2.5), (-0.5,)], ["engine 1, probe sequence 0, token 2", "0.5 nats", "0.01"]),
        ([(-1.0, -2.0), (float("nan"),)], ["engine 1, probe sequence 1, token 1", "nan"]),
        ([(-1.0, -2.0)], ["[2] log-probs"]),
        ([(-1.0,), (-0.5,)], ["[1, 1] log-probs"]),
    ],
)
def test_a_probe_that_differs_names_engine_and_token(engine, words):
    with pytest.raises(WeightTransferError) as caught:
        transfer().check_probe([LEARNER, engine], LEARNER)
    for word in words:
        assert word in str(caught.value)


def test_silence_is_no_confirmation():
    bundle = WeightBundle.of(0, {"a": torch.zeros(1)})
    with pytest.raises(WeightTransferError, match="no engine confirmed"):
        transfer().check(bundle, [])
    with pytest.raises(WeightTransferError, match="no engine answered"):
        transfer().check_probe([], LEARNER)
    with pytest.raises(ValueError, match="two tokens"):
        WeightTransfer(1, 0.1, [(5,)])


def test_tied_tensors_appear_once_and_untied_ones_twice():
    tied, untied = policy_tensors(tiny(tie_embeddings=True)), policy_tensors(tiny(tie_embeddings=False))
    assert untied.keys() - tied.keys() == {"lm_head.weight"}
    assert "model.embed_tokens.weight" in tied


def test_policy_tensors_are_the_models_own_and_hold_persistent_buffers_only():
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.register_buffer("kept", torch.ones(3))
            self.register_buffer("scratch", torch.ones(3), persistent=False)

    model = Small()
    tensors = policy_tensors(model)
    assert tensors.keys() == {"weight", "kept"}
    with torch.no_grad():
        tensors["weight"].fill_(5.0)
    assert model.weight.tolist() == [5.0, 5.0]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory is for Linux")
def test_the_torch_engine_takes_up_weights_in_shared_memory():
    learner, owner = tiny(seed=1), SharedWeights()
    engine = TorchEngine(tiny(seed=0), load_tokenizer(ModelConfig(init="tiny")), slots=1)
    plain = WeightBundle.of(3, policy_tensors(learner))
    bundle = owner.export(3, [policy_tensors(learner)], torch.float32)
    verify_receipt(plain, engine.load_weights(bundle))
    probed = engine.probe([(65, 66, 67)])
    for version in (4, 5):
        owner.export(version, [policy_tensors(tiny(seed=version))], torch.float32)
    assert engine.probe([(65, 66, 67)]) == probed
    engine.load_weights(plain)
    assert engine.probe([(65, 66, 67)]) == probed
