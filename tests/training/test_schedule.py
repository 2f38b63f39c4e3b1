"""The real schedule over simulated workers in virtual time: who trains on what, how old, and when."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.config.schema import ClusterConfig, StageConfig, TrainConfig, WeightsConfig
from rlpost.data import PromptSampler
from rlpost.errors import ActorLostError
from rlpost.estimator import ALGORITHMS, DropUniform
from rlpost.scoring.line import ScoringLine
from rlpost.training.rollouts import Rollouts
from rlpost.training.state import RunState
from rlpost.training.workers import Workers

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from simulated_cluster import (
    Clock,
    SimulatedGroup,
    SimulatedLearners,
    SimulatedScorer,
    SimulatedWorker,
    prompts,
)

OBJECTIVE = ALGORITHMS["grpo"].objective


class Schedule:
    """A stage of simulated steps; learning takes `update_s` seconds each."""

    def __init__(
        self,
        staleness,
        seconds_of,
        update_s,
        *,
        steps=6,
        workers=3,
        slots=2,
        data=40,
        group=SimulatedGroup,
        restarts=3,
    ):
        self.clock, self.update_s = Clock(), update_s
        tokens = 5
        self.group = group(
            self.clock, lambda: SimulatedWorker(self.clock, slots, seconds_of, lambda task: tokens), workers
        )
        train = TrainConfig(steps=steps, prompts_per_step=4, samples_per_prompt=2, max_staleness=staleness)
        stage = StageConfig(name="rl", data={"task": "addition"}, algorithm={"base": "grpo"}, train=train)
        everyone = prompts(data)
        self.sampler = PromptSampler(everyone, 4, 0)
        self.learners = SimulatedLearners(self.clock, 0.1)
        cluster = ClusterConfig(max_restarts=restarts)
        self.workers = Workers(
            self.group, WeightsConfig(probe_tolerance=1e-3), cluster, everyone, lambda text: None
        )
        line = ScoringLine(SimulatedScorer(), background=False)
        self.rollouts = Rollouts(stage, 0, self.learners, self.workers, line, None, 1e9, print)
        self.state, self.steps = RunState(), steps

    def step(self, objective=OBJECTIVE):
        data = self.rollouts.collect(self.sampler, objective, self.state)
        self.clock.advance(self.update_s(self.state.step))
        state = self.state
        state.sampler = dict(data.sampler)
        state.step, state.stage_step, state.version = state.step + 1, state.stage_step + 1, state.version + 1
        return data

    def run(self, objective=OBJECTIVE):
        return [self.step(objective) for _ in range(self.steps)]


@st.composite
def delays(draw):
    """Seconds of every response and of every update: short, long and very long ones in any mix."""
    table = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0, 5.0, 60.0]), min_size=3, max_size=24))
    updates = draw(st.lists(st.sampled_from([0.0, 0.5, 4.0, 40.0]), min_size=1, max_size=6))
    return (lambda task: table[task.seed % len(table)]), (lambda step: updates[step % len(updates)])


@pytest.mark.slow
@given(st.sampled_from([0, 1, 2, 4]), delays(), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_no_token_is_older_than_the_bound_and_every_step_ends(staleness, delay, workers, slots):
    schedule = Schedule(staleness, *delay, workers=workers, slots=slots)
    for data in schedule.run():
        assert data.metrics["rollout/version_lag_max"] <= staleness
        assert data.metrics["rollout/batches_ahead"] <= staleness
        assert data.samples == 8
    assert schedule.rollouts.workers.pool.outstanding == 0


@given(st.sampled_from([0, 1, 2, 4]), delays())
@settings(max_examples=50, deadline=None)
def test_a_step_trains_on_the_prompts_that_the_sampler_draws_for_it(staleness, delay):
    reference = PromptSampler(prompts(40), 4, 0)
    for data in Schedule(staleness, *delay).run():
        assert list(dict.fromkeys(data.prompt_ids)) == [p.id for p in reference.next_batch()]
        assert dict(data.sampler) == reference.state_dict()


@given(st.sampled_from([0, 1, 2]), delays())
@settings(max_examples=50, deadline=None)
def test_a_selection_that_refills_draws_for_one_step_after_the_other(staleness, delay):
    objective = replace(ALGORITHMS["dapo"].objective, selection=(DropUniform(refill=True, max_rounds=3),))
    found = [Schedule(k, *delay).run(objective) for k in (0, staleness)]
    assert [data.prompt_ids for data in found[0]] == [data.prompt_ids for data in found[1]]
    assert [dict(data.sampler) for data in found[0]] == [dict(data.sampler) for data in found[1]]
    assert all(data.metrics["rollout/version_lag_max"] <= staleness for data in found[1])


def test_a_stage_that_goes_on_from_a_step_finds_the_prompts_of_the_next_ones_untouched():
    delay = (lambda task: 1.0 + task.seed % 7), (lambda step: 3.0)
    whole = [data.prompt_ids for data in Schedule(2, *delay).run()]
    first, second = Schedule(2, *delay), Schedule(2, *delay)
    for _ in range(3):
        first.step()
    second.sampler.load_state_dict(first.state.sampler)
    second.state.step = second.state.stage_step = second.state.version = 3
    assert [second.step().prompt_ids for _ in range(3)] == whole[3:]


def test_sampling_ahead_hides_updates_and_long_tails_behind_each_other():
    # A batch takes 10 s, for there is a slot for every response, and an update 8 s.
    ends = []
    for staleness in (0, 1):
        schedule = Schedule(staleness, lambda task: 10.0, lambda step: 8.0, workers=2, slots=16)
        schedule.run()
        ends.append(schedule.clock.now)
    # In turns: 6 x (10 + 8); overlapping: an update each 9 s once under way, after the first batch's 10 s.
    assert ends[0] == pytest.approx(6 * 18 + 6 * 0.1, abs=0.5)
    assert ends[1] < ends[0] / 1.7


class LossyGroup(SimulatedGroup):
    """Loses a worker at chosen calls of `wait`, with everything that it had finished or begun."""

    losses: frozenset = frozenset()
    waits = 0

    def wait(self, calls, timeout_s):
        LossyGroup.waits += 1
        if LossyGroup.waits in self.losses and calls:
            lost = calls[LossyGroup.waits % len(calls)]
            lost.outcome = ActorLostError("rollout worker died", role="rollout worker", member=lost.member)
            return [lost]
        return super().wait(calls, timeout_s)

    def result(self, call):
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return super().result(call)


@given(st.sampled_from([0, 1, 2]), delays(), st.sets(st.integers(1, 120), max_size=6))
@settings(max_examples=60, deadline=None)
def test_lost_workers_cost_no_sample_and_none_is_trained_on_twice(staleness, delay, losses):
    schedule = Schedule(staleness, *delay, group=LossyGroup, restarts=6)
    schedule.group.losses, LossyGroup.waits = frozenset(losses), 0
    reference = Schedule(staleness, *delay)
    for data, wanted in zip(schedule.run(), reference.run(), strict=True):
        assert data.prompt_ids == wanted.prompt_ids
        assert data.samples == 8
        assert data.metrics["rollout/version_lag_max"] <= staleness


def test_a_worker_that_is_lost_again_and_again_ends_the_run_with_the_cause():
    schedule = Schedule(0, lambda task: 1.0, lambda step: 1.0, group=LossyGroup)
    schedule.group.losses, LossyGroup.waits = frozenset(range(1, 1000)), 0
    with pytest.raises(ActorLostError, match="rollout worker died"):
        schedule.run()


def test_a_worker_that_was_idle_for_long_is_not_taken_for_a_stuck_one(monkeypatch):
    # Two days pass between the steps, more than cluster.deadline_s, and then nothing is sampled at once.
    now = [0.0]
    monkeypatch.setattr("rlpost.training.worker_pool.time.monotonic", lambda: now[0])
    schedule = Schedule(0, lambda task: 5.0, lambda step: 0.0)
    schedule.step()
    now[0] += 2 * 86400
    wait = schedule.group.wait

    def early(calls, timeout_s):
        polls = [call for call in calls if call.method == "poll"]
        return polls[:1] or wait(calls, timeout_s)

    monkeypatch.setattr(schedule.group, "wait", early)
    schedule.workers.sync(schedule.learners, schedule.state.version)
    schedule.rollouts._lookahead.open(2, 2)
    for _ in range(3):
        schedule.workers.pool.poll(0.0)
    assert schedule.workers.pool.replaced == 0
    now[0] += 86400
    for _ in range(3):
        schedule.workers.pool.poll(0.0)
    assert schedule.workers.pool.replaced > 0
