"""What became of the problems: counts, warnings, and all of it as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.config.schema import GuidanceConfig
from rlpost.evaluation.profiles import Profile
from rlpost.guidance.walk import Choice, Fate, passes

FATES: dict[Fate, str] = {
    "hard": "no response was right: what guidance is for",
    "sometimes": "some responses were right: learnt without guidance",
    "always": "all responses were right: nothing to learn",
    "failed": "no response was right, and too many could not be scored to call it hard",
}
REFUSALS = {
    "answer": "the beginning names the gold answer (guidance.leaks)",
    "verifier": "the rewards give the beginning alone a success",
    "unscored": "the rewards failed on the beginning alone",
    "too_long": "the guided prompt is above guidance.max_prompt_tokens, or leaves no room for a response",
}
"""Why a beginning was not used."""

LEFT_OUT = REFUSALS | {
    "short": "the solution has no beginning",
    "never": "no beginning helps (guidance.fallback: leave_out)",
}
"""Why a hard problem has no guidance; where its beginnings were refused, the most frequent reason."""


@dataclass(frozen=True, slots=True)
class Point:
    """All beginnings at one place of the grid.

    Attributes:
        place: from 1, short to long.
        share: of a solution's tokens, the mean.
        refused: beginnings that were not used, by reason.
        tried: hard problems that were asked with it.
        helped: those of which some response was right.
        rate: right responses / scored responses; None without any.
    """

    place: int
    share: float
    refused: Mapping[str, int]
    tried: int
    helped: int
    rate: float | None


@dataclass(frozen=True)
class Outcome:
    """The outcome of `rlpost guide`.

    Attributes:
        rows: problems in the data.
        without: of these, those without a solution, by reason.
        fates: of the others.
        responses: sampled without guidance.
        failed_responses: of these, those that could not be scored.
        choices: of the hard problems.
        settings: the section `guidance`.
    """

    rows: int
    without: Mapping[str, int]
    fates: Mapping[Fate, int]
    responses: int
    failed_responses: int
    choices: tuple[Choice, ...]
    settings: GuidanceConfig

    @property
    def guided(self) -> tuple[Choice, ...]:
        """The hard problems that have guidance: the pairs of the dataset."""
        return tuple(choice for choice in self.choices if choice.chosen is not None)

    @property
    def helped(self) -> int:
        """Those of which some response was right with it."""
        return sum(choice.helped for choice in self.guided)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Hard problems without guidance, by reason."""
        return Counter(choice.left_out for choice in self.choices if choice.left_out is not None)

    @property
    def points(self) -> list[Point]:
        """The grid, short to long."""
        return [self._point(place) for place in range(1, self.settings.parts + 1)]

    @property
    def warnings(self) -> list[str]:
        """What nobody should overlook."""
        hard, lines = len(self.choices), []
        judged = sum(self.fates.values())
        if hard and hard == judged:
            lines.append(
                "the policy solved no problem at all: look whether the rewards read what it writes, and "
                "whether rollout.max_response_tokens lets it finish"
            )
        if hard and not self.helped:
            lines.append(
                "no beginning helped with any problem: the policy may not take up what others began, or the "
                "beginnings are too short (guidance.parts)"
            )
        refused = Counter(b.refused for c in self.choices for b in c.beginnings if b.refused is not None)
        total = sum(len(choice.beginnings) for choice in self.choices)
        if 2 * refused["answer"] > total:
            lines.append(
                f"{refused['answer']:,} of {total:,} beginnings name the gold answer; where that is mere "
                "chance, as with answers of a single digit, guidance.leaks=verifier asks the rewards alone"
            )
        if failed := self.fates.get("failed", 0):
            lines.append(f"{failed:,} problems could not be judged, because scoring failed too often")
        return lines

    def _point(self, place: int) -> Point:
        found = [b for choice in self.choices for b in choice.beginnings if b.point == place]
        tried = [choice.tried[place] for choice in self.choices if place in choice.tried]
        scored = sum(len(profile.scores) for profile in tried)
        right = [passes(profile, self.settings.success) for profile in tried]
        return Point(
            place,
            sum(b.prefix.share for b in found) / len(found) if found else place / self.settings.parts,
            Counter(b.refused for b in found if b.refused is not None),
            len(tried),
            sum(count > 0 for count in right),
            sum(right) / scored if scored else None,
        )


def outcome_of(
    rows: int,
    without: Mapping[str, str],
    fates: Mapping[str, Fate],
    profiles: Mapping[str, Profile],
    choices: Sequence[Choice],
    settings: GuidanceConfig,
) -> Outcome:
    """Counts of what became of `rows` problems.

    Args:
        without: why a problem has no solution, by its id.
        fates, profiles: of the others, by id.
    """
    rewards = [reward for profile in profiles.values() for reward in profile.rewards]
    return Outcome(
        rows,
        Counter(without.values()),
        Counter(fates.values()),
        len(rewards),
        sum(reward is None for reward in rewards),
        tuple(choices),
        settings,
    )


def as_json(outcome: Outcome, provenance: Mapping[str, Any], remarks: Sequence[str]) -> dict[str, Any]:
    """The whole outcome, but for the problems themselves."""
    return {
        "provenance": dict(provenance),
        "problems": outcome.rows,
        "without_solution": dict(outcome.without),
        "fates": {fate: outcome.fates.get(fate, 0) for fate in FATES},
        "responses": outcome.responses,
        "failed_responses": outcome.failed_responses,
        "guided": len(outcome.guided),
        "helped": outcome.helped,
        "left_out": dict(outcome.left_out),
        "points": [
            {
                "place": point.place,
                "share": point.share,
                "refused": dict(point.refused),
                "tried": point.tried,
                "helped": point.helped,
                "success_rate": point.rate,
            }
            for point in outcome.points
        ],
        "warnings": outcome.warnings,
        "remarks": list(remarks),
    }
