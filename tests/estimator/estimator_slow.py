"""The published losses once more, in Python loops over scalars that share nothing with the core.

Everything here works on `Response` records; only the log-probs are tensors, so that autograd can
differentiate the losses as the papers print them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlpost.estimator import TokenBatch


@dataclass
class Response:
    """One sequence: the scalars of its trained tokens."""

    group: int
    reward: float
    demonstration: bool
    logprob: list[Tensor]
    old: list[float]
    behaviour: list[float]
    ref: list[float]
    entropy: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    token_reward: list[float] = field(default_factory=list)
    teacher_logprob: list[float] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    known: dict[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.logprob)


def responses_of(batch: TokenBatch, logprob_N: Tensor) -> list[Response]:
    """The batch as records; tokens that are not trained are left out."""
    found = [
        Response(
            int(batch.group_S[s]), float(batch.reward_S[s]), bool(batch.demonstration_S[s]), [], [], [], []
        )
        for s in range(len(batch.group_S))
    ]
    for i, s in enumerate(batch.sequence_N.tolist()):
        if bool(batch.mask_N[i]):
            found[s].logprob.append(logprob_N[i])
            found[s].turn.append(int(batch.turn_N[i]))
            for name in ("old", "behaviour", "ref"):
                getattr(found[s], name).append(float(batch.signals[f"{name}_logprob"][i]))
            for name in {"entropy", "value", "token_reward", "teacher_logprob"} & set(batch.signals):
                getattr(found[s], name).append(float(batch.signals[name][i]))
    for s, response in enumerate(found):
        response.known = {name: float(value_S[s]) for name, value_S in batch.sequence_signals.items()}
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def siblings(rows: Sequence[Response], row: Response) -> list[float]:
    return [other.reward for other in rows if other.group == row.group]


# Advantages: one number for each response.


def constant(rows: list[Response], value: float = 1.0) -> list[float]:
    return [value] * len(rows)


def reward(rows: list[Response], baseline: str = "none") -> list[float]:
    sampled = [r.reward for r in rows if not r.demonstration]
    return [r.reward - (mean(sampled) if baseline == "batch" else 0.0) for r in rows]


def leave_one_out(rows: list[Response]) -> list[float]:
    found = []
    for i, row in enumerate(rows):
        others = [r.reward for j, r in enumerate(rows) if j != i and r.group == row.group]
        found.append(row.reward - mean(others) if others else 0.0)
    return found


def group_centred(rows: list[Response]) -> list[float]:
    return [r.reward - mean(siblings(rows, r)) for r in rows]


def group_normalised(rows: list[Response], std: str = "sample", epsilon: float = 1e-6) -> list[float]:
    found = []
    for row in rows:
        values = siblings(rows, row)
        if len(set(values)) == 1:
            found.append(0.0)
            continue
        spread = sum((v - mean(values)) ** 2 for v in values)
        deviation = math.sqrt(spread / (len(values) - (1 if std == "sample" else 0)))
        found.append((row.reward - mean(values)) / (deviation + epsilon))
    return found


def preference(
    rows: list[Response],
    beta: float = 0.1,
    kind: str = "dpo",
    score: str = "sum",
    reference: bool = True,
    target: float = 0.0,
) -> list[float]:
    """Minus the slope of the mean loss over all pairs of each group; autograd takes it."""
    summed = torch.tensor([sum(r.old) for r in rows], dtype=torch.float64, requires_grad=True)
    moved = summed - torch.tensor([sum(r.ref) if reference else 0.0 for r in rows], dtype=torch.float64)
    if score == "mean":
        moved = moved / torch.tensor([float(max(r.n, 1)) for r in rows], dtype=torch.float64)
    total = moved.sum() * 0.0
    for group in {r.group for r in rows}:
        margins = [
            moved[i] - moved[j]
            for i, a in enumerate(rows)
            for j, b in enumerate(rows)
            if a.group == b.group == group and a.reward > b.reward
        ]
        for margin in margins:
            logistic = torch.log1p((target - beta * margin).exp())
            total = total + ((margin - 1 / (2 * beta)) ** 2 if kind == "ipo" else logistic) / len(margins)
    (slope,) = torch.autograd.grad(total, summed)
    return [-value for value in slope.tolist()]


ADVANTAGES: dict[str, Callable[..., list[float]]] = {
    "constant": constant,
    "reward": reward,
    "leave_one_out": leave_one_out,
    "group_centred": group_centred,
    "group_normalised": group_normalised,
    "preference": preference,
}


def soft_overlong(rows: list[Response], limit: float, cache: float, factor: float = 1.0) -> None:
    for row in rows:
        if row.n > limit:
            row.reward -= factor
        elif row.n > limit - cache:
            row.reward += factor * ((limit - cache) - row.n) / cache


def kl_in_reward(rows: list[Response], coefficient: float) -> None:
    for row in rows:
        if not row.demonstration:
            row.reward -= coefficient * sum(o - r for o, r in zip(row.old, row.ref, strict=True))


# Selections.


def max_variance(values: Sequence[float], size: int) -> list[int]:
    """Positions of the k largest and the size - k smallest, of the first k with the largest variance."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    best, found = -1.0, []
    spread = max(values) - min(values)
    for k in range(size + 1):
        subset = order[:k] + order[len(order) - (size - k) :]
        centre = mean([values[i] for i in subset])
        spread_of = mean([(values[i] - centre) ** 2 for i in subset])
        if spread_of > best + 1e-9 * spread**2:
            best, found = spread_of, subset
    return sorted(found)


def top_tokens(rows: list[Response], advantages: list[float], share: float) -> None:
    """Cut every response to its tokens among the `share` of largest |A| H of them all."""
    keys = [
        (-abs(a) * h, i, t)
        for i, (r, a) in enumerate(zip(rows, advantages, strict=True))
        for t, h in enumerate(r.entropy)
    ]
    ranked = sorted(keys)[: max(1, math.ceil(share * len(keys) - 1e-9))]
    for i, row in enumerate(rows):
        tokens = sorted(t for key, owner, t in ranked if owner == i and key < 0)
        for name in ("logprob", "old", "behaviour", "ref", "entropy"):
            setattr(row, name, [getattr(row, name)[t] for t in tokens])
