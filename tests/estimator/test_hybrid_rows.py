"""The hybrid rows: their papers' equations in Python loops, worked examples, and batches that lack a part."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import estimator_slow as slow
import pytest
import torch
from estimator_batches import NAN, batch_of, evaluate, random_batch
from torch import Tensor

from rlpost.estimator import CompositionError, Objective, TokenBatch, build_objective
from rlpost.estimator.algorithms.hybrid import HYBRID

TOLERANCE = 1e-6
T_MAX = 5


def row(name: str, **terms: Any) -> Objective:
    return build_objective({"base": name, "terms": terms}, max_response_tokens=T_MAX)


# The papers' losses, prompt by prompt.


class OnePrompt:
    """The rows of one prompt: all of them, and those with a token to learn from."""

    def __init__(self, rows: list[slow.Response]) -> None:
        self.rows = rows
        self.sampled = [r for r in rows if not r.demonstration]
        self.live = [r for r in rows if r.n]
        self.rollouts = [r for r in self.live if not r.demonstration]
        self.shown = [r for r in self.live if r.demonstration]
        self.right = sum(r.reward >= 1.0 for r in self.sampled)


def total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum() if values else torch.zeros((), dtype=torch.float64)


def clipped(advantage: float, found: slow.Response) -> list[Tensor]:
    ratios = [(lp - o).exp() for lp, o in zip(found.logprob, found.old, strict=True)]
    return [-torch.minimum(r * advantage, r.clamp(0.8, 1.2) * advantage) for r in ratios]


def shaped(advantage: float, found: slow.Response) -> list[Tensor]:
    return [-advantage * lp.exp() / (lp.exp() + 0.1) for lp in found.logprob]


def likelihood(prompt: OnePrompt) -> Tensor:
    """The mean over a prompt's demonstrations of their mean token loss."""
    return total([-total(d.logprob) / d.n for d in prompt.shown]) / max(len(prompt.shown), 1)


def hpt(prompt: OnePrompt) -> Tensor:
    n = len(prompt.sampled)
    if n == 0:
        return total([])
    if Fraction(prompt.right, n) <= 0 and prompt.shown:
        return likelihood(prompt)
    mean = slow.mean([r.reward for r in prompt.sampled])
    terms = [total(clipped(r.reward - mean, r)) / T_MAX for r in prompt.rollouts]
    return total(terms) / max(len(terms), 1)


TYPE_1 = {1: (0, 1, 1), 2: (0.125, 1, 0.5), 3: (0.25, 1, 0.25), 4: (0.5, 1, 0.125)}


def hpt_soft(prompt: OnePrompt) -> Tensor:
    n = len(prompt.sampled)
    if n == 0:
        return total([])
    index = 1 + math.ceil(Fraction(7 * prompt.right, n))
    on, off, supervised = TYPE_1.get(index, (1, 1, 0))
    mean, size = slow.mean([r.reward for r in prompt.rows]), max(len(prompt.live), 1)
    rollouts = total([on * total(clipped(r.reward - mean, r)) / T_MAX for r in prompt.rollouts])
    guided = total([off * total(shaped(d.reward - mean, d)) / T_MAX for d in prompt.shown])
    return (rollouts + guided) / size + supervised * likelihood(prompt)


def normalised(prompt: OnePrompt, found: slow.Response) -> float:
    rewards = [r.reward for r in prompt.rows]
    if len(set(rewards)) == 1:
        return 0.0
    mean = slow.mean(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return (found.reward - mean) / (deviation + 1e-6)


def luffy(prompt: OnePrompt) -> Tensor:
    tokens = sum(r.n for r in prompt.live)
    on = [total(clipped(normalised(prompt, r), r)) for r in prompt.rollouts]
    off = [total(shaped(normalised(prompt, d), d)) for d in prompt.shown]
    return total([*on, *off]) / max(tokens, 1)


def srft(prompt: OnePrompt) -> Tensor:
    demonstrations, rollouts = [], []
    for shown in prompt.shown:
        weight = 0.5 * math.exp(-slow.mean(shown.entropy))
        advantage = normalised(prompt, shown)
        losses = [-weight * lp - advantage * lp.exp() for lp in shown.logprob]
        demonstrations.append(total(losses) / shown.n)
    for found in prompt.rollouts:
        weight = 0.1 * math.exp(slow.mean(found.entropy)) if found.reward >= 1.0 else -1.0
        rollouts.append(total([-weight * lp for lp in found.logprob]) / found.n)
    return total(demonstrations) / max(len(demonstrations), 1) + total(rollouts) / max(len(rollouts), 1)


def sft_grpo(prompt: OnePrompt) -> Tensor:
    sampled = OnePrompt(prompt.sampled)
    losses = [total(clipped(normalised(sampled, r), r)) / r.n for r in prompt.rollouts]
    return total(losses) / max(len(losses), 1) + 0.1 * likelihood(prompt)


PER_PROMPT: dict[str, Callable[[OnePrompt], Tensor]] = {
    "hpt": hpt,
    "hpt_soft": hpt_soft,
    "luffy": luffy,
    "srft": srft,
    "sft_grpo": sft_grpo,
}


def slow_loss(name: str, batch: TokenBatch, leaf_N: Tensor) -> Tensor:
    rows = slow.responses_of(batch, leaf_N)
    if name == "rft":
        tokens = [lp for r in rows if not r.demonstration and r.reward >= 1.0 for lp in r.logprob]
        return -total(tokens) / len(tokens)
    prompts = [OnePrompt([r for r in rows if r.group == group]) for group in {r.group for r in rows}]
    return total([PER_PROMPT[name](prompt) for prompt in prompts]) / sum(bool(p.live) for p in prompts)


@pytest.mark.parametrize("name", HYBRID)
@pytest.mark.parametrize("seed", range(5))
def test_every_hybrid_row_has_the_value_and_gradient_of_its_paper(name: str, seed: int) -> None:
    batch, logprob_N = random_batch(seed, mixed=True)
    leaf_N = logprob_N.clone().requires_grad_(True)
    expected = slow_loss(name, batch, leaf_N)
    expected.backward()
    assert leaf_N.grad is not None
    objective = row(name)
    output, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    assert torch.allclose(gradient_N, leaf_N.grad, rtol=0, atol=1e-10)
    assert output.measures.values()["policy/loss"] == pytest.approx(float(expected.detach()), abs=1e-10)
    assert expected.abs() > 1e-3


# Worked examples, from a configuration's words to the loss.


RATIOS = torch.tensor([1.1, 1.3, 0.9, 0.7], dtype=torch.float64)
SUMS = {"aggregation": {"prompt_mean": {"inside": "sequence_mean_token_sum"}}}


def loss_of(objective: Objective, batch: TokenBatch, logprob_N: Tensor) -> tuple[dict[str, float], Tensor]:
    output, gradient_N = evaluate(objective, objective.prepare(batch), logprob_N)
    return output.measures.values(), gradient_N


def two_prompts() -> tuple[TokenBatch, Tensor]:
    """One that nothing solves, with a demonstration of three tokens; one solved once, with one of one."""
    batch = batch_of(
        [1, 1, 3, 2, 2, 1],
        groups=[0, 0, 0, 1, 1, 1],
        rewards=[0, 0, 1, 1, 0, 1],
        demonstrations=[2, 5],
        old_logprob=[-1.0, -1.0, NAN, NAN, NAN, -3.0, -3.0, -3.0, -3.0, NAN],
    )
    shown_N = torch.tensor([-1.0, -1.0, -0.5, -1.0, -1.5], dtype=torch.float64)
    return batch, torch.cat((shown_N, RATIOS.log() - 3.0, torch.tensor([-7.0])))


def test_hpt_of_two_prompts_is_the_mean_of_one_likelihood_and_one_clipped_surrogate() -> None:
    values, gradient_N = loss_of(row("hpt", rollouts=SUMS), *two_prompts())
    assert values["policy/loss"] == pytest.approx(0.425, abs=TOLERANCE)
    assert values["policy/loss/demonstrations"] == pytest.approx(1.0 / 2, abs=TOLERANCE)
    assert values["policy/loss/rollouts"] == pytest.approx(-0.15 / 2, abs=TOLERANCE)
    rollouts = [-0.55 / 4, 0.0, 0.45 / 4, 0.0]
    assert gradient_N.tolist() == pytest.approx([0, 0, *[-1 / 6] * 3, *rollouts, 0], abs=TOLERANCE)


def test_hpt_reports_the_size_of_each_terms_coefficients() -> None:
    batch, _ = two_prompts()
    values = row("hpt", rollouts=SUMS).prepare(batch).measures.values()
    # Four tokens of |A| = 1/2 over two rollouts and two prompts; three of A = 1 over three and two.
    assert values["policy/coefficient/rollouts"] == pytest.approx(4 * 0.5 / 4)
    assert values["policy/coefficient/demonstrations"] == pytest.approx(0.5)
    assert values["signal/nonzero_response_share"] == pytest.approx(2 / 4)


def test_hpt_without_the_clip_and_over_the_padded_length_is_the_released_code() -> None:
    objective = build_objective(
        # The scripts divide by the padded length and not by the number of rollouts, which is two.
        {"base": "hpt", "terms": {"rollouts": {"mask": "keep", "weight": 2.0}}},
        max_response_tokens=4,
    )
    batch = batch_of([2, 2], rewards=[1, 0], old_logprob=[-3.0] * 4)
    values, _ = loss_of(objective, batch, RATIOS.log() - 3.0)
    assert values["policy/loss"] == pytest.approx(-0.1, abs=TOLERANCE)
    clipped_values, _ = loss_of(row("hpt", rollouts=SUMS), batch, RATIOS.log() - 3.0)
    assert clipped_values["policy/loss"] == pytest.approx(-0.15, abs=TOLERANCE)


def test_hpts_supervised_loss_is_a_mean_of_sequences_or_of_tokens() -> None:
    logprob_N = torch.tensor([-9.0, -0.5, -1.0, -1.5, -2.0], dtype=torch.float64)
    options = {"rewards": [0, 1, 1], "demonstrations": [1, 2], "old_logprob": [-9.0, NAN, NAN, NAN, NAN]}
    batch = batch_of([1, 3, 1], **options)
    assert loss_of(row("hpt"), batch, logprob_N)[0]["policy/loss"] == pytest.approx(1.5, abs=TOLERANCE)
    tokens = row("hpt", demonstrations={"aggregation": {"prompt_mean": {"inside": "token_mean"}}})
    assert loss_of(tokens, batch, logprob_N)[0]["policy/loss"] == pytest.approx(1.25, abs=TOLERANCE)
    one = batch_of([1, 3], rewards=[0, 1], demonstrations=[1], old_logprob=[-9.0, NAN, NAN, NAN])
    assert loss_of(row("hpt"), one, logprob_N[:4])[0]["policy/loss"] == pytest.approx(1.0, abs=TOLERANCE)


@pytest.mark.parametrize(("gamma", "open_from"), [(0.0, 1), (1 / 8, 2), (2 / 8, 3)])
def test_hpts_two_terms_never_train_the_same_prompt_and_together_all_of_them(
    gamma: float, open_from: int
) -> None:
    gates = [{"gate": {"pass_rate": {"threshold": gamma, "side": side}}} for side in ("above", "at_most")]
    objective = row("hpt", rollouts=gates[0], demonstrations=gates[1])
    rewards = [r for k in range(9) for r in (*[1.0] * k, *[0.0] * (8 - k), 1.0)]
    shown = range(8, 81, 9)
    groups = [k for k in range(9) for _ in range(9)]
    batch = batch_of([1] * 81, groups=groups, rewards=rewards, demonstrations=shown, old_logprob=[-1.0] * 81)
    rollouts, demonstrations = objective.prepare(batch).terms
    for k in range(9):
        opened = [float(w > 0) for w in rollouts.weight_N[9 * k : 9 * k + 8].tolist()]
        assert opened == [float(k >= open_from)] * 8
        assert bool(demonstrations.weight_N[9 * k + 8] > 0) == (k < open_from)
    assert int(rollouts.weight_N.bool().sum()) == 8 * (9 - open_from)
    assert int(demonstrations.weight_N.bool().sum()) == open_from


def test_luffys_demonstration_has_the_shaped_coefficients() -> None:
    batch = batch_of([1, 1, 2], rewards=[0, 1, 1], demonstrations=[2], old_logprob=[-1.0, -1.0, NAN, NAN])
    pi_N = torch.tensor([0.5, 0.5, 0.25, 0.01], dtype=torch.float64)
    values, gradient_N = loss_of(row("luffy"), batch, pi_N.log())
    advantage = (1 / 3) / (math.sqrt(1 / 3) + 1e-6)
    assert (-gradient_N[2:] * 4 / advantage).tolist() == pytest.approx([0.204082, 0.082645], abs=TOLERANCE)
    expected = -advantage * (0.714286 + 0.090909) / 4
    assert values["policy/loss/demonstrations"] == pytest.approx(expected, abs=TOLERANCE)


def test_srfts_weights_are_those_of_its_re_implementation() -> None:
    batch = batch_of([1, 1, 1], rewards=[1, 0, 1], demonstrations=[2], old_logprob=[-1.0, -1.0, NAN])
    batch = batch.with_signals(entropy=torch.full((3,), 0.7, dtype=torch.float64))
    _, gradient_N = loss_of(row("srft", off_policy=None), batch, torch.full((3,), -1.0, dtype=torch.float64))
    assert (-gradient_N).tolist() == pytest.approx([0.201375 / 2, -1 / 2, 0.248293], abs=TOLERANCE)
    _, whole_N = loss_of(row("srft"), batch, torch.full((3,), math.log(0.25), dtype=torch.float64))
    assert float(gradient_N[2] - whole_N[2]) == pytest.approx(0.25 * math.sqrt(1 / 3), abs=TOLERANCE)


# Batches that lack a part.


def prompts(counts: list[int], *, demonstrated: bool, n: int = 2) -> TokenBatch:
    size = n + demonstrated
    rewards = [r for k in counts for r in (*[1.0] * k, *[0.0] * (n - k), *[1.0] * demonstrated)]
    S = size * len(counts)
    shown = [g * size + n for g in range(len(counts))] if demonstrated else []
    return batch_of(
        [2] * S,
        groups=[g for g in range(len(counts)) for _ in range(size)],
        rewards=rewards,
        demonstrations=shown,
        old_logprob=[NAN if s in shown else -1.0 for s in range(S) for _ in range(2)],
    ).with_signals(entropy=torch.full((2 * S,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", HYBRID)
@pytest.mark.parametrize("counts", [[0, 0], [2, 2], [1, 1], []], ids=str)
@pytest.mark.parametrize("demonstrated", [True, False])
def test_a_term_without_rows_is_exactly_zero_with_a_graph(
    name: str, counts: list[int], demonstrated: bool
) -> None:
    batch = prompts(counts, demonstrated=demonstrated)
    objective = row(name)
    prepared = objective.prepare(batch)
    leaf_N = torch.full((batch.N,), -1.2, dtype=torch.float64, requires_grad=True)
    for rows in (prepared, prepared.rows(torch.zeros(0, dtype=torch.int64))):
        output = objective.loss(leaf_N[: rows.batch.N], rows)
        output.loss.backward()
        values = output.measures.values() | prepared.measures.values()
        assert all(math.isfinite(value) for value in values.values())
    assert torch.isfinite(leaf_N.grad).all()
    for term, fixed in zip(objective.terms, prepared.terms, strict=True):
        if not bool(fixed.weight_N.any()) and len(objective.terms) > 1:
            assert output.measures.values()[f"policy/loss/{term.label}"] == 0.0
    if not demonstrated:
        for term, fixed in zip(objective.terms, prepared.terms, strict=True):
            assert term.rows == "rollouts" or not fixed.weight_N.any()


def test_a_prompt_that_is_always_solved_moves_nothing_and_is_not_shown_its_demonstration() -> None:
    batch = prompts([2], demonstrated=True)
    _, gradient_N = loss_of(row("hpt"), batch, torch.full((batch.N,), -1.2, dtype=torch.float64))
    assert gradient_N.tolist() == [0.0] * batch.N


def test_a_prompt_that_is_never_solved_and_has_no_demonstration_moves_nothing() -> None:
    batch = prompts([0], demonstrated=False)
    _, gradient_N = loss_of(row("hpt"), batch, torch.full((batch.N,), -1.2, dtype=torch.float64))
    assert gradient_N.tolist() == [0.0] * batch.N
    # Above gamma = 0 there is something to learn from its rollouts after all.
    gates = [{"gate": {"pass_rate": {"threshold": 0.5, "side": side}}} for side in ("above", "at_most")]
    objective = row("hpt", rollouts=gates[0], demonstrations=gates[1])
    batch = prompts([1], demonstrated=False)
    _, gradient_N = loss_of(objective, batch, torch.full((batch.N,), -1.2, dtype=torch.float64))
    assert (gradient_N != 0).all()


def test_a_gated_prompts_rollouts_are_discarded_but_its_prompt_counts() -> None:
    batch = prompts([0, 1], demonstrated=True)
    rollouts, demonstrations = row("hpt").prepare(batch).terms
    assert rollouts.weight_N.tolist() == [0.0] * 6 + [1 / 2 / 2 / T_MAX] * 4 + [0.0] * 2
    assert demonstrations.weight_N.tolist() == [0.0] * 4 + [1 / 2 / 2] * 2 + [0.0] * 6


@pytest.mark.parametrize("name", HYBRID)
def test_what_gates_have_closed_may_be_left_out_of_an_update(name: str) -> None:
    batch, logprob_N = random_batch(2, mixed=True)
    for spec in ({"base": name}, {"base": name, "kl": 0.1}):
        objective = build_objective(spec, max_response_tokens=T_MAX)
        prepared = objective.prepare(batch)
        part = prepared.rows(prepared.weighted_S)
        whole, gradient_N = evaluate(objective, prepared, logprob_N)
        left_N = torch.isin(batch.sequence_N, prepared.weighted_S)
        output, left_gradient_N = evaluate(objective, part, logprob_N[left_N])
        assert float(output.loss.detach()) == pytest.approx(float(whole.loss.detach()), abs=1e-12)
        assert torch.allclose(left_gradient_N, gradient_N[left_N], rtol=0, atol=1e-12)
        assert (gradient_N[~left_N] == 0).all()
    assert objective.is_gated == (name in ("rft", "srft", "hpt", "hpt_soft"))
    if name == "hpt":
        # Left out: the gated prompt's rollout, the open prompt's demonstration, and what has no token.
        gone = set(range(batch.S)) - set(prepared.weighted_S.tolist())
        assert {10, 12} <= gone and 11 not in gone


# Compositions.


def test_grpo_with_a_supervised_term_in_a_configuration_is_the_row() -> None:
    likelihood_term = {
        "advantage": "constant",
        "denominator": "current",
        "aggregation": {"prompt_mean": {"inside": "sequence_mean_token_mean"}},
        "weight": 0.1,
    }
    rollouts = {"aggregation": {"prompt_mean": {"inside": "sequence_mean_token_mean"}}}
    spec = {"base": "grpo", "terms": {"rollouts": rollouts, "demonstrations": likelihood_term}}
    batch, logprob_N = random_batch(3, mixed=True)
    found = [
        evaluate(objective, objective.prepare(batch), logprob_N)[1]
        for objective in (build_objective(spec), row("sft_grpo"))
    ]
    assert torch.equal(*found)


def test_three_branches_by_two_thresholds_are_a_composition_of_gates() -> None:
    def gate(low: float, side: str) -> dict[str, Any]:
        return {"pass_rate": {"threshold": low, "side": side}}

    spec = {
        "base": "hpt",
        "terms": {
            "rollouts": {"gate": [gate(0.0, "above"), gate(0.5, "above")]},
            "middle": {
                "advantage": "group_centred",
                "denominator": "shaped_unit",
                "aggregation": {"prompt_mean": {"inside": "token_mean"}},
                "gate": [gate(0.0, "above"), gate(0.5, "at_most")],
                "rows": "demonstrations",
                "compared_with": "all",
            },
            "demonstrations": {"gate": gate(0.0, "at_most")},
        },
    }
    objective = build_objective(spec, max_response_tokens=T_MAX)
    terms = dict(zip([t.label for t in objective.terms], range(3), strict=True))
    prepared = objective.prepare(prompts([0, 1, 2], demonstrated=True))
    trained = {name: prepared.terms[i].weight_N.reshape(3, 6).any(dim=1) for name, i in terms.items()}
    assert {name: found.tolist() for name, found in trained.items()} == {
        "rollouts": [False, False, True],
        "middle": [False, True, False],
        "demonstrations": [True, False, False],
    }


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"base": "sft", "gate": "pass_count"}, "gate `pass_count` counts rollouts that succeed"),
        ({"base": "sft", "gate": "reward"}, "gate `reward` counts rollouts that succeed"),
        ({"base": "grpo", "gate": "pass_rate"}, "it would never close; set without_demonstration: nothing"),
        ({"base": "hpt", "terms": {"demonstrations": None}}, "it would never close"),
        ({"base": "hpt", "terms": {"demonstrations": {"gate": "reward"}}}, "whose weight would be 0"),
        ({"base": "hpt", "mask": "keep"}, "`hpt` has 2 terms, rollouts and demonstrations"),
        (
            {"base": "hpt", "terms": {"rollouts": {"gate": {"pass_rate": {"threshold": 0.25}}}}},
            "terms `rollouts` and `demonstrations` differ in more than their side",
        ),
        (
            {"base": "hpt", "selection": {"drop_uniform": {"refill": True}}},
            "replaces prompts that no rollout solves, and gate `pass_rate`",
        ),
        (
            {"base": "luffy", "terms": {"demonstrations": None}},
            "term `rollouts` is compared with all rows, demonstrations included",
        ),
    ],
)
def test_what_cannot_act_together_is_refused_with_the_reason(spec: dict[str, Any], reason: str) -> None:
    with pytest.raises(CompositionError) as caught:
        build_objective(spec, max_response_tokens=T_MAX)
    assert reason in str(caught.value)


def test_uniform_groups_may_be_dropped_beside_the_gate_which_has_looked_before() -> None:
    spec = {"base": "hpt", "selection": "drop_uniform"}
    objective = build_objective(spec, max_response_tokens=T_MAX)
    prepared = objective.prepare(prompts([0, 1, 2], demonstrated=True))
    assert prepared.terms[1].weight_N.bool().sum() == 2
    assert prepared.measures.values()["hybrid/gated_share"] == pytest.approx(1 / 3)
