"""Every row and many compositions: autograd, the analytic coefficients and the papers' losses agree."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import estimator_slow as slow
import estimator_slow_advantages as slow_advantages
import estimator_slow_losses as losses
import pytest
import torch
from estimator_batches import batch_for, evaluate, gradient_of_cut, kept_tokens, random_batch, random_cut
from torch import Tensor

from rlpost.estimator import (
    ALGORITHMS,
    PARTS,
    CompositionError,
    Objective,
    TokenBatch,
    build_objective,
)
from rlpost.estimator.algorithms.hybrid import HYBRID

MAX_RESPONSE_TOKENS = 5
AXES = ("advantage", "denominator", "granularity", "mask", "aggregation")


def assert_coefficients_match(objective: Objective, batch: TokenBatch, logprob_N: Tensor) -> None:
    objective = replace(objective, regularisers=())
    prepared = objective.prepare(batch)
    current_N = logprob_N[kept_tokens(prepared, batch)]
    output, gradient_N = evaluate(objective, prepared, current_N)
    coefficient_N = objective.coefficients(current_N, prepared)
    assert torch.isfinite(output.loss)
    assert torch.allclose(gradient_N, coefficient_N, rtol=0, atol=1e-10)
    assert (gradient_N[~prepared.batch.mask_N] == 0).all()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("seed", range(5))
def test_autograd_gives_the_analytic_coefficient_for_every_row(name: str, seed: int) -> None:
    objective = build_objective({"base": name}, max_response_tokens=MAX_RESPONSE_TOKENS)
    batch, logprob_N = batch_for(objective, seed)
    assert_coefficients_match(objective, batch, logprob_N)
    batch = replace(batch, progress=0.9)
    assert_coefficients_match(objective, batch, logprob_N)
    gradient_N = evaluate(objective, (p := objective.prepare(batch)), logprob_N[kept_tokens(p, batch)])[1]
    assert gradient_N.abs().sum() > 0.01


def is_valid(names: dict[str, str]) -> bool:
    """A clip acts on ratios around 1; `current` has no ratio, `unit` one that is pi itself."""
    denominator, granularity, mask = names["denominator"], names["granularity"], names["mask"]
    if mask in ("dynamic_clip", "total_variation") and granularity != "token":
        return False
    if denominator in ("current", "shaped_unit"):
        return mask in ("keep", "off_policy_sequence") and granularity == "token"
    if denominator == "unit":
        return mask in ("keep", "off_policy_sequence") and granularity != "clipped_geometric"
    return True


def test_autograd_gives_the_analytic_coefficient_for_every_valid_choice_of_parts() -> None:
    batch, logprob_N = random_batch(11)
    rng = random.Random(11)
    checked = 0
    for choice in itertools.product(*(PARTS[axis] for axis in AXES[1:])):
        names = dict(zip(AXES[1:], choice, strict=True))
        advantage = rng.choice([name for name in PARTS["advantage"] if name != "constant"])
        spec = {"base": "grpo", "advantage": advantage, **names}
        if not is_valid(names):
            with pytest.raises(CompositionError):
                build_objective(spec, max_response_tokens=MAX_RESPONSE_TOKENS)
            continue
        assert_coefficients_match(
            build_objective(spec, max_response_tokens=MAX_RESPONSE_TOKENS), batch, logprob_N
        )
        checked += 1
    assert checked >= 400


@pytest.mark.parametrize("selection", PARTS["selection"])
def test_autograd_gives_the_analytic_coefficient_after_every_selection(selection: str) -> None:
    batch, logprob_N = random_batch(11)
    for advantage, granularity, aggregation in itertools.product(
        PARTS["advantage"], PARTS["granularity"], PARTS["aggregation"]
    ):
        spec = {"advantage": advantage, "granularity": granularity, "aggregation": aggregation}
        try:
            objective = build_objective(
                {**spec, "selection": selection}, max_response_tokens=MAX_RESPONSE_TOKENS
            )
        except CompositionError:
            assert advantage == "constant"
            continue
        assert_coefficients_match(objective, batch, logprob_N)


OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": [1.0, -0.7]},
    "reward": {"baseline": ["none", "batch"]},
    "group_normalised": {"std": ["sample", "population"], "epsilon": [1e-6, 0.1]},
    "leave_one_out_normalised": {"epsilon": [1e-6, 0.1]},
    "batch_std": {"std": ["sample", "population"], "epsilon": [1e-4, 0.1]},
    "maxrl": {"epsilon": [1e-6, 0.1]},
    "token_return": {"discount": [1.0, 0.7], "kl": [0.0, 0.2], "whiten": ["none", "sample", "population"]},
    "group_centred_whitened": {"whiten": ["sample", "population"]},
    "gae": {"discount": [1.0, 0.7], "lam": [1.0, 0.9], "kl": [0.0, 0.2], "whiten": ["none", "sample"]},
    "gdpo": {"std": ["sample", "population"], "weights": [{}, {"format": 0.3}]},
    "pass_at_k": {"k": [1, 2, 3], "success": [0.5, 0.2]},
    "pkpo": {"k": [1, 2, 3], "variant": ["plain", "leave_one_out_minus_one"]},
    "best_minus_second": {"divide_by_std": [False, True]},
    "smooth_normalised": {"std": ["population", "sample"]},
    "clipped": {"low": [0.0, 0.5], "high": [1.5, 5.0]},
    "sequence": {"mean": ["geometric", "product"]},
    "clip": {"low": [0.1, 0.3], "high": [0.1, 0.3]},
    "dual_clip": {"low": [0.1, 0.3], "high": [0.1, 0.3], "ceiling": [1.5, 3.0]},
    "sequence_sum_over_constant": {"constant": [4.0]},
    "unit": {"loss": ["probability", "log_probability"]},
    "shaped_unit": {"constant": [0.1, 0.7]},
    "clipped_geometric": {"low": [0.15, 0.4], "high": [0.15, 0.4]},
    "dynamic_clip": {"low": [0.05, 0.16], "high": [0.1, 0.2], "ceiling": [2.0, 10.0]},
    "soft_gate": {"positive": [1.0, 2.0], "negative": [1.05, 0.5]},
    "total_variation": {"low": [0.05, 0.2], "high": [0.05, 0.2]},
    "off_policy_sequence": {"threshold": [0.0, 0.2]},
    "sequence_sum_token_mean": {"scale": ["sum", "mean_over_responses"]},
    "prompt_mean": {
        "inside": ["token_mean", "token_sum", "sequence_mean_token_sum", "sequence_mean_token_mean"]
    },
    "preference": {
        "beta": [0.1, 0.5],
        "kind": ["dpo", "ipo"],
        "score": ["sum", "mean"],
        "reference": [True, False],
    },
    "truncated": {"level": ["token", "sequence"], "ceiling": [1.2, 2.0]},
    "banded": {
        "level": ["token", "sequence"],
        "low": [0.5, 0.9],
        "high": [1.2, 5.0],
        "denominators": ["kept", "renewed"],
    },
    "ratio_gate": {
        "statistic": ["geometric", "product", "k2", "k3"],
        "low": [0.0],
        "high": [0.3, 1.2],
        "denominators": ["kept", "renewed"],
    },
}
CORRECTIONS = [
    ["truncated"],
    ["banded"],
    ["ratio_gate"],
    ["ratio_gate", "truncated"],
    ["banded", "self_normalised"],
    ["truncated", "ratio_gate", "self_normalised"],
]


def random_choice(rng: random.Random) -> losses.Choice:
    """Parts and options at random, only valid ones."""
    while True:
        names = {axis: rng.choice(list(PARTS[axis])) for axis in AXES}
        names["advantage"] = rng.choice(list(slow.ADVANTAGES))
        picked = {axis: with_options(name, rng) for axis, name in names.items()}
        if is_valid(names):
            corrected = picked["denominator"][0] != "behaviour" and rng.random() < 0.3
            chain = rng.choice(CORRECTIONS) if corrected else []
            return losses.Choice(**picked, correction=[with_options(name, rng) for name in chain])


def with_options(name: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    return name, {k: rng.choice(v) for k, v in OPTIONS.get(name, {}).items()}


def spec_of(choice: losses.Choice) -> dict[str, Any]:
    parts = {axis: {getattr(choice, axis)[0]: getattr(choice, axis)[1]} for axis in AXES}
    return {**parts, "correction": [{name: options} for name, options in choice.correction]}


def slow_gradient(
    choice: losses.Choice, batch: TokenBatch, logprob_N: Tensor, shaping: dict[str, Any], drop_uniform: bool
) -> tuple[float, Tensor]:
    """Loss and gradient of the published forms, with respect to all tokens of the batch."""
    leaf = logprob_N.clone().requires_grad_(True)
    rows = slow.responses_of(batch, leaf)
    task = {id(r): slow.siblings(rows, r) for r in rows}
    keep = [not drop_uniform or r.demonstration or len(set(task[id(r)])) > 1 for r in rows]
    if "soft_overlong" in shaping:
        slow.soft_overlong(rows, **shaping["soft_overlong"])
    if "kl_in_reward" in shaping:
        slow.kl_in_reward(rows, **shaping["kl_in_reward"])
    name, options = choice.advantage
    advantages = {**slow.ADVANTAGES, **slow_advantages.ADVANTAGES}[name](rows, **options)
    kept = [(r, a) for r, a, k in zip(rows, advantages, keep, strict=True) if k]
    loss = losses.slow_loss(choice, [r for r, _ in kept], [a for _, a in kept])
    loss.backward()
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad


def assert_matches_the_papers(
    objective: Objective,
    choice: losses.Choice,
    batch: TokenBatch,
    logprob_N: Tensor,
    shaping: dict[str, Any],
    drop_uniform: bool,
) -> None:
    expected_loss, expected_N = slow_gradient(choice, batch, logprob_N, shaping, drop_uniform)
    prepared = objective.prepare(batch)
    index_N = kept_tokens(prepared, batch)
    output, gradient_N = evaluate(objective, prepared, logprob_N[index_N])
    dropped_N = torch.ones(len(logprob_N), dtype=torch.bool)
    dropped_N[index_N] = False
    assert torch.allclose(gradient_N, expected_N[index_N], rtol=0, atol=1e-10)
    assert (expected_N[dropped_N].nan_to_num(0.0) == 0.0).all()
    assert output.measures.values()["policy/loss"] == pytest.approx(expected_loss, abs=1e-10)


def assert_cutting_and_ordering_change_nothing(
    objective: Objective, batch: TokenBatch, logprob_N: Tensor, rng: random.Random
) -> None:
    """Micro-batches of any cut add up to the whole, and a shuffled batch has the shuffled gradient."""
    prepared = objective.prepare(batch)
    index_N = kept_tokens(prepared, batch)
    S = prepared.batch.S
    whole = gradient_of_cut(objective, prepared, logprob_N[index_N], [list(range(S))])
    cut = gradient_of_cut(objective, prepared, logprob_N[index_N], random_cut(rng, S))
    assert cut[0] == pytest.approx(whole[0], rel=1e-12, abs=1e-12)
    assert torch.allclose(cut[1], whole[1], rtol=1e-12, atol=1e-12)
    order = rng.sample(range(batch.S), batch.S)
    moved_N = torch.cat([(batch.sequence_N == s).nonzero(as_tuple=True)[0] for s in order])
    shuffled = batch.rows(torch.tensor(order))
    again = objective.prepare(shuffled)
    moved = evaluate(objective, again, logprob_N[moved_N][kept_tokens(again, shuffled)])[1]
    full_N, moved_full_N = torch.zeros_like(logprob_N), torch.zeros_like(logprob_N)
    full_N[index_N] = whole[1]
    moved_full_N[kept_tokens(again, shuffled)] = moved
    assert torch.allclose(moved_full_N, full_N[moved_N], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(240))
def test_random_compositions_have_the_value_and_gradient_of_the_published_losses(seed: int) -> None:
    rng = random.Random(1000 + seed)
    choice = random_choice(rng)
    shaping = {
        k: v
        for k, v in {
            "soft_overlong": {"limit": 5.0, "cache": 3.0, "factor": 0.5},
            "kl_in_reward": {"coefficient": 0.3},
        }.items()
        if rng.random() < 0.5 and choice.advantage[0] not in ("constant", "gdpo")
    }
    if choice.advantage[1].get("kl"):
        shaping.pop("kl_in_reward", None)
    drop_uniform = rng.random() < 0.5
    batch, logprob_N = random_batch(seed)
    spec = {
        "base": "grpo",
        **spec_of(choice),
        "shaping": [{k: v} for k, v in shaping.items()],
        "selection": "drop_uniform" if drop_uniform else "all",
    }
    objective = build_objective(spec)
    assert_matches_the_papers(objective, choice, batch, logprob_N, shaping, drop_uniform)
    assert_coefficients_match(objective, batch, logprob_N)
    assert_cutting_and_ordering_change_nothing(objective, batch, logprob_N, rng)


PUBLISHED = {
    "reinforce": losses.Choice(
        ("reward", {"baseline": "batch"}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("sequence_mean_token_sum", {}),
    ),
    "rloo": losses.Choice(
        ("leave_one_out", {}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("sequence_mean_token_sum", {}),
    ),
    "grpo": losses.Choice(
        ("group_normalised", {"std": "sample", "epsilon": 1e-6}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("sequence_mean_token_mean", {}),
    ),
    "dr_grpo": losses.Choice(
        ("group_centred", {}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("sequence_sum_over_constant", {"constant": 5.0}),
    ),
    "reinforce_pp": losses.Choice(
        ("token_return", {"whiten": "sample"}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("token_mean", {}),
    ),
    "reinforce_pp_baseline": losses.Choice(
        ("group_centred_whitened", {}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("token_mean", {}),
    ),
    "opo": losses.Choice(
        ("opo", {}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("sequence_mean_token_sum", {}),
    ),
    "remax": losses.Choice(
        ("greedy_baseline", {}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("sequence_mean_token_sum", {}),
    ),
    "batch_std": losses.Choice(
        ("batch_std", {}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("token_mean", {}),
    ),
    "maxrl": losses.Choice(
        ("maxrl", {}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("token_mean", {}),
    ),
    "gdpo": losses.Choice(
        ("gdpo", {}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("sequence_mean_token_mean", {}),
    ),
    "dcpo": losses.Choice(
        ("smooth_normalised", {}),
        ("old", {}),
        ("token", {}),
        ("dynamic_clip", {}),
        ("sequence_sum_token_mean", {}),
    ),
    "pass_at_k": losses.Choice(
        ("pass_at_k", {"k": 2}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("sequence_mean_token_mean", {}),
    ),
    "pkpo": losses.Choice(
        ("pkpo", {"k": 2}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("sequence_mean_token_sum", {}),
    ),
    "best_minus_second": losses.Choice(
        ("best_minus_second", {}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("sequence_mean_token_mean", {}),
    ),
    "dapo": losses.Choice(
        ("group_normalised", {"std": "sample", "epsilon": 1e-6}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.28}),
        ("token_mean", {}),
    ),
    "gspo": losses.Choice(
        ("group_normalised", {}),
        ("old", {}),
        ("sequence", {"mean": "geometric"}),
        ("clip", {"low": 3e-4, "high": 4e-4}),
        ("sequence_mean_token_mean", {}),
    ),
    "gspo_token": losses.Choice(
        ("group_normalised", {}),
        ("old", {}),
        ("sequence", {"mean": "geometric"}),
        ("clip", {"low": 3e-4, "high": 4e-4}),
        ("sequence_mean_token_mean", {}),
    ),
    "gmpo": losses.Choice(
        ("group_normalised", {}),
        ("old", {}),
        ("clipped_geometric", {"low": 0.4, "high": 0.4}),
        ("keep", {}),
        ("sequence_mean_token_mean", {}),
    ),
    "luspo": losses.Choice(
        ("group_normalised", {}),
        ("old", {}),
        ("sequence", {"mean": "geometric"}),
        ("clip", {"low": 2e-3, "high": 2.5e-3}),
        ("sequence_mean_token_sum", {}),
    ),
    **{
        name: losses.Choice(
            advantage,
            ("old", {}),
            (granularity, {}),
            ("clip", {"low": 0.2, "high": 0.2}),
            ("sequence_mean_token_mean", {}),
        )
        for name, advantage, granularity in (
            ("ppo", ("gae", {}), "token"),
            ("turn_ppo", ("gae", {}), "turn"),
            ("s_ppo", ("gae", {}), "token"),
            ("st_ppo", ("gae", {}), "turn"),
            ("so_grpo", ("group_normalised", {}), "turn"),
        )
    },
    "pivotrl": losses.Choice(
        ("group_normalised", {"std": "population", "epsilon": 0.0}),
        ("old", {}),
        ("token", {}),
        ("clip", {"low": 0.2, "high": 0.2}),
        ("token_mean", {}),
    ),
    "cispo": losses.Choice(
        ("group_normalised", {}),
        ("clipped", {"low": 0.0, "high": 5.0}),
        ("token", {}),
        ("keep", {}),
        ("token_mean", {}),
    ),
    "sapo": losses.Choice(
        ("group_normalised", {}),
        ("old", {}),
        ("token", {}),
        ("soft_gate", {"positive": 1.0, "negative": 1.05}),
        ("sequence_mean_token_mean", {}),
    ),
    "dppo": losses.Choice(
        ("group_normalised", {}),
        ("behaviour", {}),
        ("token", {}),
        ("total_variation", {"low": 0.2, "high": 0.2}),
        ("token_mean", {}),
    ),
    "dual_clip": losses.Choice(
        ("group_normalised", {}),
        ("old", {}),
        ("token", {}),
        ("dual_clip", {"low": 0.2, "high": 0.2, "ceiling": 3.0}),
        ("token_mean", {}),
    ),
    "dpo": losses.Choice(
        ("preference", {"beta": 0.1}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("prompt_mean", {"inside": "token_sum"}),
    ),
    "ipo": losses.Choice(
        ("preference", {"beta": 0.1, "kind": "ipo", "score": "mean"}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("prompt_mean", {"inside": "token_sum"}),
    ),
    "simpo": losses.Choice(
        ("preference", {"beta": 2.0, "score": "mean", "reference": False, "target": 1.0}),
        ("current", {}),
        ("token", {}),
        ("keep", {}),
        ("prompt_mean", {"inside": "token_sum"}),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("seed", range(5))
def test_every_row_has_the_value_and_gradient_of_its_paper(name: str, seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    shaping = {"soft_overlong": {"limit": 5.0, "cache": 1.0}} if name == "dapo" else {}
    objective = build_objective({"base": name}, max_response_tokens=5)
    assert_matches_the_papers(objective, PUBLISHED[name], batch, logprob_N, shaping, name == "dapo")


@pytest.mark.parametrize("seed", range(5))
def test_opsm_is_grpo_without_the_wrong_responses_that_are_far_from_the_old_policy(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    leaf = logprob_N.clone().requires_grad_(True)
    rows = slow.responses_of(batch, leaf)
    advantages = slow.group_normalised(rows)
    live = [(r, a) for r, a in zip(rows, advantages, strict=True) if r.n and not r.demonstration]
    far = [
        a < 0 and slow.mean([o - float(lp.detach()) for o, lp in zip(r.old, r.logprob, strict=True)]) > 0.2
        for r, a in live
    ]
    expected = torch.zeros((), dtype=torch.float64)
    for (row, advantage), dropped in zip(live, far, strict=True):
        for lp, o in zip(row.logprob, row.old, strict=True):
            clipped = losses.surrogate("clip", {}, advantage, (lp - o).exp(), 1.0, 0.0)
            expected = expected + (0.0 if dropped else clipped) / row.n / len(live)
    expected.backward()
    assert leaf.grad is not None
    mask = ["clip", {"off_policy_sequence": {"threshold": 0.2}}]
    objective = build_objective({"base": "opsm", "mask": mask})
    output, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert any(far) and not all(far)
    assert torch.allclose(gradient_N, leaf.grad, rtol=0, atol=1e-10)
    assert output.measures.values()["policy/loss"] == pytest.approx(float(expected.detach()), abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_dft_weighs_the_log_likelihood_of_demonstrations_by_their_own_probability(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    leaf = logprob_N.clone().requires_grad_(True)
    tokens = [lp for r in slow.responses_of(batch, leaf) if r.demonstration for lp in r.logprob]
    expected = -sum(float(lp.detach().exp()) * lp for lp in tokens) / len(tokens)
    expected.backward()
    assert leaf.grad is not None
    objective = build_objective({"base": "dft"})
    output, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert torch.allclose(gradient_N, leaf.grad, rtol=0, atol=1e-10)
    assert output.measures.values()["policy/loss"] == pytest.approx(float(expected.detach()), abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_sft_has_the_value_and_gradient_of_maximum_likelihood(seed: int) -> None:
    batch, logprob_N = random_batch(seed)
    leaf = logprob_N.clone().requires_grad_(True)
    demonstrations = [r for r in slow.responses_of(batch, leaf) if r.demonstration]
    tokens = [lp for r in demonstrations for lp in r.logprob]
    expected = -sum(tokens[1:], tokens[0]) / len(tokens)
    expected.backward()
    assert leaf.grad is not None
    objective = build_objective({"base": "sft"})
    output, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert torch.allclose(gradient_N, leaf.grad, rtol=0, atol=1e-10)
    assert output.measures.values()["policy/loss"] == pytest.approx(float(expected.detach()), abs=1e-10)


def test_every_row_of_the_table_has_a_slow_version_here() -> None:
    elsewhere = {
        *("sft", "dft", "opsm"),  # below
        *("d3s", "pods"),  # test_selection_examples
        "otr",  # test_one_token_examples
        *HYBRID,  # test_hybrid_rows
        "oreal",  # test_outcome_examples
        "orpo",  # test_preference_variants
        "distil",  # test_teacher_gap
    }
    assert set(PUBLISHED) | elsewhere == set(ALGORITHMS)


@pytest.mark.parametrize("kind", ["k2", "k3", "k3+", "k3w", "k3_old", "abs"])
def test_a_kl_term_adds_its_weighted_token_gradient_to_that_of_the_terms(kind: str) -> None:
    batch, logprob_N = random_batch(3)
    bare = build_objective({"base": "grpo"})
    objective = build_objective({"base": "grpo", "kl": {"coefficient": 0.7, "kind": kind}})
    prepared = objective.prepare(batch)
    _, gradient_N = evaluate(objective, prepared, logprob_N)
    expected = bare.coefficients(logprob_N, prepared)
    weight_N = prepared.terms[0].weight_N
    for i in range(batch.N):
        if bool(batch.mask_N[i]):
            gap = float(logprob_N[i] - batch.signals["ref_logprob"][i])
            ratio = math.exp(float(logprob_N[i] - batch.signals["old_logprob"][i]))
            sampled = not bool(batch.demonstration_S[batch.sequence_N[i]])
            slope = {
                "k3": 1 - math.exp(-gap),
                "k3_old": gap * (ratio if sampled else 1.0),
                "abs": math.copysign(1.0, gap),
            }.get(kind, gap)
            expected[i] += 0.7 * float(weight_N[i]) * slope
    assert torch.allclose(gradient_N, expected, rtol=0, atol=1e-10)


def test_two_terms_add_their_weighted_gradients() -> None:
    batch, logprob_N = random_batch(4)
    sft = ALGORITHMS["sft"].objective.terms[0]
    grpo = ALGORITHMS["grpo"].objective.terms[0]
    both = Objective((replace(grpo, weight=0.25), replace(sft, weight=2.0)))
    prepared = both.prepare(batch)
    output, gradient_N = evaluate(both, prepared, logprob_N)
    parts = [
        evaluate(objective, objective.prepare(batch), logprob_N)
        for objective in (Objective((grpo,)), Objective((sft,)))
    ]
    assert torch.allclose(gradient_N, 0.25 * parts[0][1] + 2.0 * parts[1][1], rtol=0, atol=1e-12)
    losses = [out.measures.values()["policy/loss"] for out, _ in parts]
    expected = 0.25 * losses[0] + 2.0 * losses[1]
    assert output.measures.values()["policy/loss"] == pytest.approx(expected, abs=1e-12)
    assert torch.allclose(gradient_N, both.coefficients(logprob_N, prepared), rtol=0, atol=1e-10)
