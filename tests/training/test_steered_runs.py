"""Small real runs of algorithms that ask more of the loop: history, refilling, baselines, parts."""

import json
import shutil

import pytest
from test_small_run import results

from rlpost.config import load_config, stage_objective
from rlpost.errors import CheckpointError
from rlpost.monitor import read_metrics
from rlpost.training import replay, train
from rlpost.training.coefficients import adapt, objective_in_force
from rlpost.training.loop import prepare
from rlpost.training.recording import read_rollouts
from rlpost.training.rounds import Gathered
from rlpost.training.run_directory import RunDirectory
from rlpost.training.sources import step_data
from rlpost.training.state import RunState

FIRST_DIGIT = """
def reward(completion, answer):
    return float(completion[:1] == answer[:1])
"""

PARITY = """
def reward(completion):
    return float(sum(map(ord, completion)) % 2)
"""

AGAINST_HISTORY = '''
from dataclasses import dataclass
from typing import ClassVar

from rlpost.estimator.segments import Groups


@dataclass(frozen=True)
class AgainstHistory:
    """R minus the mean of the prompt's earlier rewards."""

    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset({"prompt_mean"})
    needs_group: ClassVar[bool] = False

    def __call__(self, batch):
        return (batch.reward_S - batch.sequence_signal("prompt_mean"))[batch.sequence_N]

    @property
    def formula(self):
        return "A = R - mean(earlier R)"
'''

SHORT = (
    "stages.warmup.train.steps=2",
    "stages.rl.train.steps=4",
    "stages.rl.data.limit=6",
    "evaluation.problems=1",
    "evaluation.every=0",
)


def rl_rows(run_dir):
    return [row for row in read_metrics(run_dir) if row["stage"] == "rl"]


def assert_replays(run_dir, step):
    result = replay(run_dir, step, report=lambda text: None)
    for name in ("policy/loss", "learner/grad_norm", "learner/trained_tokens"):
        assert result[name] == result[f"recorded/{name}"], name


def resumed_from(run_dir, step, config, folder):
    """The run as it goes on from the checkpoint of `step`, in a copy of its directory."""
    shutil.copytree(run_dir, folder)
    for path in folder.glob("checkpoints/step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    return train(config, folder, resume=True)


@pytest.fixture
def first_digit(tmp_path):
    path = tmp_path / "first_digit.py"
    path.write_text(FIRST_DIGIT)
    return f"rewards={path}"


@pytest.mark.slow
def test_history_and_adaptive_coefficients_survive_a_resume(small_config, tmp_path):
    config = small_config(
        *SHORT,
        "stages.rl.algorithm={base: dcpo, kl: {coefficient: 0.1, target: 0.001, horizon: 100}, "
        "entropy: {coefficient: 0.02, target: 1.0}}",
    )
    run = train(config, tmp_path / "run")
    state = json.loads((run / "checkpoints" / "step-000004" / "state.json").read_text())
    assert max(statistics["visits"] for statistics in state["prompts"].values()) == 2
    assert state["coefficients"].keys() == state["measured"].keys() == {"kl", "entropy"}
    first, second, *_ = rl_rows(run)
    assert first["policy/kl_coefficient"] == 0.1
    # The reference is the policy itself in the first step, so its KL is 0: the coefficient falls by
    # 20% x 16 responses / 100.
    assert second["policy/kl_coefficient"] == pytest.approx(0.1 * (1 - 0.2 * 16 / 100), abs=1e-12)
    assert first["policy/entropy"] > 1.0
    assert (first["policy/entropy_coefficient"], second["policy/entropy_coefficient"]) == (0.02, 0.0)
    assert results(resumed_from(run, 4, config, tmp_path / "resumed")) == results(run)
    assert_replays(run, 6)


@pytest.mark.slow
def test_a_refilled_batch_is_full_resumes_and_replays(small_config, first_digit, tmp_path):
    # With few prompts a step may run out of them before any group is informative.
    overrides = ("data.limit=null", "stages.rl.algorithm.base=dapo")
    config = small_config(*SHORT[:2], *SHORT[3:], first_digit, *overrides)
    run = train(config, tmp_path / "run")
    rows = rl_rows(run)
    assert max(row["rollout/rounds"] for row in rows) > 1
    for row in rows:
        assert row["signal/groups"] == 4 - row["signal/missing_groups"]
        assert row["signal/informative_group_share"] == 1.0
        drawn = row["signal/groups"] + row["signal/uninformative_groups"] + row["signal/surplus_groups"]
        assert row["data/prompts"] == drawn
        assert row["rollout/samples"] == 4 * drawn
        recorded = read_rollouts(RunDirectory(run).rollouts(int(row["step"])))
        assert len({t.id for t in recorded}) == len(recorded) == 4 * drawn
    summary = json.loads((run / "summary.json").read_text())
    assert summary["samples"] == 2 * 16 + sum(row["rollout/samples"] for row in rows)
    assert results(resumed_from(run, 4, config, tmp_path / "resumed")) == results(run)
    assert_replays(run, int(max(rows, key=lambda row: row["rollout/rounds"])["step"]))


def test_a_step_without_any_informative_group_changes_nothing_and_says_so(small_config, tmp_path):
    (tmp_path / "same.py").write_text("def reward(completion):\n    return 1.0\n")
    overrides = (f"rewards={tmp_path / 'same.py'}", "scoring.canary=false", "stages.rl.train.steps=1")
    run = train(small_config(*SHORT, *overrides, "stages.rl.algorithm.base=dapo"), tmp_path / "run")
    (row,) = rl_rows(run)
    assert (row["rollout/rounds"], row["data/prompts"]) == (2, 6)
    assert row["signal/missing_groups"] == 4
    assert (row["learner/updates"], row["learner/skipped_updates"]) == (0, 1)


def test_greedy_responses_are_scored_and_recorded_and_never_trained_on(small_config, tmp_path):
    run = train(small_config(*SHORT, "stages.rl.algorithm.base=remax"), tmp_path / "run")
    for row in rl_rows(run):
        recorded = read_rollouts(RunDirectory(run).rollouts(int(row["step"])))
        greedy = [t for t in recorded if t.greedy]
        assert [t.prompt.id for t in greedy] == list(dict.fromkeys(t.prompt.id for t in recorded))
        assert row["rollout/greedy_samples"] == len(greedy) == 4
        assert row["rollout/greedy_failures"] == 0
        assert row["rollout/samples"] == len(recorded) - 4 == 16
        assert row["learner/trained_tokens"] == sum(t.length for t in recorded if not t.greedy)
    assert_replays(run, 5)


def test_several_rewards_arrive_as_parts(small_config, tmp_path):
    (tmp_path / "parity.py").write_text(PARITY)
    rewards = f"rewards=[{{function: {tmp_path}/parity.py, weight: 0.5}}, exact_match]"
    run = train(
        small_config(*SHORT, "scoring.canary=false", rewards, "stages.rl.algorithm.base=gdpo"),
        tmp_path / "run",
    )
    assert any(row["learner/updates"] for row in rl_rows(run))
    assert_replays(run, 6)


@pytest.fixture
def own_part(tmp_path):
    (tmp_path / "history.py").write_text(AGAINST_HISTORY)
    (tmp_path / "parity.py").write_text(PARITY)
    return (
        f"stages.rl.algorithm={{base: grpo, advantage: '{tmp_path}/history.py:AgainstHistory'}}",
        f"rewards={tmp_path}/parity.py",
        "scoring.canary=false",
    )


@pytest.mark.slow
def test_a_part_from_the_users_file_trains_resumes_and_replays(small_config, own_part, tmp_path):
    config = small_config(*SHORT, *own_part)
    run = train(config, tmp_path / "run")
    assert all(row["learner/updates"] == 1 for row in rl_rows(run))
    assert results(resumed_from(run, 4, config, tmp_path / "resumed")) == results(run)
    assert_replays(run, 6)


def test_a_changed_file_cannot_take_up_the_checkpoints(small_config, own_part, tmp_path):
    overrides = (*SHORT, *own_part, "stages.rl.train.steps=1")
    run = train(small_config(*overrides), tmp_path / "run")
    (tmp_path / "history.py").write_text(AGAINST_HISTORY + "\n\nTHRESHOLD = 1\n")
    with pytest.raises(CheckpointError, match=r"content of history\.py:AgainstHistory of stage rl is"):
        train(small_config(*overrides), run, resume=True)


@pytest.mark.cluster
def test_a_part_from_the_users_file_reaches_ray_actors(small_config, own_part, tmp_path):
    inline = train(small_config(*SHORT, *own_part), tmp_path / "inline")
    ray = train(small_config(*SHORT, *own_part, "cluster.mode=ray"), tmp_path / "ray")
    for row, other in zip(rl_rows(ray), rl_rows(inline), strict=True):
        assert row["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-5)


def one_group(trajectories):
    members = [trajectories[0].prompt]
    return Gathered(1, trajectories, trajectories, [trajectories], members=members)


def test_schedules_see_the_share_of_the_stages_steps_that_are_done(finished):
    config = load_config(finished / "config.yaml")
    stage = config.stages[1]
    objective = stage_objective(stage)
    trajectories = read_rollouts(RunDirectory(finished).rollouts(5))
    data = step_data(one_group(trajectories), objective, stage, {}, 4)
    for step, progress in ((0, 0.0), (3, 0.5), (5, 5 / 6)):
        _, prepared = prepare(None, stage, objective, data, RunState(stage_step=step), 0)
        assert prepared.batch.progress == progress


def test_statistics_are_of_the_shaped_reward(small_config, finished):
    config = small_config("stages.rl.algorithm.base=dcpo", "stages.rl.algorithm.shaping=[soft_overlong]")
    stage = config.stages[1]
    objective = stage_objective(stage)
    trajectories = read_rollouts(RunDirectory(finished).rollouts(5))
    data = step_data(one_group(trajectories), objective, stage, {}, 4)
    prepared, data = prepare(None, stage, objective, data, RunState(), 0)
    raw_S = data.batch.reward_S
    assert data.batch.sequence_signal("prompt_visits").tolist() == [0.0] * 16
    assert prepared.reward_S.tolist() != raw_S.tolist()
    state = RunState()
    state.remember(data.prompt_ids, prepared.reward_S.tolist())
    first = [
        r
        for t, r in zip(trajectories, prepared.reward_S.tolist(), strict=True)
        if t.prompt.id == data.prompt_ids[0]
    ]
    assert state.prompts[data.prompt_ids[0]].mean == pytest.approx(sum(first) / 4)


def test_a_step_that_measured_nothing_leaves_the_coefficients(small_config):
    config = small_config("stages.rl.algorithm={base: grpo, kl: {coefficient: 0.1, target: 1.0}}")
    objective = stage_objective(config.stages[1])
    state = RunState()
    adapt(objective, state, {"policy/entropy": 1.0}, 16)
    assert objective_in_force(objective, state) == objective
    adapt(objective, state, {"policy/kl_ref_k3": 9.0}, 1000)
    assert objective_in_force(objective, state).regularisers[0].coefficient == pytest.approx(0.1 * 1.02)
    state.next_stage()
    assert state.coefficients == state.measured == {}
