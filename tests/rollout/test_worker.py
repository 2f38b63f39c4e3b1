import pickle

import pytest
import torch

from rlpost.config.schema import ModelConfig, RolloutConfig, TinyModelConfig
from rlpost.data.trajectory import Prompt
from rlpost.models import load_model
from rlpost.rollout import RolloutTask, RolloutWorker, sample_seed, sampling_settings
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


def test_threads_are_set_when_the_engine_is_loaded():
    before = torch.get_num_threads()
    try:
        RolloutWorker(MODEL, ROLLOUT, seed=0, threads=1).policy_version()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.cluster
def test_a_worker_works_as_a_ray_actor():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(RolloutWorker).remote(MODEL, ROLLOUT, seed=1, threads=1)
        remote = ray.get(actor.rollout.remote(tasks()), timeout=120)
        local = RolloutWorker(MODEL, ROLLOUT, seed=1).rollout(tasks())
        assert [t.token_ids for t in remote] == [t.token_ids for t in local]
    finally:
        ray.shutdown()
