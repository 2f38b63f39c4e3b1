"""Batches for the core's tests: literal ones and seeded random ones with every irregularity."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.estimator import LossOutput, Measures, Objective, Prepared, TokenBatch

NAN = float("nan")
torch.set_num_threads(1)


@dataclass(frozen=True)
class Given:
    """The advantage written down in the example, one value a sequence."""

    values: tuple[float, ...]
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)[batch.sequence_N]

    @property
    def formula(self) -> str:
        return "given"


def with_advantage(objective: Objective, values: Sequence[float]) -> Objective:
    """The objective with its first term's advantage replaced by given numbers."""
    term = replace(objective.terms[0], advantage=Given(tuple(values)))
    return replace(objective, terms=(term, *objective.terms[1:]))


def batch_of(
    lengths: Sequence[int],
    *,
    mask: Sequence[int] | None = None,
    turns: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    rewards: Sequence[float] | None = None,
    demonstrations: Sequence[int] = (),
    on_policy: bool = False,
    sequence_signals: Mapping[str, Sequence[float]] | None = None,
    **signals: Sequence[float],
) -> TokenBatch:
    """A literal batch; by default one group, rewards 0, 1, 2, ... and no untrained token.

    What a driver knows of a sequence is by default that of a first visit: no history, a greedy response that
    failed, and the reward as its only part.
    """
    S, N = len(lengths), sum(lengths)
    rewards = list(range(S)) if rewards is None else rewards
    history = dict.fromkeys(("visits", "samples", "mean", "variance"), [0.0] * S)
    unseen = {f"prompt_{k}": v for k, v in history.items()} | {"greedy_reward": [0.0] * S}
    unseen |= {"draw_seed": [float(s) for s in range(S)]}
    known = {**unseen, "reward_part/answer": rewards} if sequence_signals is None else sequence_signals
    return TokenBatch(
        sequence_N=torch.tensor([s for s, n in enumerate(lengths) for _ in range(n)], dtype=torch.int64),
        mask_N=torch.ones(N, dtype=torch.bool) if mask is None else torch.tensor(mask, dtype=torch.bool),
        turn_N=torch.zeros(N, dtype=torch.int64) if turns is None else torch.tensor(turns),
        group_S=torch.zeros(S, dtype=torch.int64) if groups is None else torch.tensor(groups),
        reward_S=torch.tensor(rewards, dtype=torch.float64),
        truncated_S=torch.zeros(S, dtype=torch.bool),
        demonstration_S=torch.tensor([s in demonstrations for s in range(S)], dtype=torch.bool),
        on_policy=on_policy,
        signals={k: torch.tensor(v, dtype=torch.float64) for k, v in signals.items()},
        sequence_signals={k: torch.tensor(v, dtype=torch.float64) for k, v in known.items()},
    )


def random_batch(seed: int, *, garbage: float = NAN, mixed: bool = False) -> tuple[TokenBatch, Tensor]:
    """A small ragged batch and its current log-probs, all random, in float64.

    It holds groups of one, two and more responses, one with equal rewards, one with a single best, two
    prompts' demonstrations, an empty response, one without a trained token, turns, holes, and `garbage`
    wherever nothing is trained. With `mixed` the demonstrations are of prompts with rollouts, one of which
    nothing solves, have the reward of a right response, and `garbage` for log-probs of older policies.
    """
    rng, turn_rng, late_rng, teacher_rng = (random.Random(k + seed) for k in (0, 1000, 2000, 3000))
    groups = [7] * 4 + [-3] * 3 + [7] + [20] * 2 + [5] + [100, 101]
    rewards = [rng.choice([0.0, 1.0, 0.3]) for _ in groups]
    rewards[0], rewards[1] = 0.0, 1.0
    rewards[8] = rewards[9] = 2.3
    rewards[4:7] = [1.0, 0.0, 0.3]
    demonstrations = (11, 12)
    for s in demonstrations:
        rewards[s] = 0.0
    if mixed:
        groups[11], groups[12] = groups[10], groups[0]
        rewards[10:] = [0.0, 1.0, 1.0]
    lengths = [rng.randint(1, 6) for _ in groups]
    lengths[rng.choice([0, 1, 2, 3, 5, 6, 7])] = 0
    mask = [int(rng.random() < 0.8) for n in lengths for _ in range(n)]
    start = sum(lengths[:8])
    mask[start : start + lengths[8]] = [0] * lengths[8]
    current = [rng.uniform(-3.0, -0.05) for _ in mask]

    def near(spread: float) -> list[float]:
        return [
            lp + rng.uniform(-spread, spread) if m else garbage for lp, m in zip(current, mask, strict=True)
        ]

    batch = batch_of(
        lengths,
        mask=mask,
        turns=[turn for n in lengths for turn in random_turns(turn_rng, n)],
        groups=groups,
        rewards=rewards,
        demonstrations=demonstrations,
        old_logprob=near(1.5),
        behaviour_logprob=near(1.5),
        ref_logprob=near(1.0),
        teacher_logprob=[teacher_rng.uniform(-3.0, -0.05) if m else garbage for m in mask],
        entropy=[rng.uniform(0.01, 3.0) if m else garbage for m in mask],
        value=[rng.uniform(-1.0, 2.0) if m else garbage for m in mask],
        token_reward=[rng.uniform(-0.2, 0.2) if m else garbage for m in mask],
        outcome=[late_rng.uniform(-2.0, 2.0) if m else garbage for m in mask],
        sequence_signals=driver_knowledge(rng, groups, rewards)
        | {"draw_seed": [float(late_rng.getrandbits(53)) for _ in groups]},
    )
    if mixed:
        shown_N = batch.spread(batch.demonstration_S)
        unknown = {
            name: torch.where(shown_N, garbage, batch.signals[name])
            for name in ("old_logprob", "behaviour_logprob")
        }
        batch = batch.with_signals(**unknown)
    logprob = [lp if m else garbage for lp, m in zip(current, mask, strict=True)]
    return batch, torch.tensor(logprob, dtype=torch.float64)


def batch_for(objective: Objective, seed: int, *, garbage: float = NAN) -> tuple[TokenBatch, Tensor]:
    """A random batch of the rows that the objective's terms train: mixed where they train both kinds."""
    rows = {term.rows for term in objective.terms}
    return random_batch(seed, garbage=garbage, mixed={"rollouts", "demonstrations"} <= rows)


def random_turns(rng: random.Random, length: int) -> list[int]:
    """The turn of each token of a response; some numbers are left out, as by an observation of no tokens."""
    return sorted(rng.choice([0, 1, 3]) for _ in range(length))


def driver_knowledge(
    rng: random.Random, groups: Sequence[int], rewards: Sequence[float]
) -> dict[str, list[float]]:
    """Random sequence signals: a history, equal within a prompt and empty for some, and two reward parts."""
    history: dict[int, tuple[int, int, float, float]] = {}
    for group in sorted(set(groups)):
        visits = rng.randint(0, 3)
        samples = sum(rng.randint(1, 6) for _ in range(visits))
        spread = rng.choice([0.0, 0.2]) if visits else 0.0
        history[group] = (visits, samples, rng.choice([0.0, 0.4, 2.3]) if visits else 0.0, spread)
    names = ("prompt_visits", "prompt_samples", "prompt_mean", "prompt_variance")
    found = {name: [float(history[g][i]) for g in groups] for i, name in enumerate(names)}
    greedy = {group: rng.choice([0.0, 1.0]) for group in history}
    found["greedy_reward"] = [greedy[g] for g in groups]
    found["reward_part/answer"] = [float(r) for r in rewards]
    found["reward_part/format"] = [rng.choice([0.0, 0.5]) for _ in groups]
    return found


def evaluate(
    objective: Objective, prepared: Prepared, logprob_N: Tensor, entropy_N: Tensor | None = None
) -> tuple[LossOutput, Tensor]:
    """The loss and autograd's gradient with respect to the log-probs, or the scores where those are read."""
    leaf = logprob_N.detach().clone().requires_grad_(True)
    output = objective.loss(leaf, prepared, entropy_N, score_of(objective, leaf))
    output.loss.backward()
    assert leaf.grad is not None
    return output, leaf.grad


def score_of(objective: Objective, leaf_N: Tensor) -> Tensor | None:
    """What stands for the scores of terms that read one: the same numbers as the log-probs."""
    return None if objective.actions is None else leaf_N


def kept_tokens(prepared: Prepared, batch: TokenBatch) -> Tensor:
    """Positions of the kept sequences' tokens on the N axis of the original batch."""
    kept = set(prepared.kept_S.tolist())
    return torch.tensor([i for i, s in enumerate(batch.sequence_N.tolist()) if s in kept], dtype=torch.int64)


def entropy_of(logprob_N: Tensor) -> Tensor:
    return torch.where(torch.isnan(logprob_N), logprob_N, logprob_N.square() + 0.1)


def gradient_of_cut(
    objective: Objective, prepared: Prepared, logprob_N: Tensor, pieces: list[list[int]]
) -> tuple[float, Tensor, Measures]:
    """Losses, gradients and measures of the pieces, added up; gradients lie on the whole's N axis."""
    leaf = logprob_N.clone().requires_grad_(True)
    entropy_N = entropy_of(logprob_N)
    total, measures = 0.0, Measures()
    for piece in pieces:
        rows = prepared.rows(torch.tensor(piece, dtype=torch.int64))
        owners = prepared.batch.sequence_N.tolist()
        index_N = torch.tensor([i for s in piece for i, o in enumerate(owners) if o == s], dtype=torch.int64)
        score_N = score_of(objective, leaf[index_N])
        output = objective.loss(leaf[index_N], rows, entropy_N[index_N], score_N)
        output.loss.backward()
        total += float(output.loss.detach())
        measures = measures + output.measures
    assert leaf.grad is not None
    return total, leaf.grad, measures


def random_cut(rng: random.Random, count: int) -> list[list[int]]:
    order = list(range(count))
    rng.shuffle(order)
    borders = sorted(rng.sample(range(count + 1), rng.randint(0, min(count, 6))))
    return [order[a:b] for a, b in zip([0, *borders], [*borders, count], strict=True)]
