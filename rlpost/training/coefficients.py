"""Coefficients of regularisers that follow a measurement from step to step."""

from __future__ import annotations

from collections.abc import Mapping

from rlpost.estimator import Objective
from rlpost.training.state import RunState


def objective_in_force(objective: Objective, state: RunState) -> Objective:
    """The objective with the coefficients that the next step uses."""
    parts = objective.with_coefficients(state.coefficients).adaptive
    return objective.with_coefficients({p.key: p.applied(state.measured.get(p.key)) for p in parts})


def adapt(objective: Objective, state: RunState, report: Mapping[str, float], samples: int) -> None:
    """Move every adaptive coefficient by what the step measured; a step without updates measured nothing.

    Args:
        objective: as configured.
        report: the step's metrics.
        samples: responses in the step's batch.
    """
    for part in objective.with_coefficients(state.coefficients).adaptive:
        if part.measured in report:
            measured = report[part.measured]
            state.coefficients[part.key] = part.next_coefficient(measured, samples)
            state.measured[part.key] = measured


def coefficient_metrics(objective: Objective) -> dict[str, float]:
    """The coefficient of each regulariser in an objective."""
    return {f"policy/{part.key}_coefficient": part.coefficient for part in objective.regularisers}
