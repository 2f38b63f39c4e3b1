"""The published losses once more, in Python loops over scalars that share nothing with the core.

Everything here works on `Response` records; only the log-probs are tensors, so that autograd can
differentiate the losses as the papers print them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
            for name in ("old", "behaviour", "ref"):
                getattr(found[s], name).append(float(batch.signals[f"{name}_logprob"][i]))
            if "entropy" in batch.signals:
                found[s].entropy.append(float(batch.signals["entropy"][i]))
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


ADVANTAGES: dict[str, Callable[..., list[float]]] = {
    "constant": constant,
    "reward": reward,
    "leave_one_out": leave_one_out,
    "group_centred": group_centred,
    "group_normalised": group_normalised,
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


# Losses of one response: a list with one loss a token, or one loss for the whole response.


def ppo(advantage: float, ratio: Tensor, mask: str, options: dict[str, float]) -> Tensor:
    """The pessimistic maximum of PPO, as printed; with `dual_clip`, its floor for A < 0."""
    if mask == "keep":
        return -advantage * ratio
    low, high = 1 - options.get("low", 0.2), 1 + options.get("high", 0.2)
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(low, high))
    if mask == "dual_clip" and advantage < 0:
        ceiling = torch.tensor(-advantage * options.get("ceiling", 3.0), dtype=ratio.dtype)
        loss = torch.minimum(loss, ceiling)
    return loss


def is_clipped(advantage: float, ratio: float, mask: str, options: dict[str, float]) -> bool:
    if mask == "keep":
        return False
    if advantage > 0:
        return ratio > 1 + options.get("high", 0.2)
    too_far = mask == "dual_clip" and ratio > options.get("ceiling", 3.0)
    return advantage < 0 and (ratio < 1 - options.get("low", 0.2) or too_far)


@dataclass
class Choice:
    """A composition in the configuration's words: (name, options) for each axis."""

    advantage: tuple[str, dict[str, Any]]
    denominator: tuple[str, dict[str, Any]]
    granularity: tuple[str, dict[str, Any]]
    mask: tuple[str, dict[str, Any]]
    aggregation: tuple[str, dict[str, Any]]


def response_losses(choice: Choice, row: Response, advantage: float) -> tuple[list[Tensor], bool]:
    """The losses of one response, and whether they are one for each token."""
    kind, band = choice.denominator
    mask, options = choice.mask
    if kind == "current":
        return [-advantage * lp for lp in row.logprob], True
    other = {"old": row.old, "clipped": row.old, "behaviour": row.behaviour, "unit": [0.0] * row.n}[kind]
    logs = [lp - o for lp, o in zip(row.logprob, other, strict=True)]
    per_token = choice.granularity[0] == "token"
    if not per_token:
        total = sum(logs[1:], logs[0])
        logs = [total / row.n if choice.granularity[1].get("mean") != "product" else total]
    ratios = [log.exp() for log in logs]
    if kind != "clipped":
        return [ppo(advantage, ratio, mask, options) for ratio in ratios], per_token
    low, high = band.get("low", 0.0), band.get("high", 5.0)
    spans = ratios if per_token else ratios * row.n
    return [
        torch.zeros(())
        if is_clipped(advantage, float(ratio.detach()), mask, options)
        else -advantage * min(max(float(ratio.detach()), low), high) * lp
        for ratio, lp in zip(spans, row.logprob, strict=True)
    ], True


def slow_loss(choice: Choice, rows: list[Response], advantages: list[float]) -> Tensor:
    """The loss of one update over the given rollouts, averaged as `choice` says."""
    live = [(r, a) for r, a in zip(rows, advantages, strict=True) if r.n and not r.demonstration]
    aggregation, options = choice.aggregation
    product = choice.granularity[1].get("mean") == "product"
    total = torch.zeros((), dtype=torch.float64)
    for row, advantage in live:
        losses, per_token = response_losses(choice, row, advantage)
        # A loss of the whole response stands for n equal token losses, or for one action.
        counted = sum(losses) * (1 if per_token or product else row.n)
        divisor = {
            "token_mean": sum(r.n for r, _ in live),
            "token_sum": 1,
            "sequence_mean_token_sum": len(live),
            "sequence_mean_token_mean": len(live) * row.n,
            "sequence_sum_over_constant": len(live) * options.get("constant", 1.0),
        }[aggregation]
        total = total + counted / divisor
    return total
