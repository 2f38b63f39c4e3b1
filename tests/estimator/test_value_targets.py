"""A critic's side of the core: generalised advantages over holes, heads, and the returns that they learn."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from estimator_batches import NAN, batch_of, kept_tokens, random_batch
from torch import Tensor

from rlpost.estimator import (
    ALGORITHMS,
    GAE,
    CompositionError,
    Objective,
    Term,
    TokenBatch,
    build_objective,
)
from rlpost.estimator.advantage import token_rewards
from rlpost.estimator.checks import check_objective

TOLERANCE = 1e-6


def slow_gae(
    batch: TokenBatch, head: str, discount: float, lam: float, kl: float
) -> tuple[list[float], list[float]]:
    """Advantages and returns of every token, by a walk from the end of each response over its holes."""
    advantages, returns = [0.0] * batch.N, [0.0] * batch.N
    for s in range(batch.S):
        tokens = [i for i in range(batch.N) if batch.sequence_N[i] == s]
        rewards = dict.fromkeys(tokens, 0.0)
        trained = [i for i in tokens if batch.mask_N[i]]
        if trained:
            own = [float(batch.signals["token_reward"][i]) for i in trained]
            rewards.update(zip(trained, own, strict=True))
            rewards[trained[-1]] += float(batch.reward_S[s]) - sum(own)
        following = carried = 0.0
        for i in reversed(tokens):
            if not batch.mask_N[i]:
                continue
            reward, value = rewards[i], float(batch.signals[head][i])
            if not batch.demonstration_S[s]:
                gap = batch.signals["old_logprob"][i] - batch.signals["ref_logprob"][i]
                reward -= kl * float(gap)
            carried = reward + discount * following - value + discount * lam * carried
            following = value
            advantages[i], returns[i] = carried, carried + value
    return advantages, returns


@pytest.mark.parametrize("seed", range(12))
def test_advantages_and_returns_are_those_of_a_walk_over_the_holes(seed: int) -> None:
    rng = random.Random(seed)
    batch, _ = random_batch(seed)
    discount, lam, kl = rng.choice([1.0, 0.9]), rng.choice([1.0, 0.95, 0.0]), rng.choice([0.0, 0.2])
    part = GAE(discount=discount, lam=lam, kl=kl)
    advantage_N, targets = part.with_targets(batch)
    advantages, returns = slow_gae(batch, "value", discount, lam, kl)
    assert advantage_N.tolist() == pytest.approx(advantages, abs=1e-12)
    assert targets["value"].tolist() == pytest.approx(returns, abs=1e-12)
    assert not bool((~batch.mask_N).all())


def test_the_rewards_of_the_tokens_add_up_to_the_response_s_reward() -> None:
    for seed in range(5):
        batch, _ = random_batch(seed)
        reward_N = token_rewards(batch)
        for s in range(batch.S):
            own_N = (batch.sequence_N == s) & batch.mask_N
            if bool(own_N.any()):
                assert float(reward_N[own_N].sum()) == pytest.approx(float(batch.reward_S[s]), abs=1e-12)
        assert (reward_N[~batch.mask_N] == 0).all()


def test_a_reward_of_every_turn_and_one_at_the_end_each_count_once() -> None:
    # Turns end at 1 and 4; the environment gave 0.25 and 0.5, a reward function 1 more.
    batch = batch_of(
        [5],
        turns=[0, 0, 1, 2, 2],
        mask=[1, 1, 0, 1, 1],
        rewards=[1.75],
        token_reward=[0.0, 0.25, NAN, 0.0, 0.5],
        value=[0.0, 0.0, NAN, 0.0, 0.0],
    )
    assert token_rewards(batch).tolist() == [0.0, 0.25, 0.0, 0.0, 1.5]
    assert GAE()(batch).tolist() == [1.75, 1.75, 0.0, 1.5, 1.5]


@pytest.mark.parametrize(("lam", "expected"), [(1.0, [0.8, 0.6, 0.4]), (0.95, [0.751, 0.58, 0.4])])
def test_values_before_a_final_reward_give_the_hand_computed_advantages(
    lam: float, expected: list[float]
) -> None:
    batch = batch_of([3], rewards=[1.0], value=[0.2, 0.4, 0.6])
    assert GAE(lam=lam)(batch).tolist() == pytest.approx(expected, abs=TOLERANCE)


HORIZONS = {
    0.5: [0.107172, 0.225625, 0.475, 1.0],
    0.9: [0.625026, 0.731025, 0.855, 1.0],
    0.99: [0.831910, 0.884540, 0.940500, 1.0],
    0.999: [0.854805, 0.900696, 0.949050, 1.0],
    1.0: [0.857375, 0.9025, 0.95, 1.0],
}


def test_every_horizon_has_the_hand_computed_returns_and_the_actor_sees_the_longest() -> None:
    *auxiliary, longest = HORIZONS
    part = GAE(discount=longest, lam=0.95, auxiliary=tuple(auxiliary))
    heads = [f"value/{k}" for k in range(5)]
    assert part.heads == tuple(heads)
    assert part.signals == set(heads)
    batch = batch_of([4], rewards=[1.0], **dict.fromkeys(heads, [0.0] * 4))
    advantage_N, targets = part.with_targets(batch)
    for head, expected in zip(heads, HORIZONS.values(), strict=True):
        assert targets[head].tolist() == pytest.approx(expected, abs=TOLERANCE)
    assert torch.equal(advantage_N, targets[heads[-1]])
    long = batch_of([1000], rewards=[1.0], **dict.fromkeys(heads[:2], [0.0] * 1000))
    found = GAE(discount=0.999, auxiliary=(0.99,)).with_targets(long)[1]
    assert float(found["value/0"][0]) == pytest.approx(4.360732e-05, rel=1e-6)
    assert float(found["value/1"][0]) == pytest.approx(0.3680635, abs=TOLERANCE)


def test_each_head_has_its_own_values_and_whitening_is_of_the_actor_s_advantages_alone() -> None:
    batch, _ = random_batch(2)
    other_N = batch.signals["value"] * 0.5 + 0.1
    batch = batch.with_signals(**{"value/0": other_N, "value/1": batch.signals["value"]})
    part = GAE(discount=0.99, lam=0.9, whiten="sample", auxiliary=(0.5,))
    advantage_N, targets = part.with_targets(batch)
    alone = GAE(discount=0.99, lam=0.9, whiten="sample")
    assert torch.equal(advantage_N, alone(batch))
    assert torch.equal(targets["value/1"], alone.with_targets(batch)[1]["value"])
    short = batch.with_signals(value=other_N)
    assert torch.equal(targets["value/0"], GAE(discount=0.5, lam=0.9).with_targets(short)[1]["value"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary": [0.9, 0.5]}, "auxiliary must ascend"),
        ({"discount": 0.9, "auxiliary": [0.9]}, "stay below discount 0.9"),
        ({"auxiliary": [-0.1]}, "auxiliary must ascend from 0"),
        ({"auxiliary": 0.9}, "needed a list, a number each"),
        ({"auxiliary": ["0.9"]}, "needed a list, a number each"),
    ],
    ids=str,
)
def test_horizons_that_are_not_in_order_are_refused(options: dict, message: str) -> None:
    with pytest.raises(CompositionError) as error:
        build_objective({"base": "ppo", "advantage": {"gae": options}})
    assert message in str(error.value)


def targets_of(objective: Objective, batch: TokenBatch) -> tuple[dict[str, Tensor], Tensor]:
    prepared = objective.prepare(batch)
    return dict(prepared.value_targets), kept_tokens(prepared, batch)


@pytest.mark.parametrize("selection", ["all", "drop_uniform", {"max_variance": {"start": 0.5}}])
def test_prepare_tells_a_critic_what_to_learn_on_what_the_selections_left(selection: object) -> None:
    batch, _ = random_batch(6)
    objective = build_objective({"base": "ppo", "selection": selection})
    found, index_N = targets_of(objective, batch)
    sampled_S = (~batch.demonstration_S).nonzero(as_tuple=True)[0]
    rollouts = batch.rows(sampled_S)
    needed_N = torch.zeros(batch.N, dtype=torch.float64)
    needed_N[batch.spread(~batch.demonstration_S)] = GAE().with_targets(rollouts)[1]["value"]
    assert list(found) == ["value"]
    assert torch.allclose(found["value"], needed_N[index_N], rtol=0, atol=1e-12)


def test_targets_follow_the_rows_of_a_prepared_batch() -> None:
    batch, _ = random_batch(1)
    prepared = build_objective({"base": "st_ppo"}).prepare(batch)
    order = torch.tensor([4, 0, 6])
    part = prepared.rows(order).to("cpu")
    whole_N = prepared.value_targets["value"]
    expected_N = torch.cat([whole_N[prepared.batch.sequence_N == s] for s in order.tolist()])
    assert torch.equal(part.value_targets["value"], expected_N)


def test_shaped_rewards_enter_the_returns() -> None:
    batch = batch_of([2], rewards=[1.0], value=[0.0] * 2, old_logprob=[-1.0] * 2, ref_logprob=[-1.5] * 2)
    objective = build_objective({"base": "ppo", "shaping": [{"kl_in_reward": {"coefficient": 0.1}}]})
    assert objective.prepare(batch).value_targets["value"].tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_row_has_targets_exactly_when_it_reads_a_critic(name: str) -> None:
    objective = build_objective({"base": name}, max_response_tokens=5)
    batch, _ = random_batch(4)
    heads = objective.value_heads
    assert set(objective.prepare(batch).value_targets) == set(heads)
    critics = [s for s in objective.signals if s.startswith("value") or s == "outcome"]
    assert heads == tuple(sorted(critics))


def test_two_terms_may_share_one_critic_but_not_teach_it_two_returns() -> None:
    term = ALGORITHMS["ppo"].objective.terms[0]
    check_objective(Objective((term, replace(term, weight=0.5, name="again"))))
    other: Term = replace(term, advantage=GAE(lam=0.5), name="other")
    with pytest.raises(CompositionError, match="one critic two returns"):
        check_objective(Objective((term, other)))
