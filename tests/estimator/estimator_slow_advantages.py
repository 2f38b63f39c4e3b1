"""The published advantages once more, in loops over Python numbers that share nothing with the core.

Each function maps responses to one number for each, or to one for each of its trained tokens. Subsets are
enumerated, recursions are run token by token, histories are merged by their raw moments.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from estimator_slow import Response, mean, siblings

PerToken = list[list[float]]


def spread(values: Sequence[float], std: str) -> float:
    if len(set(values)) == 1:
        return 0.0
    return statistics.stdev(values) if std == "sample" else statistics.pstdev(values)


def sampled(rows: Sequence[Response]) -> list[Response]:
    return [row for row in rows if not row.demonstration]


def leave_one_out_normalised(rows: list[Response], epsilon: float = 1e-6) -> list[float]:
    found = []
    for i, row in enumerate(rows):
        others = [r.reward for j, r in enumerate(rows) if j != i and r.group == row.group]
        gap = row.reward - mean(others) if others else 0.0
        deviation = spread(others, "sample") if len(others) > 1 else 0.0
        found.append(gap / (deviation + epsilon) if deviation else gap)
    return found


def batch_std(rows: list[Response], std: str = "sample", epsilon: float = 1e-4) -> list[float]:
    deviation = spread([r.reward for r in sampled(rows)], std)
    return [(r.reward - mean(siblings(rows, r))) / (deviation + epsilon) for r in rows]


def maxrl(rows: list[Response], epsilon: float = 1e-6) -> list[float]:
    means = [mean(siblings(rows, r)) for r in rows]
    return [(r.reward - m) / (m + epsilon) if m > 0 else 0.0 for r, m in zip(rows, means, strict=True)]


def opo(rows: list[Response]) -> list[float]:
    found = []
    for row in rows:
        group = [r for r in rows if r.group == row.group]
        total = sum(r.n for r in group)
        found.append(row.reward - (sum(r.n * r.reward for r in group) / total if total else 0.0))
    return found


def greedy_baseline(rows: list[Response]) -> list[float]:
    return [r.reward - r.known["greedy_reward"] for r in rows]


def whitened(values: PerToken, rows: list[Response], kind: str) -> PerToken:
    flat = [v for row, list_ in zip(rows, values, strict=True) for v in list_ if not row.demonstration]
    if len(set(flat)) < 2:
        return [[0.0] * len(list_) for list_ in values]
    centre = statistics.fmean(flat)
    variance = sum((v - centre) ** 2 for v in flat) / (len(flat) - (1 if kind == "sample" else 0))
    scale = math.sqrt(variance + 1e-8) if kind == "sample" else math.sqrt(max(variance, 1e-8))
    return [[(v - centre) / scale for v in list_] for list_ in values]


def step_rewards(row: Response, kl: float) -> list[float]:
    rewards = list(row.token_reward)
    for t in range(row.n):
        if not row.demonstration:
            rewards[t] -= kl * (row.old[t] - row.ref[t])
    if rewards:
        rewards[-1] += row.reward - sum(row.token_reward)
    return rewards


def token_return(
    rows: list[Response], discount: float = 1.0, kl: float = 0.0, whiten: str = "none"
) -> PerToken:
    found = []
    for row in rows:
        carried, returns = 0.0, []
        for reward in reversed(step_rewards(row, kl)):
            carried = reward + discount * carried
            returns.insert(0, carried)
        found.append(returns)
    return found if whiten == "none" else whitened(found, rows, whiten)


def gae(
    rows: list[Response], discount: float = 1.0, lam: float = 1.0, kl: float = 0.0, whiten: str = "none"
) -> PerToken:
    found = []
    for row in rows:
        carried, following, advantages = 0.0, 0.0, []
        for reward, value in zip(reversed(step_rewards(row, kl)), reversed(row.value), strict=True):
            carried = reward + discount * following - value + discount * lam * carried
            following = value
            advantages.insert(0, carried)
        found.append(advantages)
    return found if whiten == "none" else whitened(found, rows, whiten)


def group_centred_whitened(rows: list[Response], whiten: str = "sample") -> PerToken:
    return whitened([[r.reward - mean(siblings(rows, r))] * r.n for r in rows], rows, whiten)


def gdpo(rows: list[Response], weights: dict[str, float] | None = None, std: str = "sample") -> list[float]:
    total = [0.0] * len(rows)
    for part in sorted({name for r in rows for name in r.known if name.startswith("reward_part/")}):
        for i, row in enumerate(rows):
            values = [r.known[part] for r in rows if r.group == row.group]
            deviation = spread(values, std)
            weight = (weights or {}).get(part.removeprefix("reward_part/"), 1.0)
            total[i] += weight * (row.known[part] - mean(values)) / (deviation + 1e-6) if deviation else 0.0
    flat = [t for t, row in zip(total, rows, strict=True) if not row.demonstration]
    scale = math.sqrt(statistics.variance(flat) + 1e-8)
    return [t / scale for t in total]


def subsets(rows: list[Response], i: int, k: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """All k-subsets of the group of response i, and those of them that hold it."""
    group = [j for j, r in enumerate(rows) if r.group == rows[i].group]
    every = list(itertools.combinations(group, k))
    return every, [chosen for chosen in every if i in chosen]


def pass_at_k(rows: list[Response], k: int = 2, success: float = 0.5) -> list[float]:
    right = [float(r.reward >= success) for r in rows]
    found = []
    for i in range(len(rows)):
        every, own = subsets(rows, i, k)
        best = [max(right[j] for j in chosen) for chosen in every]
        deviation = statistics.pstdev(best) if best else 0.0
        scores = [(max(right[j] for j in chosen) - mean(best)) / deviation for chosen in own if deviation]
        found.append(mean(scores) if scores else 0.0)
    return found


def pkpo(rows: list[Response], k: int = 2, variant: str = "leave_one_out_minus_one") -> list[float]:
    found = []
    for i, row in enumerate(rows):
        every, own = subsets(rows, i, k)
        total = 0.0
        for chosen in own:
            others = [rows[j].reward for j in chosen if j != i]
            base = max(others) if others and variant != "plain" else 0.0
            total += max([row.reward, *others]) - base
        found.append(total / len(every) * len(siblings(rows, row)) if every else 0.0)
    return found


def best_minus_second(rows: list[Response], divide_by_std: bool = False) -> list[float]:
    found = []
    for row in rows:
        values = siblings(rows, row)
        ranked = sorted(values, reverse=True)
        lead = ranked[0] - ranked[1] if len(ranked) > 1 and row.reward == ranked[0] else 0.0
        found.append(lead / (spread(values, "sample") + 1e-6) if divide_by_std and lead else lead)
    return found


def smooth_normalised(rows: list[Response], std: str = "population") -> list[float]:
    found = []
    for row in rows:
        values, known = siblings(rows, row), row.known
        n, old, visit = len(values), known["prompt_samples"], known["prompt_visits"] + 1
        deviation = spread(values, std)
        total = (old * known["prompt_mean"] + n * mean(values)) / (old + n)
        square = old * (known["prompt_variance"] + known["prompt_mean"] ** 2)
        square += n * (deviation**2 + mean(values) ** 2)
        variance = square / (old + n) - total**2
        new = (row.reward - mean(values)) / deviation if deviation else 0.0
        both = (row.reward - total) / math.sqrt(variance) if variance > 1e-12 else 0.0
        first = (visit - 1) / visit * new + both / visit
        second = new / visit + (visit - 1) / visit * both
        found.append(first if abs(first) < abs(second) else second)
    return found


def teacher_gap(rows: list[Response], clip: float = 0.0) -> list[list[float]]:
    gaps = [[t - o for t, o in zip(r.teacher_logprob, r.old, strict=True)] for r in rows]
    return [[max(-clip, min(clip, g)) if clip else g for g in of_one] for of_one in gaps]


ADVANTAGES: dict[str, Callable[..., Any]] = {
    "leave_one_out_normalised": leave_one_out_normalised,
    "batch_std": batch_std,
    "maxrl": maxrl,
    "opo": opo,
    "greedy_baseline": greedy_baseline,
    "token_return": token_return,
    "group_centred_whitened": group_centred_whitened,
    "gae": gae,
    "gdpo": gdpo,
    "pass_at_k": pass_at_k,
    "pkpo": pkpo,
    "best_minus_second": best_minus_second,
    "smooth_normalised": smooth_normalised,
    "teacher_gap": teacher_gap,
}
PER_TOKEN = frozenset({"token_return", "group_centred_whitened", "gae", "teacher_gap"})
"""Those that give a number for each token."""
