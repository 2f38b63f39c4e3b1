"""DAPO's dynamic sampling: further rounds until the batch is full."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.data.sampler import PromptSampler
from rlpost.data.trajectory import Prompt, RewardResult, Trajectory, Turn
from rlpost.estimator import ALGORITHMS, DropUniform
from rlpost.training.rounds import gather, next_round


def sampler(count, size, seed=0):
    return PromptSampler([Prompt(f"p{i}", "", (i,)) for i in range(count)], size, seed)


def scored(prompt, *rewards, greedy=False):
    turn = Turn((1,), "x", True, (-0.5,), (0,))
    return [
        Trajectory(
            f"{prompt.id}-{k}",
            prompt,
            (turn,),
            "eos",
            k,
            RewardResult(reward, "error" if reward is None else "scored"),
            greedy,
        )
        for k, reward in enumerate(rewards)
    ]


def dapo(**options):
    return replace(ALGORITHMS["dapo"].objective, selection=(DropUniform(**options),))


class Policy:
    """Samples two responses of each prompt; those of `uniform` prompts earn the same, of `failing` none."""

    def __init__(self, uniform=(), failing=()):
        self.uniform, self.failing, self.rounds = set(uniform), set(failing), []

    def __call__(self, prompts):
        self.rounds.append([p.id for p in prompts])
        return [t for p in prompts for t in self.one(p)]

    def one(self, prompt):
        index = int(prompt.id[1:])
        if index in self.failing:
            return scored(prompt, 1.0, None)
        return scored(prompt, 1.0, 1.0 if index in self.uniform else 0.0)


@st.composite
def tasks(draw):
    count = draw(st.integers(1, 20))
    kinds = st.sets(st.integers(0, count - 1))
    return (
        count,
        draw(st.integers(1, count)),
        draw(st.integers(0, 999)),
        draw(kinds),
        draw(kinds),
        draw(st.integers(1, 5)),
    )


@given(tasks())
@settings(max_examples=300, deadline=None)
def test_a_step_has_the_wanted_groups_or_has_run_out_of_rounds_or_prompts(task):
    count, wanted, seed, uniform, failing, max_rounds = task
    policy = Policy(uniform, failing)
    found = gather(sampler(count, wanted, seed), policy, dapo(refill=True, max_rounds=max_rounds), wanted)
    drawn = [i for prompts in policy.rounds for i in prompts]
    good = [i for i in drawn if int(i[1:]) not in uniform | failing]

    assert len(set(drawn)) == len(drawn) == found.prompts
    assert [group[0].prompt.id for group in found.groups] == good[:wanted]
    assert all(len(prompts) <= wanted for prompts in policy.rounds)
    metrics = found.metrics
    assert metrics["rollout/rounds"] == len(policy.rounds) <= max_rounds
    assert metrics["signal/surplus_groups"] == max(0, len(good) - wanted)
    assert metrics["signal/missing_groups"] == max(0, wanted - len(good))
    assert metrics["signal/uninformative_groups"] == len(drawn) - len(good)
    if len(good) < wanted:
        assert len(policy.rounds) == max_rounds or len(drawn) == count
    for earlier in range(1, len(policy.rounds)):
        before = [i for prompts in policy.rounds[:earlier] for i in prompts]
        assert sum(int(i[1:]) not in uniform | failing for i in before) < wanted


def test_a_later_round_asks_for_as_many_prompts_as_the_observed_share_makes_likely():
    assert next_round(missing=3, informative=5, tried=8, most=8) == math.ceil(3 * 8 / 5)
    assert next_round(missing=6, informative=2, tried=8, most=8) == 8
    assert next_round(missing=8, informative=0, tried=8, most=8) == 8


def test_the_same_sampler_state_gives_the_same_groups_again():
    one, two = sampler(12, 4), sampler(12, 4)
    uniform = {0, 1, 2, 5, 7, 9}
    for _ in range(6):
        first = gather(one, Policy(uniform), dapo(refill=True), 4)
        state = two.state_dict()
        two = sampler(12, 4)
        two.load_state_dict(state)
        second = gather(two, Policy(uniform), dapo(refill=True), 4)
        assert [t.id for t in first.trajectories] == [t.id for t in second.trajectories]
        assert first.groups == second.groups
    assert one.state_dict() == two.state_dict()


def test_without_refill_one_round_is_made_and_uniform_groups_are_in_the_batch():
    policy = Policy(uniform=range(6))
    found = gather(sampler(6, 3), policy, dapo(), 3)
    assert len(policy.rounds) == 1
    assert len(found.groups) == 3
    assert found.metrics == {}


def test_groups_are_judged_on_the_task_reward_whatever_the_shaping_will_make_of_it():
    # Two responses of equal task reward stay uninformative, even where a length penalty tells them apart.
    def sample(prompts):
        long = Turn((1,) * 100, "x", True, (-0.5,) * 100, (0,) * 100)
        groups = [scored(p, 1.0, 1.0) for p in prompts]
        return [t for one, other in groups for t in (one, replace(other, turns=(long,)))]

    found = gather(sampler(4, 2), sample, dapo(refill=True), 2)
    assert found.groups == []
    assert found.metrics["signal/missing_groups"] == 2
    assert found.prompts == 4


@pytest.mark.parametrize("rounds", [0, -1])
def test_a_step_takes_at_least_one_round(rounds):
    with pytest.raises(ValueError, match="max_rounds must be at least 1"):
        DropUniform(refill=True, max_rounds=rounds)


def test_a_prompt_whose_greedy_response_failed_to_score_leaves_the_batch_and_is_counted():
    def sample(prompts):
        return [
            t
            for p in prompts
            for t in (*scored(p, 1.0, 0.0), *scored(p, None if p.id == "p1" else 0.5, greedy=True))
        ]

    found = gather(sampler(3, 3), sample, ALGORITHMS["remax"].objective, 3)
    assert sorted(group[0].prompt.id for group in found.groups) == ["p0", "p2"]
    assert found.greedy == {"p0": 0.5, "p2": 0.5}
    assert not any(t.greedy for group in [*found.groups, found.sampled] for t in group)
    assert (len(found.sampled), len(found.usable)) == (6, 4)
    assert found.metrics == {"rollout/greedy_samples": 3.0, "rollout/greedy_failures": 1.0}
