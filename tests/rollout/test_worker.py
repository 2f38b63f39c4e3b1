import math
import pickle
from dataclasses import replace

import pytest
import torch

from rlpost.config.schema import ModelConfig, RolloutConfig, TinyModelConfig
from rlpost.data.trajectory import Prompt, Trajectory
from rlpost.errors import RolloutError
from rlpost.models import load_model
from rlpost.rollout import (
    RolloutTask,
    RolloutWorker,
    Sample,
    SampleRequest,
    WorkerReport,
    sample_seed,
    sampling_settings,
)
from rlpost.weights import WeightBundle, policy_tensors, verify_receipt

MODEL = ModelConfig(
    init="tiny",
    tiny=TinyModelConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16, max_positions=64),
)
ROLLOUT = RolloutConfig(temperature=0.9, top_p=0.95, top_k=30, max_response_tokens=7, stop=["x"], slots=3)


def tasks():
    prompts = [Prompt("p0", "ab", (70, 71)), Prompt("p1", "c", (72,))]
    return [
        RolloutTask(
            f"main-000001-{p.id}-{k:03d}", p, sample_seed(0, "main", 1, p.id, k), sampling_settings(ROLLOUT)
        )
        for p in prompts
        for k in range(4)
    ]


def test_a_task_becomes_a_trajectory_of_one_policy_turn():
    worker = RolloutWorker(MODEL, ROLLOUT, seed=0)
    bundle = WeightBundle.of(5, policy_tensors(load_model(MODEL, seed=3)))
    verify_receipt(bundle, worker.load_weights(pickle.loads(pickle.dumps(bundle))))
    assert worker.policy_version() == 5
    trajectories = worker.rollout(tasks())
    assert pickle.loads(pickle.dumps(trajectories)) == trajectories
    for task, trajectory in zip(tasks(), trajectories, strict=True):
        assert (trajectory.id, trajectory.prompt, trajectory.seed) == (task.id, task.prompt, task.seed)
        (turn,) = trajectory.turns
        assert turn.by_policy and set(turn.versions) == {5} and 1 <= trajectory.length <= 7
        assert trajectory.reward is None


def test_two_workers_sample_the_same_and_so_does_one_with_other_slots():
    first, second = (RolloutWorker(MODEL, ROLLOUT, seed=1) for _ in range(2))
    expected = [t.token_ids for t in first.rollout(tasks())]
    assert [t.token_ids for t in second.rollout(tasks())] == expected
    second.configure(ROLLOUT.model_copy(update={"slots": 1}))
    assert [t.token_ids for t in second.rollout(tasks())] == expected
    assert [t.token_ids for t in RolloutWorker(MODEL, ROLLOUT, seed=2).rollout(tasks())] != expected


def test_the_settings_of_training_are_the_rollout_sections():
    settings = sampling_settings(ROLLOUT)
    assert (settings.temperature, settings.top_p, settings.top_k) == (0.9, 0.95, 30)
    assert (settings.max_tokens, settings.stop) == (7, ("x",))


def test_sample_seeds_are_stable_distinct_and_63_bits():
    keys = [
        (run, stage, step, prompt, k)
        for run in (0, 1)
        for stage in ("a", "b")
        for step in (1, 11)
        for prompt in ("p", "p1", "1")
        for k in (0, 1, 11)
    ]
    seeds = [sample_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= s < 2**63 for s in seeds)
    assert sample_seed(0, "main", 1, "p0", 0) == PINNED


PINNED = 80052546625859427


@pytest.fixture(params=[False, True], ids=["inline", "thread"])
def worker(request):
    worker = RolloutWorker(MODEL, ROLLOUT, seed=0, background=request.param)
    yield worker
    worker.close()


def bundle(version, seed=0):
    return WeightBundle.of(version, policy_tensors(load_model(MODEL, seed=seed)))


def poll_all(worker):
    """What every report until nothing is unfinished has brought, by id."""
    outcomes = {}
    while True:
        report = worker.poll(30)
        for outcome in report.finished:
            assert outcome.id not in outcomes
            outcomes[outcome.id] = outcome
        if not report.unfinished:
            return outcomes


def many_tasks(n=150):
    return [replace(tasks()[k % 8], id=f"t{k}", seed=k) for k in range(n)]


def test_a_worker_that_was_asked_for_nothing_reports_nothing_and_loads_no_engine(worker, monkeypatch):
    monkeypatch.setattr("rlpost.rollout.worker.load_model", None)
    assert worker.poll(60) == WorkerReport((), 0, 0, -1)
    worker.configure(ROLLOUT)
    worker.abort()


def test_submitted_tasks_are_reported_once_as_trajectories_and_requests_as_samples(worker):
    expected = {t.id: t for t in RolloutWorker(MODEL, ROLLOUT, seed=0).rollout(tasks())}
    plain = [SampleRequest(f"plain-{t.id}", t.prompt.token_ids, t.seed, t.settings) for t in tasks()]
    worker.submit(tasks()[:3])
    worker.submit(plain)
    worker.submit(tasks()[3:])
    found = poll_all(worker)
    assert found.keys() == {*expected, *(f"plain-{id}" for id in expected)}
    for id, trajectory in expected.items():
        assert isinstance(found[id], Trajectory) and isinstance(found[f"plain-{id}"], Sample)
        assert found[id].prompt == trajectory.prompt
        assert found[id].token_ids == trajectory.token_ids == [*found[f"plain-{id}"].token_ids]
    report = worker.poll(60)
    assert (report.finished, report.unfinished, report.version) == ((), 0, -1)
    assert report.tokens == 2 * sum(t.length for t in expected.values())


def test_weights_that_arrive_in_flight_sample_the_rest_of_what_runs(worker):
    old, new = bundle(4, seed=3), bundle(5, seed=4)
    worker.load_weights(old)
    worker.submit(many_tasks())
    outcomes = {}
    while not (report := worker.poll(0)).tokens:
        outcomes |= {t.id: t for t in report.finished}
    outcomes |= {t.id: t for t in report.finished}
    verify_receipt(new, worker.load_weights(new))
    outcomes |= poll_all(worker)
    assert sorted(outcomes) == sorted(t.id for t in many_tasks())
    versions = [t.turns[0].versions for t in outcomes.values()]
    assert {v for one in versions for v in one} == {4, 5}
    assert all(list(one) == sorted(one) for one in versions)
    assert worker.poll(60).version == worker.policy_version() == 5


def test_a_task_that_cannot_be_served_is_refused_at_once_and_none_is_taken(worker):
    wrong = replace(tasks()[1], prompt=Prompt("p", "", ()))
    with pytest.raises(RolloutError, match="empty prompt"):
        worker.submit([tasks()[0], wrong])
    with pytest.raises(RolloutError, match="same id"):
        worker.submit([tasks()[0], tasks()[0]])
    assert worker.poll(60).unfinished == 0
    worker.submit(tasks())
    assert len(poll_all(worker)) == 8


def test_aborted_tasks_are_not_reported_and_may_be_submitted_again(worker):
    worker.submit(many_tasks())
    sampled = worker.poll(30).tokens
    worker.abort()
    report = worker.poll(60)
    assert (report.finished, report.unfinished) == ((), 0) and report.tokens >= sampled > 0
    expected = {t.id: t.token_ids for t in RolloutWorker(MODEL, ROLLOUT, seed=0).rollout(many_tasks(20))}
    worker.submit(many_tasks(20))
    assert {t.id: t.token_ids for t in poll_all(worker).values()} == expected


def test_an_error_while_sampling_is_raised_by_polls_until_the_tasks_are_aborted(worker):
    broken = {name: tensor.clone() for name, tensor in bundle(1).tensors.items()}
    broken["model.norm.weight"][3] = math.nan
    worker.submit(many_tasks())
    worker.load_weights(WeightBundle.of(1, broken))
    for _ in range(3):
        with pytest.raises(RolloutError, match="not finite"):
            while True:
                worker.poll(30)
    worker.abort()
    assert worker.poll(60).unfinished == 0
    worker.load_weights(bundle(2))
    worker.submit(tasks())
    assert {v for t in poll_all(worker).values() for v in t.turns[0].versions} == {2}


def test_a_worker_sleeps_only_when_idle_and_samples_again_when_it_has_weights(worker):
    worker.load_weights(bundle(0))
    expected = worker.rollout(tasks())
    worker.submit(many_tasks())
    with pytest.raises(RolloutError, match="cannot sleep"):
        worker.sleep()
    with pytest.raises(RolloutError, match="nothing else"):
        worker.rollout(tasks())
    poll_all(worker)
    worker.sleep()
    assert worker.poll(60).version == -1
    worker.wake()
    with pytest.raises(RolloutError, match="has no weights"):
        worker.submit(tasks())
    worker.load_weights(bundle(0))
    assert worker.rollout(tasks()) == expected
    assert worker.probe([(70, 71)])[0] == RolloutWorker(MODEL, ROLLOUT, seed=0).probe([(70, 71)])[0]


def test_threads_are_set_when_the_engine_is_loaded():
    before = torch.get_num_threads()
    try:
        RolloutWorker(MODEL, ROLLOUT, seed=0, threads=1).policy_version()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.cluster
def test_a_worker_works_as_a_ray_actor_that_samples_in_the_background():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(RolloutWorker).remote(MODEL, ROLLOUT, seed=1, threads=1, background=True)
        remote = ray.get(actor.rollout.remote(tasks()), timeout=120)
        local = RolloutWorker(MODEL, ROLLOUT, seed=1).rollout(tasks())
        assert [t.token_ids for t in remote] == [t.token_ids for t in local]
        ray.get(actor.submit.remote(tasks()), timeout=60)
        reported = {}
        while len(reported) < len(local):
            report = ray.get(actor.poll.remote(5), timeout=60)
            reported |= {t.id: t for t in report.finished}
        assert {id: t.token_ids for id, t in reported.items()} == {t.id: t.token_ids for t in local}
    finally:
        ray.shutdown()
