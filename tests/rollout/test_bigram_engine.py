import random

import pytest
from bigram_engine import BigramEngine, table_bundle
from engine_contract import (
    CONTRACT,
    Subject,
    a_prompt_that_was_cached_is_computed_again_with_new_weights,
    finish,
    requests,
    tokens,
)

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


def test_an_engine_that_keeps_its_prefix_cache_breaks_the_contract():
    with pytest.raises(AssertionError):
        a_prompt_that_was_cached_is_computed_again_with_new_weights(
            Subject(BigramEngine("keeps its prefix cache"), table_bundle)
        )


@pytest.mark.parametrize("seed", range(20))
def test_a_cache_keyed_by_text_is_reset_after_the_last_tensor_and_misses_before_it_hits(seed):
    chance, engine = random.Random(seed), BigramEngine()
    engine.load_weights(table_bundle(0, 0))
    running = 0
    for version in range(1, 30):
        if chance.random() < 0.6:
            wanted = requests(9, max_tokens=4)[: chance.randint(1, 9)]
            if engine.unfinished == 0:
                running += 1
                engine.add(wanted)
        for _ in range(chance.randint(0, 5)):
            engine.step()
        if chance.random() < 0.3:
            engine.load_weights(table_bundle(version, version))
    finish(engine)
    assert running > 3
    kinds = [event.split()[0] for event in engine.events]
    last_tensors = [i for i, kind in enumerate(kinds) if kind == "tensor" and kinds[i + 1] != "tensor"]
    assert len(last_tensors) > 2
    for i in last_tensors:
        later = [kind for kind in kinds[i + 1 :] if kind != "tensor"]
        assert later[0] == "reset"
        assert later[1:2] in ([], ["miss"], ["reset"])


def test_a_prompt_sampled_before_and_after_a_sync_has_a_fresh_engines_samples():
    engine, fresh = BigramEngine(), BigramEngine()
    engine.load_weights(table_bundle(0, 1))
    engine.generate(requests())
    for subject in (engine, fresh):
        subject.load_weights(table_bundle(1, 2))
    assert tokens(engine.generate(requests())) == tokens(fresh.generate(requests()))
    assert fresh.events[-12:].count("miss") == engine.events[-12:].count("miss") == 3
