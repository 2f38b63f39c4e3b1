"""Rules about data sets."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig


def evaluations_take_no_broken_row(config: RunConfig) -> Iterator[Problem]:
    """The accuracy on a benchmark of which some rows are left out is that of another benchmark."""
    data = config.evaluation.data
    if data is not None and data.max_broken_share:
        yield Problem(
            ("evaluation", "data", "max_broken_share"),
            "an evaluation takes no broken row",
            found=f"{data.max_broken_share:g}",
            needed="0: a smaller benchmark is another one, and its accuracy compares with nothing",
        )
