"""OREAL: its worked examples, a slow version of the whole loss, and where its parts do not act."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from estimator_batches import NAN, batch_of, evaluate, kept_tokens, random_batch
from torch import Tensor

from rlpost.estimator import (
    CompositionError,
    LeaveOneOut,
    OneRightOneWrong,
    OutcomeCredit,
    SignedReward,
    TokenBatch,
    best_of_n_divergence,
    best_of_n_factors,
    best_of_n_slopes,
    build_objective,
    credit_weights,
    outcome_logits,
    outcome_loss,
)
from rlpost.estimator.outcome import prefix_mean


@pytest.mark.parametrize(
    ("p", "n", "right", "wrong", "right_slope", "wrong_slope"),
    [
        (0.25, 4, 2.734375, 0.421875, 1.687500, 1.265625),
        (0.5, 2, 1.500000, 0.500000, 1.000000, 0.500000),
        (0.125, 8, 5.251129, 0.392696, 3.141567, 2.748871),
    ],
)
def test_the_best_of_n_and_the_gradient_under_it(p, n, right, wrong, right_slope, wrong_slope) -> None:
    factors = best_of_n_factors(p, n)
    assert factors == pytest.approx((right, wrong), abs=1e-6)
    assert p * factors[0] + (1 - p) * factors[1] == pytest.approx(1.0, abs=1e-12)
    slopes = best_of_n_slopes(p, n)
    assert slopes == pytest.approx((right_slope, wrong_slope), abs=1e-6)
    assert slopes[1] == pytest.approx((1 - p) * slopes[0], abs=1e-12)


def test_the_limits_of_the_best_of_n() -> None:
    assert best_of_n_factors(0.0, 4) == (4.0, 1.0)
    assert best_of_n_factors(1e-7, 4)[0] == pytest.approx(4.0, abs=1e-5)
    assert best_of_n_factors(1.0, 4) == (1.0, 0.0)
    assert best_of_n_divergence(4) == pytest.approx(0.636294, abs=1e-6)
    assert best_of_n_divergence(1) == 0.0


LOGITS = (1.0, -1.0, 2.0)


def weights(credit: str, logits: tuple[float, ...] = LOGITS, right: bool = True, **options) -> list[float]:
    batch = batch_of([len(logits)], outcome=logits)
    return credit_weights(batch.signal("outcome"), torch.tensor([right]), batch, credit, **options).tolist()


def test_the_credit_of_each_token() -> None:
    batch = batch_of([3], outcome=LOGITS)
    mean_N = prefix_mean(batch.signal("outcome"), batch)
    assert mean_N.tolist() == pytest.approx([1.0, 0.0, 0.666667], abs=1e-6)
    assert torch.sigmoid(mean_N).tolist() == pytest.approx([0.731059, 0.5, 0.660756], abs=1e-6)
    assert weights("prefix_mean") == pytest.approx([0.462117, 0.0, 0.321513], abs=1e-6)
    assert weights("prefix_mean", right=False) == [0.0, 0.0, 0.0]
    assert weights("raw") == pytest.approx([0.462117, 0.0, 0.761594], abs=1e-6)
    assert weights("raw", right=False) == pytest.approx([0.0, 0.462117, 0.0], abs=1e-6)
    opposite = (-1.0, 1.0, -2.0)
    assert weights("prefix_mean", opposite, right=False) == pytest.approx([0.462117, 0.0, 0.321513], abs=1e-6)
    assert weights("uniform", right=False) == [1.0, 1.0, 1.0]


def test_the_top_share_is_stretched_and_the_rest_gets_nothing() -> None:
    logits = (4.0, 0.0, -1.0, 1.0)
    means = (4.0, 2.0, 1.0, 1.0)
    c = [1 / (1 + 2.718281828459045**-m) for m in means]
    half = [1.0, 0.0, 0.0, 0.0]
    assert weights("top_share", logits, share=0.5) == pytest.approx(half, abs=1e-12)
    found = weights("top_share", logits, share=0.75)
    assert found == pytest.approx([1.0, (c[1] - c[2]) / (c[0] - c[2]), 0.0, 0.0], abs=1e-9)
    # Of a wrong response 1 - c_t, so its last two tokens lead and are equal; one token is the least.
    assert weights("top_share", logits, right=False, share=0.5) == [0.0, 0.0, 1.0, 1.0]
    assert weights("top_share", logits, right=False, share=0.01) == [0.0, 0.0, 1.0, 0.0]
    assert weights("top_share", (0.0,) * 4) == [1.0, 0.0, 0.0, 0.0]
    assert weights("top_share", (0.0,) * 4, share=1.0) == [1.0] * 4


@pytest.mark.parametrize("credit", ["prefix_mean", "raw", "top_share"])
def test_holes_and_neighbours_have_no_part_in_a_token_s_credit(credit: str) -> None:
    mask = [1, 0, 1, 1, 0, 1, 1, 0]
    logits = [1.0, NAN, -1.0, 2.0, NAN, -1.0, 1.0, NAN]
    batch = batch_of([4, 0, 1, 3], mask=mask, rewards=[1, 1, 0, 0], outcome=logits)
    right_S = batch.reward_S >= 1.0
    found = credit_weights(batch.signal("outcome"), right_S, batch, credit, 0.7).tolist()
    first, last = weights(credit, share=0.7), weights(credit, (-1.0, 1.0), right=False, share=0.7)
    assert found == pytest.approx([first[0], 0.0, *first[1:], 0.0, *last, 0.0], abs=1e-12)


def test_the_loss_of_the_token_reward_model() -> None:
    batch = batch_of([3, 4, 0], mask=[1, 1, 1, 1, 0, 1, 1], outcome=[*LOGITS, 1.0, NAN, -1.0, 2.0])
    logit_N = batch.signal("outcome").requires_grad_(True)
    logit_S = outcome_logits(logit_N, batch)
    assert logit_S.tolist() == pytest.approx([0.666667, 0.666667, 0.0], abs=1e-6)
    assert torch.sigmoid(logit_S)[0].item() == pytest.approx(0.660756, abs=1e-6)
    loss_S = outcome_loss(logit_S, torch.tensor([1, 0, 0]))
    assert loss_S.tolist() == pytest.approx([0.414370, 1.081037, 0.693147], abs=1e-6)
    loss_S.sum().backward()
    slope = [(0.660756 - 1) / 3] * 3 + [0.660756 / 3, 0.0, 0.660756 / 3, 0.660756 / 3]
    assert logit_N.grad is not None
    assert logit_N.grad.tolist() == pytest.approx(slope, abs=1e-6)


def test_a_zero_head_gives_every_token_nothing_until_it_is_trained() -> None:
    batch = batch_of([2, 3], rewards=[1, 0], outcome=[0.0] * 5)
    advantage_N = torch.ones(5, dtype=torch.float64)
    part = OutcomeCredit()
    assert part.advantage(advantage_N, batch).tolist() == [0.0] * 5
    measured = part.measures(advantage_N, batch).values()
    assert measured["credit/zero_share"] == 1.0
    assert measured["credit/weight_mean_right"] == measured["credit/weight_mean_wrong"] == 0.0
    assert OutcomeCredit("uniform").signals == frozenset()
    assert OutcomeCredit("uniform").advantage(advantage_N, batch).tolist() == [1.0] * 5
    assert part.targets(batch)["outcome"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_reward_is_right_from_success_on() -> None:
    reward_S = torch.tensor([1.0, 0.99, 0.0, 2.0], dtype=torch.float64)
    batch = batch_of([1] * 4, rewards=reward_S.tolist())
    assert SignedReward().reward(reward_S, batch).tolist() == [1.0, -1.0, -1.0, 1.0]
    assert SignedReward(0.5).reward(reward_S, batch).tolist() == [1.0, 1.0, -1.0, 1.0]


def spec(**options) -> dict[str, Any]:
    """OREAL with other options of its credit."""
    shaping = [{"outcome_credit": options}]
    return {"base": "oreal", "terms": {"right": {"shaping": shaping}, "wrong": {"shaping": shaping}}}


def example(ref: tuple[float, ...]) -> TokenBatch:
    """A prompt with 4 right and 12 wrong responses; the first and the fifth are the ones that are drawn."""
    lengths, rewards = [3] + [1] * 3 + [3] + [1] * 11, [1.0] * 4 + [0.0] * 12
    outcome = [*LOGITS, *[0.0] * 3, *(-w for w in LOGITS), *[0.0] * 11]
    logprob = [-0.2, -1.0, -0.4, *[-1.0] * 3, -0.2, -1.0, -0.4, *[-1.0] * 11]
    return batch_of(
        lengths,
        rewards=rewards,
        outcome=outcome,
        old_logprob=logprob,
        ref_logprob=[lp + d for lp, d in zip(logprob, [*ref, 0, 0, 0, *ref, *[0] * 11], strict=True)],
        sequence_signals={"draw_seed": [1.0, *[9.0] * 3, 1.0, *[9.0] * 11]},
    )


def test_one_prompt_from_end_to_end() -> None:
    batch = example((0.1, -0.2, 0.0))
    objective = build_objective({"base": "oreal"})
    prepared = objective.prepare(batch)
    assert prepared.kept_S.tolist() == [0, 4]
    advantages = LeaveOneOut()(replace(batch, reward_S=SignedReward().reward(batch.reward_S, batch)))
    assert advantages[batch.sequence_N == 1].tolist() == pytest.approx([1.6], abs=1e-6)
    assert advantages[batch.sequence_N == 5].tolist() == pytest.approx([-0.533333], abs=1e-6)
    credited = [1.6 * omega for omega in (0.462117, 0.0, 0.321513)]
    assert prepared.terms[0].advantage_N[:3].tolist() == pytest.approx(credited, abs=1e-6)
    credited = [-0.533333 * omega for omega in (0.462117, 0.0, 0.321513)]
    assert prepared.terms[1].advantage_N[3:].tolist() == pytest.approx(credited, abs=1e-6)
    logprob_N = prepared.batch.signal("old_logprob")
    output, gradient_N = evaluate(objective, prepared, logprob_N)
    report = output.measures.values()
    assert report["policy/loss/right"] == pytest.approx(0.117882, abs=1e-6)
    assert report["policy/loss/wrong"] == pytest.approx(0.069656, abs=1e-6)
    assert report["policy/kl_loss"] == pytest.approx(0.000080, abs=1e-6)
    assert report["policy/kl_ref_k3"] == pytest.approx((0.005171 + 0.018731) / 3, abs=1e-6)
    assert report["policy/loss"] == pytest.approx(0.117882 + 0.069656 + 0.000080, abs=2e-6)
    kl = [0.01 * (1 - math.exp(d)) / 6 for d in (0.1, -0.2, 0.0)]
    needed = [-1.6 * 0.462117 / 3 + kl[0], kl[1], -1.6 * 0.321513 / 3 + kl[2]]
    needed += [0.5 * 0.533333 * 0.462117 / 3 + kl[0], kl[1], 0.5 * 0.533333 * 0.321513 / 3 + kl[2]]
    assert gradient_N.tolist() == pytest.approx(needed, abs=1e-6)
    assert report["policy/trained_tokens/right"] == report["policy/trained_tokens/wrong"] == 3
    assert prepared.value_targets["outcome"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_the_paper_s_own_weights_without_advantage() -> None:
    batch = batch_of([3], outcome=LOGITS, ref_logprob=[0.0] * 3)
    weight_N = credit_weights(batch.signal("outcome"), torch.tensor([True]), batch, "raw")
    logprob_N = torch.tensor([-0.2, -1.0, -0.4], dtype=torch.float64)
    assert float(-(weight_N * logprob_N).sum()) == pytest.approx(0.397061, abs=1e-6)


def slow_weight(scores: list[float], right: bool, credit: str, share: float) -> list[float]:
    """omega of one response, number by number."""
    c = []
    for t in range(len(scores)):
        score = scores[t] if credit == "raw" else sum(scores[: t + 1]) / (t + 1)
        c.append(1 / (1 + math.exp(-score if right else score)))
    if credit == "top_share" and c:
        order = sorted(range(len(c)), key=lambda t: -c[t])[: max(1, math.floor(share * len(c)))]
        low, high = c[order[-1]], c[order[0]]
        return [
            ((c[t] - low) / (high - low) if high > low else 1.0) if t in order else 0.0 for t in range(len(c))
        ]
    return [1.0 if credit == "uniform" else max(2 * value - 1, 0.0) for value in c]


def slow_oreal(batch: TokenBatch, logprob_N: Tensor, credit: str, share: float) -> tuple[Tensor, list[int]]:
    """The loss as it is published, in loops; and the responses that are drawn."""
    rollouts = [s for s in range(batch.S) if not batch.demonstration_S[s]]
    right = {s: float(batch.reward_S[s]) >= 1.0 for s in rollouts}
    drawn: list[int] = []
    advantage = {}
    for group in {int(batch.group_S[s]) for s in rollouts}:
        own = [s for s in rollouts if int(batch.group_S[s]) == group]
        for s in own:
            others = [2 * right[o] - 1 for o in own if o != s]
            advantage[s] = 2 * right[s] - 1 - sum(others) / len(others) if others else 0.0
        sides = [[s for s in own if right[s]], [s for s in own if not right[s]]]
        if all(sides):
            seeds = batch.sequence_signals["draw_seed"].tolist()
            drawn += [min(side, key=lambda s: seeds[s]) for side in sides]
    tokens = {s: [] for s in rollouts}
    for i, s in enumerate(batch.sequence_N.tolist()):
        if s in tokens and bool(batch.mask_N[i]):
            tokens[s].append(i)
    counts = [sum(len(tokens[s]) for s in drawn if right[s] == side) for side in (False, True)]
    total = torch.zeros((), dtype=torch.float64)
    for s in drawn:
        scores = [float(batch.signals["outcome"][i]) for i in tokens[s]]
        for i, omega in zip(tokens[s], slow_weight(scores, right[s], credit, share), strict=True):
            lp = logprob_N[i]
            if right[s]:
                total = total - advantage[s] * omega * lp / counts[1]
            else:
                total = total - 0.5 * advantage[s] * omega * torch.exp(lp - lp.detach()) / counts[0]
            d = batch.signals["ref_logprob"][i] - lp
            total = total + 0.01 * (torch.exp(d) - d - 1) / sum(counts)
    return total, sorted(drawn)


@pytest.mark.parametrize("credit", ["prefix_mean", "raw", "top_share", "uniform"])
def test_the_row_has_the_value_and_gradient_of_the_published_loss(credit: str) -> None:
    objective = build_objective(spec(credit=credit, share=0.5))
    kept = 0
    for seed in range(8):
        batch, logprob_N = random_batch(seed)
        leaf = logprob_N.clone().requires_grad_(True)
        expected, drawn = slow_oreal(batch, leaf, credit, 0.5)
        expected.backward()
        assert leaf.grad is not None
        prepared = objective.prepare(batch)
        index_N = kept_tokens(prepared, batch)
        output, gradient_N = evaluate(objective, prepared, logprob_N[index_N])
        own_N = ~prepared.batch.spread(prepared.batch.demonstration_S)
        assert torch.allclose(gradient_N[own_N], leaf.grad[index_N][own_N], rtol=0, atol=1e-10)
        assert not gradient_N[~own_N].any()
        assert output.measures.values()["policy/loss"] == pytest.approx(float(expected.detach()), abs=1e-10)
        chosen = [s for s in prepared.kept_S.tolist() if not batch.demonstration_S[s]]
        assert chosen == drawn
        kept += len(chosen)
    assert kept >= 16


def test_prompts_of_one_outcome_leave_and_are_counted_and_demonstrations_stay() -> None:
    batch = batch_of(
        [1] * 9,
        groups=[5, 5, 2, 2, 9, 9, 9, 9, 5],
        rewards=[1, 1, 0, 0, 0, 1, 0, 1, 1],
        demonstrations=(8,),
        sequence_signals={"draw_seed": [5.0, 4.0, 3.0, 2.0, 7.0, 9.0, 6.0, 8.0, 0.0]},
    )
    selected = OneRightOneWrong()(batch, torch.zeros(9))
    assert selected.keep_S.nonzero()[:, 0].tolist() == [6, 7, 8]
    assert selected.measures.values() == {"selection/all_right_prompts": 1, "selection/all_wrong_prompts": 1}
    nothing = OneRightOneWrong(success=2.0)(batch, torch.zeros(9))
    assert nothing.keep_S.nonzero()[:, 0].tolist() == [8]


@pytest.mark.parametrize("rewards", [[1.0, 1.0], [0.0, 0.0]])
def test_a_batch_without_a_mixed_prompt_trains_nothing(rewards: list[float]) -> None:
    signals = {name: [-1.0] * 4 for name in ("outcome", "ref_logprob", "old_logprob")}
    known = {"draw_seed": [1.0, 2.0]}
    batch = batch_of([2, 2], rewards=rewards, sequence_signals=known, **signals)
    objective = build_objective({"base": "oreal"})
    prepared = objective.prepare(batch)
    assert prepared.batch.S == 0 and prepared.value_targets["outcome"].shape == (0,)
    output, _ = evaluate(objective, prepared, torch.zeros(0, dtype=torch.float64))
    assert float(output.loss.detach()) == 0.0
    # Without the selection one of the terms has no tokens: its loss is exactly 0, and so is its gradient.
    objective = build_objective({"base": "oreal", "selection": "all"})
    output, gradient_N = evaluate(objective, objective.prepare(batch), batch.signal("old_logprob"))
    assert float(output.loss.detach()) == 0.0 and not gradient_N.any()


def test_two_critics_in_one_objective_are_refused() -> None:
    both = {"base": "ppo", "shaping": ["outcome_credit"]}
    with pytest.raises(CompositionError, match="returns, shaping `outcome_credit` outcomes"):
        build_objective(both, max_response_tokens=5)
    one = {"shaping": [{"outcome_credit": {"success": 0.5}}]}
    with pytest.raises(CompositionError, match="two outcomes to learn"):
        build_objective({"base": "oreal", "terms": {"right": one}})
    assert build_objective({"base": "oreal"}).value_heads == ("outcome",)
    assert build_objective(spec(credit="uniform")).value_heads == ()
    assert "outcome" not in build_objective(spec(credit="uniform")).signals
    with pytest.raises(CompositionError, match=r"share must lie in \(0, 1\], found 0"):
        build_objective(spec(credit="top_share", share=0.0))
