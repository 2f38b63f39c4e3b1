"""report.html of guided problems: one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlpost.evaluation.profiles import Profile
from rlpost.guidance.outcome import Outcome
from rlpost.guidance.tables import POINT_HEADINGS, fate_rows, left_out, percent, point_rows
from rlpost.guidance.walk import Choice, passes
from rlpost.monitor.page import card, page, said, section, table, to_be_looked_at

EXAMPLES, CHARACTERS_SHOWN = 6, 1200
STYLE = """<style>
.numbers { overflow-x: auto; }
.numbers td:nth-child(n), .numbers th { width: auto; }
.points td:nth-child(n+2), .points th:nth-child(n+2) { text-align: right; }
</style>"""


def guidance_page(
    name: str,
    outcome: Outcome,
    profiles: Mapping[str, Profile],
    provenance: Mapping[str, Any],
    remarks: Sequence[str],
) -> str:
    """The page; it holds everything that it shows, and loads nothing.

    Args:
        profiles: of the responses without guidance, by the problem's id.
    """
    title = f"Guided problems of {name}"
    body = [
        STYLE,
        f"<header><h1>{escape(title)}</h1><p>{escape(_headline(outcome, provenance))}</p></header>",
        _cards(outcome),
        to_be_looked_at([*outcome.warnings, *remarks], "Nothing unusual."),
        section("What became of the problems", _fates(outcome)),
        section("Beginnings of solutions", _points(outcome)),
        section("Examples", _examples(outcome, profiles)),
        section("Provenance", f"<pre>{escape(json.dumps(dict(provenance), indent=2))}</pre>"),
    ]
    return page(title, "\n".join(body))


def _headline(outcome: Outcome, provenance: Mapping[str, Any]) -> str:
    return (
        f"Hard is a problem that none of {outcome.settings.samples} responses solves at temperature "
        f"{provenance['temperature']:g}. Guidance is the shortest beginning of its solution with which one "
        f"of {outcome.settings.samples_per_prefix} responses does"
    )


def _cards(outcome: Outcome) -> str:
    hard, guided = len(outcome.choices), outcome.guided
    judged = sum(outcome.fates.values())
    shares = [choice.chosen.prefix.share for choice in guided if choice.chosen is not None]
    mean = sum(shares) / len(shares) if shares else None
    return (
        '<div class="cards">'
        + card("guided problems", f"{len(guided):,}", "twice each in train.jsonl", main=True)
        + card("hard problems", f"{hard:,}", f"{percent(hard / judged if judged else None)} of those judged")
        + card("helped", f"{outcome.helped:,}", "solved with guidance at least once")
        + card("guided all the same", f"{len(guided) - outcome.helped:,}", "with the shortest beginning")
        + card("left out", f"{sum(outcome.left_out.values()):,}", "hard, without guidance")
        + card("mean guidance", percent(mean), "of a solution's tokens")
        + "</div>"
    )


def _fates(outcome: Outcome) -> str:
    rows = [[escape(cell) for cell in row] for row in fate_rows(outcome)]
    notes = "".join(f"<li>{escape(line)}</li>" for line in left_out(outcome))
    shown = table(("problems", "number", "what it means"), rows)
    return f'<div class="numbers">{shown}</div>' + (f"<ul>{notes}</ul>" if notes else "")


def _points(outcome: Outcome) -> str:
    shown = table(POINT_HEADINGS, [[escape(cell) for cell in row] for row in point_rows(outcome)])
    note = (
        "A beginning leaks that names the gold answer, or that the rewards take for an answer. Helped are "
        "problems with a right response at that point and at no shorter one."
    )
    return f'<div class="numbers points">{shown}</div><p>{note}</p>'


def _examples(outcome: Outcome, profiles: Mapping[str, Profile]) -> str:
    """Some guided problems, spread over all of them, those that guidance helped first."""
    found = sorted(outcome.guided, key=lambda choice: not choice.helped)
    helped = found[: outcome.helped] or found
    if not helped:
        return "<p>There is no guided problem.</p>"
    count = min(EXAMPLES, len(helped))
    chosen = [helped[k * len(helped) // count] for k in range(count)]
    return "".join(_example(choice, profiles[choice.problem.id], outcome) for choice in chosen)


def _example(choice: Choice, unguided: Profile, outcome: Outcome) -> str:
    problem, chosen = choice.problem, choice.chosen
    assert chosen is not None
    guided, success = choice.tried.get(chosen.point), outcome.settings.success
    right = _right(guided, success) if guided is not None else None
    rate = "" if guided is None else f", right {passes(guided, success)} of {len(guided.rewards)} times"
    parts = [
        _said("problem", problem.prompt.text),
        _said(f"beginning of the solution ({percent(chosen.prefix.share)}{rate})", chosen.prefix.text),
        _said("a right response with it", right, "said right") if right is not None else "",
        _said("a response without it", unguided.texts[0]) if unguided.texts else "",
    ]
    solution = _said("the whole solution", problem.solution)
    body = "".join(parts)
    return (
        f'<div class="example"><h3>{escape(problem.id)}</h3>{body}'
        f"<details><summary>its solution</summary>{solution}</details></div>"
    )


def _right(profile: Profile, success: float) -> str | None:
    pairs = zip(profile.rewards, profile.texts, strict=True)
    return next((text for reward, text in pairs if reward is not None and reward >= success), None)


def _said(who: str, text: str, kind: str = "said") -> str:
    return said(who, text, kind, most=CHARACTERS_SHOWN)
