"""Problems asked in several forms (`data.variant_column`): what each form earns, and what it has solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlpost.data.trajectory import Trajectory
from rlpost.evaluation.generations import CORRECT

Scored = Mapping[str, Sequence[tuple[str, float]]]
"""The prompt id and the reward of each response, by variant."""


def by_variant(usable: Sequence[Trajectory], column: str | None) -> Scored:
    """The rewards of scored responses, by the variant of their prompts.

    Args:
        column: `data.variant_column`; None where prompts have no variants.
    """
    scored: dict[str, list[tuple[str, float]]] = {}
    for trajectory in usable if column is not None else ():
        variant = trajectory.prompt.columns.get(column)
        if variant is not None and trajectory.reward is not None and trajectory.reward.score is not None:
            pair = (trajectory.prompt.id, trajectory.reward.score)
            scored.setdefault(str(variant), []).append(pair)
    return scored


def variant_metrics(scored: Scored, solved: dict[str, list[str]]) -> dict[str, float]:
    """The step's mean reward of each variant, and the prompts that the stage has solved so far.

    Args:
        solved: ids of prompts with a right response so far, by variant; those of this step are added.
    """
    metrics = {}
    for variant, pairs in scored.items():
        known = solved.setdefault(variant, [])
        right = dict.fromkeys(id for id, score in pairs if score >= CORRECT)
        known.extend(id for id in right if id not in known)
        metrics[f"reward/variant/{variant}/mean"] = sum(score for _, score in pairs) / len(pairs)
    return metrics | {f"reward/variant/{name}/solved": float(len(ids)) for name, ids in solved.items()}
