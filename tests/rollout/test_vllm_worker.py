"""A rollout worker that samples with vLLM in the background: weights in flight, many turns, a dead engine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from importlib.util import find_spec

import pytest
from played import check_turns, task
from test_vllm_engine import bundle, gone, model_config, wait_until

from rlpost.config.schema import RolloutConfig, VLLMConfig
from rlpost.data.trajectory import Prompt
from rlpost.errors import EngineLostError
from rlpost.models.tokenizer import build_tiny_tokenizer
from rlpost.rollout import RolloutTask, RolloutWorker, SamplingSettings
from rlpost.weights import verify_receipt

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]


def tasks(n: int, name: str, **settings: object) -> list[RolloutTask]:
    chosen = SamplingSettings(**{"max_tokens": 60, **settings})
    return [RolloutTask(f"{name}{k}", Prompt("p", "ab", (70, 71)), k, chosen) for k in range(n)]


def poll_all(worker: RolloutWorker) -> dict[str, object]:
    """What the reports bring until nothing is unfinished, by id."""
    outcomes = {}
    while True:
        report = worker.poll(30)
        outcomes |= {trajectory.id: trajectory for trajectory in report.finished}
        if not report.unfinished:
            return outcomes


def test_weights_arrive_in_flight_and_a_killed_engine_reaches_the_driver_by_the_next_poll():
    before = multiprocessing.active_children()
    rollout = RolloutConfig(engine="vllm", slots=32, vllm=VLLMConfig(kv_cache_gib=0.25))
    worker = RolloutWorker(model_config(tied=True), rollout, seed=0, threads=1, background=True)
    assert worker.poll(60).version == -1
    outcomes = {}
    try:
        verify_receipt(bundle(0, 0), worker.load_weights(bundle(0, 0)))
        worker.submit(tasks(80, "free"))
        worker.submit(tasks(20, "stopped", stop=("e", "a", "o", "t")))
        worker.submit(tasks(32, "long", max_tokens=300))  # some are still there when the last weights come
        for version in (1, 2, 3):
            first = report = worker.poll(0)
            outcomes |= {trajectory.id: trajectory for trajectory in first.finished}
            while report.unfinished and report.tokens == first.tokens:
                report = worker.poll(0)
                outcomes |= {trajectory.id: trajectory for trajectory in report.finished}
            verify_receipt(bundle(version, version), worker.load_weights(bundle(version, version)))
            assert len(worker.probe([(65, 66, 67)])[0]) == 2
        outcomes |= poll_all(worker)
        versions = [trajectory.turns[0].versions for trajectory in outcomes.values()]
        assert len(versions) == 132 and worker.poll(0).version == 3
        assert all(list(one) == sorted(one) for one in versions)
        assert {v for one in versions for v in one} >= {0, 3}
        assert any(len(set(one)) > 1 for one in versions)

        worker.submit([task(f"played{k}", "5 turns", seed=k) for k in range(6)])
        for trajectory in poll_all(worker).values():
            check_turns(trajectory, worker, build_tiny_tokenizer())
            assert {v for turn in trajectory.turns if turn.by_policy for v in turn.versions} == {3}

        worker.submit(tasks(32, "doomed", max_tokens=300))
        (process,) = (p.pid for p in multiprocessing.active_children() if p not in before)
        os.kill(process, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(EngineLostError, match="killed by signal 9"):
                while True:
                    worker.poll(60)
        worker.abort()
        with pytest.raises(EngineLostError, match="killed by signal 9"):
            worker.submit(tasks(1, "late"))
        assert wait_until(lambda: gone(process))
    finally:
        worker.close()
