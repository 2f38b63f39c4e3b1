"""A learner and torch engines in one process, over gloo: every engine has the learner's weights."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rlpost.config.schema import ModelConfig, TinyModelConfig, TrainConfig
from rlpost.errors import BrokenTransferError, WeightTransferError
from rlpost.learner import TorchLearner
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout import SampleRequest, SamplingSettings, TorchEngine
from rlpost.weights import WeightTransfer
from rlpost.weights.broadcast import Seat
from rlpost.weights.communicator import Meeting

TINY = TinyModelConfig(hidden_size=32, layers=2, heads=2, intermediate_size=32, max_positions=96)
MODEL = ModelConfig(init="tiny", tiny=TINY)
PROBE = ((65, 66, 67, 68), (70, 71))


def engine(seed, model=MODEL):
    return TorchEngine(load_model(model, seed), load_tokenizer(model), slots=4)


def meet(learner, engines, deadline_s=30.0):
    offer = learner.offer_weights(True, deadline_s)
    meeting = Meeting(offer.host, offer.port, "gloo", 1 + len(engines), deadline_s)
    with ThreadPoolExecutor(len(engines)) as pool:
        joining = [
            pool.submit(engine.join_broadcast, Seat(meeting, rank, offer.places))
            for rank, engine in enumerate(engines, start=1)
        ]
        learner.join_broadcast(meeting)
        for future in joining:
            future.result()


def send(learner, engines, version):
    with ThreadPoolExecutor(len(engines)) as pool:
        receiving = [pool.submit(engine.receive_weights, version) for engine in engines]
        bundle = learner.send_weights(version)
        return bundle, [future.result() for future in receiving]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_engines_sample_on_with_each_version_that_the_learner_sends(dtype):
    model = MODEL.model_copy(update={"dtype": dtype})
    learner = TorchLearner(model, TrainConfig(), seed=1)
    engines = [engine(2, model), engine(3, model)]
    meet(learner, engines)
    proofs = WeightTransfer(1, 1e-3 if dtype == "float32" else 0.5, PROBE)
    engines[0].add([SampleRequest("a", (65, 66), 7, SamplingSettings(max_tokens=40))])
    for version in range(3):
        bundle, receipts = send(learner, engines, version)
        metrics = proofs.check(bundle, receipts)
        assert metrics["weights/tensors"] == len(bundle.tensors) and metrics["weights/bytes"] > 0
        proofs.check_probe([engine.probe(PROBE) for engine in engines], learner.probe(PROBE))
        for _ in range(3):
            engines[0].step()
    engines.append(engine(4, model))
    meet(learner, engines)
    proofs.check(*send(learner, engines, 3))
    while not (finished := engines[0].step()):
        pass
    assert sorted(set(finished[0].versions)) == [0, 1, 2, 3]


def test_an_engine_of_another_model_is_refused_with_the_tensors_name_before_it_waits():
    learner = TorchLearner(MODEL, TrainConfig(), seed=1)
    offer = learner.offer_weights(True, 30.0)
    seat = Seat(Meeting(offer.host, offer.port, "gloo", 2, 30.0), 1, offer.places)
    fewer = MODEL.model_copy(update={"tiny": TINY.model_copy(update={"layers": 1})})
    with pytest.raises(WeightTransferError, match=r"the same tensors: 'model\.layers\.1\."):
        engine(0, fewer).join_broadcast(seat)
    wider = MODEL.model_copy(update={"tiny": TINY.model_copy(update={"intermediate_size": 64})})
    with pytest.raises(WeightTransferError, match="does not fit the engine's model"):
        engine(0, wider).join_broadcast(seat)
    with pytest.raises(WeightTransferError, match="does not fit the engine's model"):
        engine(0, MODEL.model_copy(update={"dtype": "bfloat16"})).join_broadcast(seat)


def test_an_engine_whose_broadcast_breaks_off_has_no_version():
    learner, receiver = TorchLearner(MODEL, TrainConfig(), seed=1), engine(2)
    with pytest.raises(WeightTransferError, match="in no broadcast"):
        receiver.receive_weights(0)
    meet(learner, [receiver], deadline_s=2.0)
    with pytest.raises(BrokenTransferError):
        receiver.receive_weights(0)
    assert receiver.version == -1
    meet(learner, [receiver])
    send(learner, [receiver], 1)
    assert receiver.version == 1
