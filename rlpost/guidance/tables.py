"""What became of the problems, for the terminal and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpost.evaluation.tables import plain_table
from rlpost.guidance.outcome import FATES, LEFT_OUT, Outcome

if TYPE_CHECKING:
    from rich.table import Table

POINT_HEADINGS = ("share of the solution", "leaks", "unscored", "too long", "tried", "helped", "right")
DASH = "\N{EN DASH}"


def point_rows(outcome: Outcome) -> list[list[str]]:
    """A row for each point of the grid."""
    return [
        [
            percent(point.share),
            f"{point.refused.get('answer', 0) + point.refused.get('verifier', 0):,}",
            f"{point.refused.get('unscored', 0):,}",
            f"{point.refused.get('too_long', 0):,}",
            f"{point.tried:,}",
            f"{point.helped:,}",
            percent(point.rate),
        ]
        for point in outcome.points
    ]


def point_table(outcome: Outcome) -> Table:
    """The terminal's."""
    caption = "helped: hard problems first solved here; right: of the responses"
    table = plain_table("beginnings of solutions", caption, POINT_HEADINGS)
    for row in point_rows(outcome):
        table.add_row(*row)
    return table


def fate_rows(outcome: Outcome) -> list[tuple[str, str, str]]:
    """What became of the problems: name, number, meaning."""
    rows = [("without a solution", f"{sum(outcome.without.values()):,}", _reasons(outcome))]
    return rows + [(fate, f"{outcome.fates.get(fate, 0):,}", text) for fate, text in FATES.items()]


def lines(outcome: Outcome) -> list[str]:
    """What became of the problems, for the terminal."""
    found = [
        f"{name}: {count} ({meaning})"
        for name, count, meaning in fate_rows(outcome)
        if count != "0" or name == "hard"
    ]
    if outcome.failed_responses:
        found.append(f"{outcome.failed_responses:,} of {outcome.responses:,} responses could not be scored")
    return [*found, *left_out(outcome)]


def left_out(outcome: Outcome) -> list[str]:
    """Hard problems that have no guidance, a line for each reason."""
    return [f"hard, but left out: {count:,} ({LEFT_OUT[why]})" for why, count in outcome.left_out.items()]


def percent(share: float | None) -> str:
    """A share for people; a dash without one."""
    return DASH if share is None else f"{100 * share:.1f} %"


def _reasons(outcome: Outcome) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in outcome.without.items()) or "every one has one"
