import pytest
from bigram_engine import BigramEngine, table_bundle
from engine_contract import CONTRACT, Subject

from rlpost.errors import WeightTransferError
from rlpost.weights import WeightTransfer

SEQUENCES = ((10, 20, 30, 40), (7, 8))


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_the_fake_without_faults_keeps_the_contract(clause):
    clause(Subject(BigramEngine(), table_bundle))


def publish(engines, bundle):
    """One transfer as a run does it, with the learner's probe computed by an honest engine."""
    transfer = WeightTransfer(probe_every=10, tolerance=1e-3, probe_sequences=SEQUENCES)
    metrics = transfer.check(bundle, [engine.load_weights(bundle) for engine in engines])
    learner = BigramEngine()
    learner.load_weights(bundle)
    return metrics | transfer.check_probe(
        [engine.probe(SEQUENCES) for engine in engines], learner.probe(SEQUENCES)
    )


def test_honest_engines_pass_and_the_metrics_say_what_was_sent():
    assert publish([BigramEngine(), BigramEngine()], table_bundle(4, 1)) == {
        "weights/version": 4,
        "weights/tensors": 3,
        "weights/bytes": 4 * (261 + 261 + 261 * 261),
        "weights/probe_gap": 0,
    }


@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        ("drops", "tensor 'table'"),
        ("corrupts", "tensor 'table'"),
        ("swaps", "tensor 'bias'"),
        ("acknowledges only", "tensor 'bias'"),
        ("keeps a packed copy", "a gap of"),
    ],
)
def test_one_faulty_engine_stops_the_transfer_and_is_named(fault, culprit):
    with pytest.raises(WeightTransferError, match=culprit) as caught:
        publish([BigramEngine(), BigramEngine(fault)], table_bundle(4, 1))
    assert "engine 1" in str(caught.value)
