"""Hand-computed numbers: soft and dynamic masks, GMPO, corrections, KL forms, averages, preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from estimator_batches import NAN, batch_of, evaluate, with_advantage
from torch import Tensor

from rlpost.estimator import (
    KL,
    PARTS,
    Current,
    DynamicClip,
    Entropy,
    Objective,
    Old,
    Preference,
    PromptMean,
    Term,
    TokenBatch,
    TokenMean,
    TokenSum,
    build_objective,
    preference_loss,
)
from rlpost.estimator.mask import Ratios

TOLERANCE = 1e-6

# Two responses of four tokens; the last token of the second one is not the policy's.
CURRENT = [-0.5, -1.2, -0.30, -2.0, -0.2, -0.7, -1.5, -0.9]
MASK = [1, 1, 1, 1, 1, 1, 1, 0]
FIRST, SECOND = (1.0, -0.5), (-1.0, 0.5)


def example_batch(**changed: list[float]) -> TokenBatch:
    signals = {
        "old_logprob": [-0.7, -1.0, -0.3, -1.5, -1.6, -0.7, -1.1, NAN],
        "ref_logprob": [-0.9, -1.0, -0.5, -1.6, -1.2, -0.6, -1.4, NAN],
        "behaviour_logprob": [-0.8, -1.4, -0.25, -1.5, -1.5, -0.9, -1.1, NAN],
    }
    return batch_of([4, 4], mask=MASK, **{**signals, **changed})


def check(
    objective: Objective,
    loss: float,
    gradient: Sequence[float] | None,
    advantage: Sequence[float],
    batch: TokenBatch | None = None,
) -> None:
    objective = with_advantage(objective, advantage)
    prepared = objective.prepare(example_batch() if batch is None else batch)
    output, found = evaluate(objective, prepared, torch.tensor(CURRENT, dtype=torch.float64))
    assert output.measures.values()["policy/loss"] == pytest.approx(loss, abs=TOLERANCE)
    if gradient is not None:
        assert found.tolist() == pytest.approx(gradient, abs=TOLERANCE)


GSPO_GRADIENT = [-0.11031211282307443] * 4 + [0.1163010354238408] * 3 + [0]
ALL_KEPT = [
    -0.17448610830859568,
    -0.11696153615399742,
    -0.14285714285714285,
    -0.08664723710180477,
    0.2896571404889054,
    0.07142857142857142,
    0.04788000328825995,
    0,
]
# The example's sampler is pi_old there, and its average is one token mean.
DPPO = {"base": "dppo", "denominator": "old"}


@pytest.mark.parametrize(
    ("spec", "advantage", "loss", "gradient"),
    [
        pytest.param(
            {"base": "gspo", "mask": {"clip": {"low": 0.05, "high": 0.05}}},
            FIRST,
            -0.0923453450207753,
            GSPO_GRADIENT,
            id="GSPO 0.05",
        ),
        pytest.param(
            {"base": "gspo_token", "mask": {"clip": {"low": 0.05, "high": 0.05}}},
            FIRST,
            -0.0923453450207753,
            GSPO_GRADIENT,
            id="GSPO-token 0.05",
        ),
        pytest.param({"base": "gmpo"}, FIRST, -0.0923453450207753, GSPO_GRADIENT, id="GMPO 0.4"),
        pytest.param({"base": "cispo"}, FIRST, 0.26399708156967616, ALL_KEPT, id="CISPO [0, 5]"),
        pytest.param(
            {"base": "sapo"},
            FIRST,
            -0.3610276492432021,
            [
                -0.1508195200470946,
                -0.10150523002168375,
                -0.125,
                -0.07295598639964165,
                0.05049617020169157,
                0.08333333333333333,
                0.05421944721055131,
                0,
            ],
            id="SAPO",
        ),
        pytest.param(DPPO, FIRST, -0.11198630921580398, ALL_KEPT, id="DPPO 0.2"),
        pytest.param(
            {"base": "dual_clip"},
            FIRST,
            -0.1750373446843736,
            [0, *ALL_KEPT[1:4], 0, 0.07142857142857142, 0, 0],
            id="dual clip 3",
        ),
        pytest.param(
            {"base": "gspo", "mask": {"clip": {"low": 0.05, "high": 0.05}}},
            SECOND,
            0.2125,
            [0] * 8,
            id="GSPO 0.05, both clipped",
        ),
        pytest.param(
            {"base": "gspo", "mask": {"clip": {"low": 0.2, "high": 0.4}}},
            SECOND,
            0.0923453450207753,
            [-g for g in GSPO_GRADIENT],
            id="GSPO 0.2/0.4, none clipped",
        ),
        pytest.param(
            {"base": "gmpo"},
            SECOND,
            0.20241870901797976,
            [0.11310467725449494] * 3 + [0, 0, -0.08333333333333333, -0.08333333333333333, 0],
            id="GMPO 0.4, opposite",
        ),
        pytest.param(
            {"base": "gmpo", "granularity": {"clipped_geometric": {"low": 0.15, "high": 0.15}}},
            SECOND,
            0.2576438523568355,
            [
                0.12191373900354158,
                0,
                0.12191373900354158,
                0,
                0,
                -0.07667036788577694,
                -0.07667036788577694,
                0,
            ],
            id="GMPO 0.15, opposite",
        ),
        pytest.param(
            {"base": "cispo"}, SECOND, -0.26399708156967616, [-g for g in ALL_KEPT], id="CISPO, opposite"
        ),
        pytest.param(
            {"base": "sapo"},
            SECOND,
            0.2844043431474046,
            [
                0.15063100044130248,
                0.10142004354933477,
                0.125,
                0.0726709751137486,
                -0.05808275162961625,
                -0.08333333333333333,
                -0.054369241575011405,
                0,
            ],
            id="SAPO, opposite",
        ),
        pytest.param(
            DPPO,
            SECOND,
            0.4016434497047094,
            [*(-g for g in ALL_KEPT[:4]), 0, -0.07142857142857142, -0.04788000328825995, 0],
            id="DPPO, opposite",
        ),
    ],
)
def test_a_row_of_ratios_has_the_hand_computed_loss_and_gradient(
    spec: dict, advantage: tuple[float, ...], loss: float, gradient: list[float]
) -> None:
    check(build_objective(spec), loss, gradient, advantage)


@pytest.mark.parametrize(("threshold", "kept"), [(0.1, [0, 1]), (0.2, [1, 1])])
def test_opsm_drops_the_wrong_response_that_is_farther_off_than_delta(
    threshold: float, kept: list[int]
) -> None:
    mask = ["keep", {"off_policy_sequence": {"threshold": threshold}}]
    objective = with_advantage(build_objective({"base": "opsm", "mask": mask}), SECOND)
    prepared = objective.prepare(example_batch())
    _, gradient_N = evaluate(objective, prepared, torch.tensor(CURRENT, dtype=torch.float64))
    # mean(old - current) is 0.125 for the first response, which is wrong, and -0.333 for the second.
    assert [float(gradient_N[:4].abs().sum() > 0), float(gradient_N[4:].abs().sum() > 0)] == kept


def test_opsm_against_the_sampler_reads_its_log_probs_and_takes_unknown_ones_as_no_gap() -> None:
    spec = {"base": "grpo", "mask": {"off_policy_sequence": {"threshold": 0.1, "against": "sampler"}}}
    objective = with_advantage(build_objective(spec), (-1.0, -1.0))
    assert objective.signals == {"old_logprob", "behaviour_logprob"}
    for sampler, dropped in [([-0.1, -1.2, -0.3, -1.9], True), ([NAN, -1.2, -0.3, -1.9], False)]:
        # Gaps 0.4, 0, 0, 0.1: a mean of 0.125; without the first token 0.025.
        batch = example_batch(behaviour_logprob=[*sampler, -0.2, -0.7, -1.5, NAN])
        _, gradient_N = evaluate(objective, objective.prepare(batch), torch.tensor(CURRENT).double())
        assert (gradient_N[:4] == 0).all() == dropped
        assert (gradient_N[4:7] != 0).all()


@dataclass(frozen=True)
class GivenTokens:
    """An advantage for every token, as the example has it."""

    values: tuple[float, ...]
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)

    formula = "given"


@pytest.mark.parametrize(
    ("base", "gradient"),
    [
        (
            "gspo_token",
            [
                -0.22062422564614886,
                0,
                -0.11031211282307443,
                -0.11031211282307443,
                0.2326020708476816,
                0.1163010354238408,
                0,
                0,
            ],
        ),
        ("gspo", GSPO_GRADIENT),
    ],
)
def test_gspo_averages_an_advantage_that_varies_by_token_and_gspo_token_does_not(
    base: str, gradient: list[float]
) -> None:
    objective = build_objective({"base": base, "mask": {"clip": {"low": 0.9, "high": 9.0}}})
    advantage = GivenTokens((2, 0, 1, 1, -1, -0.5, 0, NAN))
    objective = replace(objective, terms=(replace(objective.terms[0], advantage=advantage),))
    output, found = evaluate(
        objective, objective.prepare(example_batch()), torch.tensor(CURRENT, dtype=torch.float64)
    )
    assert output.measures.values()["policy/loss"] == pytest.approx(-0.0923453450207753, abs=TOLERANCE)
    assert found.tolist() == pytest.approx(gradient, abs=TOLERANCE)


PPO_MEAN = {"base": "grpo", "aggregation": "token_mean"}


@pytest.mark.parametrize(
    ("correction", "loss", "gradient"),
    [
        pytest.param(
            {"truncated": {"ceiling": 1.2}},
            -0.1473991079697258,
            [
                0,
                -0.1403538433847969,
                -0.13588991778581627,
                -0.08664723710180477,
                0.26209261911566034,
                0.0857142857142857,
                0,
                0,
            ],
            id="token TIS 1.2",
        ),
        pytest.param(
            {"banded": {"low": 0.9, "high": 1.2}},
            -0.0927595502992146,
            [0, 0, -0.13588991778581627, -0.08664723710180477, 0.26209261911566034, 0, 0, 0],
            id="token band, denominators kept",
        ),
        pytest.param(
            {"ratio_gate": {"low": 0.95, "high": 1.05, "denominators": "renewed"}},
            0.9758666611407792,
            [0, 0, 0, 0, 0.6758666611407792, 0.16666666666666666, 0, 0],
            id="geometric gate, denominators renewed",
        ),
        pytest.param(
            {"ratio_gate": {"low": 0.95, "high": 1.05}},
            0.41822856906033395,
            [0, 0, 0, 0, 0.2896571404889054, 0.07142857142857142, 0, 0],
            id="geometric gate, denominators kept",
        ),
    ],
)
def test_a_correction_has_the_hand_computed_loss_and_gradient(
    correction: dict, loss: float, gradient: list[float]
) -> None:
    check(build_objective({**PPO_MEAN, "correction": correction}), loss, gradient, FIRST)


W = [
    1.1051709180756477,
    1.4918246976412701,
    0.951229424500714,
    1.0,
    0.9048374180359595,
    1.2214027581601699,
    1,
]


@pytest.mark.parametrize(
    ("correction", "factors"),
    [
        ([{"truncated": {"ceiling": float("inf")}}], W),
        ([{"truncated": {"ceiling": 1.2}}], [W[0], 1.2, W[2], 1, W[4], 1.2, 1]),
        ([{"banded": {"low": 0.9, "high": 1.2}}], [W[0], 0, W[2], 1, W[4], 0, 1]),
        ([{"truncated": {"level": "sequence", "ceiling": 1.2}}], [1.2] * 4 + [1.1051709180756475] * 3),
        (
            [{"banded": {"level": "sequence", "low": 0.5, "high": 1.5}}],
            [0.0] * 4 + [1.1051709180756475] * 3,
        ),
        ([{"ratio_gate": {"low": 0.95, "high": 1.05}}], [0] * 4 + [1] * 3),
        ([{"ratio_gate": {"statistic": "product", "low": 0.5, "high": 1.3}}], [0] * 4 + [1] * 3),
        ([{"ratio_gate": {"statistic": "k3", "high": 0.0245}}], [0] * 4 + [1] * 3),
        ([{"ratio_gate": {"statistic": "k3", "high": 0.0246}}], [1] * 7),
        ([{"ratio_gate": {"statistic": "k2", "low": 0.01, "high": 1.0}}], [1] * 4 + [0] * 3),
        (
            [{"ratio_gate": {"low": 0.95, "high": 1.05}}, {"truncated": {"ceiling": 1.2}}],
            [0] * 4 + [W[4], 1.2, 1],
        ),
        ([{"truncated": {"ceiling": 9}}, "self_normalised"], [w / (sum(W) / 7) for w in W]),
        (
            [
                {"ratio_gate": {"low": 0.95, "high": 1.05, "denominators": "renewed"}},
                {"truncated": {"ceiling": 9}},
                "self_normalised",
            ],
            [0] * 4 + [w / (sum(W[4:]) / 3) for w in W[4:]],
        ),
        (
            [{"ratio_gate": {"low": 0.95, "high": 1.05}}, {"truncated": {"ceiling": 9}}, "self_normalised"],
            [0] * 4 + [w / (sum(W[4:]) / 7) for w in W[4:]],
        ),
    ],
    ids=str,
)
def test_corrections_give_every_token_the_hand_computed_factor(correction: list, factors: list) -> None:
    objective = build_objective({"base": "grpo", "aggregation": "token_sum", "correction": correction})
    prepared = objective.prepare(example_batch())
    assert prepared.terms[0].weight_N.tolist() == pytest.approx([*factors, 0], abs=TOLERANCE)
    values = prepared.measures.values()
    assert values["correction/factor_mean"] == pytest.approx(sum(factors) / 7, abs=TOLERANCE)
    assert values["correction/rejected_share"] == pytest.approx(factors.count(0) / 7)


def test_an_unknown_log_prob_of_the_sampler_counts_as_a_ratio_of_one() -> None:
    objective = build_objective({"base": "grpo", "aggregation": "token_sum", "correction": "truncated"})
    sampler = [NAN, -1.4, -0.25, -1.5, -1.5, -0.9, -1.1, NAN]
    prepared = objective.prepare(example_batch(behaviour_logprob=sampler))
    assert prepared.terms[0].weight_N.tolist() == pytest.approx([1, *W[1:], 0], abs=TOLERANCE)


def test_everything_rejected_leaves_a_loss_of_exactly_zero() -> None:
    correction = [{"banded": {"low": 7.0, "high": 8.0, "denominators": "renewed"}}, "self_normalised"]
    objective = build_objective({"base": "grpo", "correction": correction})
    prepared = objective.prepare(example_batch())
    output, gradient_N = evaluate(objective, prepared, torch.tensor(CURRENT, dtype=torch.float64))
    assert float(output.loss.detach()) == 0.0
    assert (gradient_N == 0).all()
    assert not prepared.has_signal
    assert prepared.measures.values()["correction/rejected_share"] == 1.0


def test_the_mismatch_is_reported_by_token_and_by_sequence() -> None:
    objective = build_objective({"base": "grpo"})
    sampler = [-0.8, -1.4, -0.25, -2.3, -1.5, -0.9, -1.1, NAN]
    output, _ = evaluate(
        objective,
        objective.prepare(example_batch(behaviour_logprob=sampler)),
        torch.tensor(CURRENT, dtype=torch.float64),
    )
    values = output.measures.values()
    weights = [*W[:3], 2.225540928492468, *W[4:]]
    assert values["mismatch/chi2"] == pytest.approx(sum(w * w - 1 for w in weights) / 7, abs=TOLERANCE)
    # Products e^0.45 e^0.8 and e^0.1.
    chi2 = (12.182493960703473 - 1 + 1.2214027581601699 - 1) / 2
    assert values["mismatch/sequence_chi2"] == pytest.approx(chi2, abs=TOLERANCE)
    gap = -((0.1 + 0.4 - 0.05 + 0.8) / 4 + 0.1 / 3) / 2
    assert values["mismatch/log_perplexity_gap"] == pytest.approx(gap, abs=1e-12)
    assert values["mismatch/outside_share"] == pytest.approx(1 / 7)


EXACT = [
    0.05714285714285714,
    -0.028571428571428564,
    0.02857142857142857,
    -0.05714285714285713,
    0.14285714285714285,
    -0.014285714285714282,
    -0.014285714285714297,
    0,
]


@pytest.mark.parametrize(
    ("kind", "loss", "gradient"),
    [
        ("k1", 0.1142857142857143, [1 / 7] * 7 + [0]),
        ("k2", 0.10142857142857144, EXACT),
        (
            "k3",
            0.08292850460539983,
            [
                0.04709713628062295,
                -0.03162896545145283,
                0.025895606703145446,
                -0.07026067109161002,
                0.09030293697550823,
                -0.015024416867949641,
                -0.01502441686794967,
                0,
            ],
        ),
        ("k3+", 0.08292850460539983, EXACT),
        ("k3w", 0.08292850460539983, EXACT),
        (
            "k3_old",
            0.23975703253771272,
            [
                0.06979444332343827,
                -0.023392307230799485,
                0.028571428571428564,
                -0.034658894840721904,
                0.5793142809778108,
                -0.014285714285714282,
                -0.009576000657651991,
                0,
            ],
        ),
        ("abs", 2.4 / 7, [1 / 7, -1 / 7, 1 / 7, -1 / 7, 1 / 7, -1 / 7, -1 / 7, 0]),
    ],
)
def test_every_kl_form_has_the_hand_computed_value_and_gradient(
    kind: str, loss: float, gradient: list[float]
) -> None:
    objective = Objective(
        (Term(PARTS["advantage"]["constant"](0.0), Old(), TokenMean()),), (), (KL(1.0, kind),)
    )
    output, found = evaluate(
        objective, objective.prepare(example_batch()), torch.tensor(CURRENT, dtype=torch.float64)
    )
    assert output.measures.values()["policy/kl_loss"] == pytest.approx(loss, abs=TOLERANCE)
    assert found.tolist() == pytest.approx(gradient, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [
        ("k1", 0.12020944283650614, [0, 0, 0]),
        ("k2", 0.13809891983076542, [-0.1731814012557497, -0.07557081520530656, 0.24875221646105627]),
        ("k3", 0.12020944283650617, [-0.16241546220128358, -0.04991122337829475, 0.21232668557957832]),
        ("k3+", 0.12020944283650617, [-0.1731814012557497, -0.07557081520530656, 0.24875221646105627]),
        ("k3w", 0.12020944283650617, [-0.17318140125574968, -0.07557081520530662, 0.2487522164610563]),
        ("k3_old", 0.12020944283650617, [-0.17318140125574968, -0.07557081520530662, 0.2487522164610563]),
    ],
)
def test_the_expected_kl_gradient_over_three_categories_is_that_of_the_table(
    kind: str, value: float, gradient: list[float]
) -> None:
    logits_V = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    logprob_V = logits_V.log_softmax(0)
    # k3_old samples from another policy; its ratio makes the expectation right again.
    sampled_V = logprob_V.detach() if kind != "k3_old" else torch.tensor([0.1, 0.6, 0.3]).double().log()
    batch = batch_of([3], ref_logprob=reference_V.tolist(), old_logprob=sampled_V.tolist())
    expected = (sampled_V.exp() * KL(1.0, kind)(logprob_V, None, batch)).sum()
    expected.backward()
    assert float(expected.detach()) == pytest.approx(value, abs=TOLERANCE)
    assert logits_V.grad is not None
    assert logits_V.grad.tolist() == pytest.approx(gradient, abs=TOLERANCE)


def test_an_adaptive_kl_coefficient_moves_by_the_clipped_error_over_the_horizon() -> None:
    kl = KL(0.2, target=6.0, horizon=10000)
    assert kl.is_adaptive
    assert kl.next_coefficient(12.0, 256) == pytest.approx(0.201024, abs=1e-12)
    assert kl.next_coefficient(6.6, 256) == pytest.approx(0.2 * (1 + 0.1 * 0.0256), abs=1e-12)
    assert kl.next_coefficient(0.0, 256) == pytest.approx(0.2 * (1 - 0.2 * 0.0256), abs=1e-12)
    assert KL(0.2, target=6.0, horizon=10).next_coefficient(0.0, 256) == 0.1
    assert not KL(0.2).is_adaptive
    assert KL(0.2).next_coefficient(12.0, 256) == 0.2


def test_an_adaptive_entropy_coefficient_rises_below_its_target_and_rests_above() -> None:
    entropy = Entropy(0.01, target=0.5)
    assert entropy.next_coefficient(0.5, 64) == pytest.approx(0.015)
    assert entropy.next_coefficient(0.6, 64) == pytest.approx(0.005)
    assert Entropy(0.002, target=0.5).next_coefficient(0.6, 64) == 0.0
    assert Entropy(0.998, target=0.5).next_coefficient(0.4, 64) == 1.0
    assert (entropy.applied(0.5), entropy.applied(0.6), entropy.applied(None)) == (0.01, 0.0, 0.01)
    assert (Entropy(0.01).next_coefficient(9.0, 64), Entropy(0.01).applied(9.0)) == (0.01, 0.01)


def test_coefficients_are_replaced_by_key_and_by_nothing_else() -> None:
    objective = build_objective({"kl": {"coefficient": 0.1, "target": 0.2}, "entropy": 0.01})
    changed = objective.with_coefficients({"kl": 0.3})
    assert [part.coefficient for part in changed.regularisers] == [0.3, 0.01]
    assert [part.key for part in changed.adaptive] == ["kl"]
    assert changed.regularisers[0].target == 0.2
    assert replace(changed, regularisers=objective.regularisers) == objective


@pytest.mark.parametrize(
    ("q", "low", "high"),
    [
        (1.0, 0.8, 1.170820),
        (1 / 1.2, 0.740832, 1.2),
        (0.9, 0.768742, 1.187184),
        (0.7, 0.646385, 1.231925),
        (0.64, 0.5, 1.25),
        (0.5, 0.5, 1.306226),
        (0.3, 0.5, 1.457427),
        (0.1, 0.5, 2.0),
        (0.05, 0.5, 2.561553),
        (0.01, 0.5, 5.0),
        (0.002, 0.5, 10.0),
        (0.001, 0.5, 10.0),
    ],
)
def test_dynamic_bounds_are_the_published_ones(q: float, low: float, high: float) -> None:
    bounds = DynamicClip().bounds(torch.tensor([q], dtype=torch.float64).log())
    assert [float(end) for end in bounds] == pytest.approx([low, high], abs=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_q", [-104.0, -800.0, -float("inf")])
def test_a_probability_that_underflows_has_the_widest_band(dtype: torch.dtype, log_q: float) -> None:
    low_N, high_N = DynamicClip().bounds(torch.tensor([log_q], dtype=dtype))
    assert (float(low_N), float(high_N)) == (0.5, 10.0)


def test_the_uncapped_dynamic_bounds_are_the_published_ones() -> None:
    log_q_N = torch.tensor([0.002, 0.001], dtype=torch.float64).log()
    _, high_N = DynamicClip(ceiling=100.0).bounds(log_q_N)
    assert high_N.tolist() == pytest.approx([10.512492, 14.650972], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("advantage", "q", "p", "surrogate", "has_gradient"),
    [
        (1, 0.5, 0.6, 1.2, True),
        (1, 0.5, 0.7, 1.306226, False),
        (-1, 0.5, 0.2, -0.5, False),
        (-1, 0.9, 0.7, -0.777778, True),
        (-1, 0.9, 0.65, -0.768742, False),
        (1, 0.001, 0.009, 9.0, True),
        (1, 0.001, 0.02, 10.0, False),
        (-1, 0.001, 0.02, -10.0, False),
    ],
)
def test_the_token_surrogate_of_dcpo_is_the_published_one(
    advantage: float, q: float, p: float, surrogate: float, has_gradient: bool
) -> None:
    objective = Objective((Term(GivenTokens((advantage,)), Old(), TokenSum(), mask=DynamicClip()),))
    log_q, log_p = torch.tensor([q, p], dtype=torch.float64).log().tolist()
    output, gradient_N = evaluate(
        objective, objective.prepare(batch_of([1], old_logprob=[log_q])), torch.tensor([log_p]).double()
    )
    assert output.measures.values()["policy/loss"] == pytest.approx(-surrogate, abs=TOLERANCE)
    assert float(gradient_N[0]) == pytest.approx(-advantage * p / q if has_gradient else 0.0, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("aggregation", "total"),
    [
        ("sequence_sum_token_mean", 1.5),
        ({"sequence_sum_token_mean": {"scale": "mean_over_responses"}}, 0.75),
        ("sequence_mean_token_mean", 0.75),
        ("token_mean", 0.625),
    ],
)
def test_the_averages_that_dcpo_compares_have_the_published_values(aggregation: object, total: float) -> None:
    objective = with_advantage(build_objective({"base": "dcpo", "aggregation": aggregation}), (1.0, 0.5))
    prepared = objective.prepare(batch_of([2, 6], old_logprob=[-1.0] * 8))
    output, _ = evaluate(objective, prepared, torch.full((8,), -1.0, dtype=torch.float64))
    assert output.measures.values()["policy/loss"] == pytest.approx(-total, abs=1e-12)


def test_a_mean_of_lengths_500_and_1500_lets_the_long_response_dominate() -> None:
    batch = batch_of([500, 1500])
    weight_N = TokenMean()(batch, batch.mask_N, torch.zeros(2, dtype=torch.int64))
    assert float(weight_N[:500].sum()) * 1.0 == pytest.approx(0.25)
    assert float(weight_N[500:].sum()) * 0.5 == pytest.approx(0.375)


# [[1, 2, 3], [4], []]: two live responses, an empty one, the first two in groups of their own or in one.
@pytest.mark.parametrize(
    ("inside", "options", "one_prompt", "two_prompts"),
    [
        ("token_mean", {}, 2.5, (2 + 4) / 2),
        ("token_sum", {}, 10.0, (6 + 4) / 2),
        ("sequence_mean_token_sum", {}, 5.0, (6 + 4) / 2),
        ("sequence_mean_token_mean", {}, 3.0, (2 + 4) / 2),
        ("sequence_sum_over_constant", {"constant": 3.0}, 5 / 3, (2 + 4 / 3) / 2),
    ],
)
def test_an_average_per_prompt_is_the_inner_one_for_one_prompt_and_a_mean_for_several(
    inside: str, options: dict, one_prompt: float, two_prompts: float
) -> None:
    loss_N = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for groups, expected in [([5, 5, 5], one_prompt), ([5, 9, 11], two_prompts)]:
        batch = batch_of([3, 1, 0], groups=groups)
        weight_N = PromptMean(inside, **options)(batch, batch.mask_N, torch.zeros(3, dtype=torch.int64))
        assert float((weight_N * loss_N).sum()) == pytest.approx(expected, abs=1e-12)


def test_a_prompt_counts_in_its_update_also_when_this_term_does_not_train_on_it() -> None:
    batch = batch_of([1, 1, 1, 1, 1], groups=[0, 0, 1, 2, 2])
    mask_N = torch.tensor([True, True, False, True, True])
    update_S = torch.tensor([0, 0, 0, 0, 1])
    weight_N = PromptMean()(batch, mask_N, update_S)
    assert weight_N.tolist() == pytest.approx([1 / 6, 1 / 6, 0, 1 / 3, 1.0])


LOGPROB_WON, LOGPROB_LOST, REF_WON, REF_LOST = -12.0, -15.0, -13.0, -14.0


def test_preference_losses_have_the_hand_computed_values() -> None:
    margin = torch.tensor([2.0], dtype=torch.float64)
    assert float(preference_loss(margin)) == pytest.approx(0.5981388693815918, abs=TOLERANCE)
    smoothed = preference_loss(margin, label_smoothing=0.1)
    assert float(smoothed) == pytest.approx(0.6181388693815918, abs=TOLERANCE)
    assert float(preference_loss(margin, kind="ipo")) == pytest.approx(9.0, abs=TOLERANCE)


@pytest.mark.parametrize(
    "part", [Preference(), Preference(label_smoothing=0.1), Preference(kind="ipo"), Preference(beta=0.7)]
)
def test_a_preference_on_policy_has_the_gradient_of_the_papers_loss(part: Preference) -> None:
    logprob_N = torch.tensor([-4.0, -8.0, -5.0, -6.0, -4.0], dtype=torch.float64, requires_grad=True)
    reference = [-6.0, -7.0, -5.0, -5.0, -4.0]
    margin = logprob_N[:2].sum() - logprob_N[2:].sum() - (-13.0 + 14.0)
    assert float(margin.detach()) == 2.0
    options = {"beta": part.beta, "kind": part.kind, "label_smoothing": part.label_smoothing}
    (expected_N,) = torch.autograd.grad(preference_loss(margin, **options), logprob_N)
    objective = build_objective({"base": "dpo", "advantage": {"preference": options}})
    batch = batch_of([2, 3], rewards=[1, 0], old_logprob=logprob_N.tolist(), ref_logprob=reference)
    _, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert gradient_N.tolist() == pytest.approx(expected_N.tolist(), abs=1e-12)
    if part == Preference():
        assert gradient_N[:2].tolist() == pytest.approx([-0.04501660026875222] * 2, abs=TOLERANCE)


def test_a_larger_group_is_the_mean_over_its_pairs_and_equal_rewards_say_nothing() -> None:
    batch = batch_of(
        [1] * 6,
        groups=[4, 4, 4, 8, 8, 2],
        rewards=[1, 0, 0, 0.5, 0.5, 1],
        old_logprob=[-1.0] * 6,
        ref_logprob=[-1.0] * 6,
    )
    assert Preference()(batch).tolist() == pytest.approx([0.05, -0.025, -0.025, 0, 0, 0], abs=1e-15)


def test_a_mask_sees_finite_numbers_however_far_the_policies_are_apart() -> None:
    for name, kind in PARTS["mask"].items():
        for gap in (-20.0, 20.0):
            ratio_N = torch.full((2,), gap).exp()
            at = Ratios(ratio_N, torch.full((2,), gap), torch.full((2,), -90.0), torch.tensor([1.0, -1.0]))
            decision = kind()(at, batch_of([1, 1], old_logprob=[-90.0 - gap] * 2))
            assert torch.isfinite(decision.multiplier_N).all(), name
            assert torch.isfinite(decision.value_N).all(), name


def test_the_current_policy_alone_may_be_compared_with_the_old_one_to_drop_responses() -> None:
    spec = {"base": "reinforce", "mask": {"off_policy_sequence": {"threshold": 0.1}}}
    objective = with_advantage(build_objective(spec), SECOND)
    assert isinstance(objective.terms[0].denominator, Current)
    _, gradient_N = evaluate(objective, objective.prepare(example_batch()), torch.tensor(CURRENT).double())
    assert gradient_N.tolist() == pytest.approx([0] * 4 + [-0.25] * 3 + [0], abs=1e-12)
