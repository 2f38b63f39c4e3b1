"""The thread that steps an engine: who waits for it gets an answer, whatever becomes of the engine."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from bigram_engine import BigramEngine, table_bundle
from engine_contract import requests

from rlpost.errors import RolloutError
from rlpost.rollout.stepping import ThreadStepper


class MortalEngine(BigramEngine):
    """Dies when it is told to, without anybody calling it."""

    died = False

    def __init__(self):
        super().__init__()
        self.noticed = threading.Event()

    def check(self):
        if self.died:
            self.noticed.set()
            raise RolloutError("the engine died")

    def step(self):
        self.check()
        return super().step()


@pytest.fixture
def engine():
    return MortalEngine()


@pytest.fixture
def stepper(engine):
    stepper = ThreadStepper(lambda: engine)
    yield stepper
    stepper.close()


def poll_until_it_raises(stepper):
    with pytest.raises(RolloutError, match="the engine died"):
        while True:
            stepper.poll(0.1)
            time.sleep(0.01)


def test_an_engine_that_dies_while_idle_is_noticed_though_nobody_calls_it(stepper, engine):
    stepper.call(lambda e: e.generate(requests()))
    engine.died = True
    poll_until_it_raises(stepper)
    poll_until_it_raises(stepper)


def test_an_engine_that_dies_while_sampling_fails_the_polls_and_none_waits(stepper, engine):
    stepper.call(lambda e: e.add(requests(80, max_tokens=4000)))
    engine.died = True
    for _ in range(2):
        with pytest.raises(RolloutError, match="the engine died"):
            while True:
                stepper.poll(600)
    with pytest.raises(RolloutError, match="nothing else"):
        stepper.call(lambda e: e.generate(requests()))


def test_responses_that_finished_before_an_error_are_reported_after_it_is_dealt_with(stepper, engine):
    short, long = requests(1, max_tokens=1)[0], requests(2, max_tokens=4000)[1]
    stepper.call(lambda e: e.add([short, long]))
    while stepper.call(lambda e: e.unfinished) == 2:
        pass
    engine.died = True
    assert engine.noticed.wait(30)
    # A call comes after the step that failed, so the polls know of it.
    stepper.call(lambda e: None)
    poll_until_it_raises(stepper)
    engine.died = False
    stepper.call(lambda e: e.abort())
    assert [sample.id for sample in stepper.poll(60).finished] == [short.id]


def test_an_engine_that_cannot_be_built_fails_each_call_and_no_poll(engine):
    built = []

    def build():
        built.append(1)
        if len(built) < 3:
            raise RolloutError("did not start")
        return engine

    stepper = ThreadStepper(build)
    for _ in range(2):
        with pytest.raises(RolloutError, match="did not start"):
            stepper.call(lambda e: e.version)
        assert stepper.poll(60).unfinished == 0
    assert stepper.call(lambda e: e.version) == -1
    stepper.close()


def test_a_closed_stepper_refuses_calls_and_its_thread_ends(engine):
    stepper = ThreadStepper(lambda: engine)
    thread = next(t for t in threading.enumerate() if t.name == "engine-steps" and t.is_alive())
    stepper.call(lambda e: e.add(requests()))
    stepper.close()
    with pytest.raises(RolloutError, match="is closed"):
        stepper.call(lambda e: e.version)
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_many_threads_may_submit_and_load_weights_while_one_polls(stepper):
    groups = [requests(80, max_tokens=20)[k::8] for k in range(8)]
    expected = {key for group in groups for key in (r.id for r in group)}
    stepper.call(lambda e: e.load_weights(table_bundle(0, 0)))
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(stepper.call, lambda e, g=group: e.add(g)) for group in groups]
        calls += [
            pool.submit(stepper.call, lambda e: e.load_weights(table_bundle(e.version + 1, 1)))
            for _ in range(5)
        ]
        found = {}
        while len(found) < len(expected):
            found |= {s.id: s for s in stepper.poll(0.05).finished}
        for call in calls:
            call.result(timeout=60)
    assert found.keys() == expected
    for sample in found.values():
        assert list(sample.versions) == sorted(sample.versions) and max(sample.versions) <= 5
