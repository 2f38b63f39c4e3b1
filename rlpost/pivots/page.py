"""report.html of a set of pivots: one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlpost.evaluation.profiles import Fate
from rlpost.monitor.page import card, page, said, section, table, to_be_looked_at
from rlpost.pivots.cut import Candidate
from rlpost.pivots.selection import Selection, Tried
from rlpost.pivots.tables import BINS, FATES, HEADINGS, by_depth, histogram, left_out, percent, source_rows

COLOURS: dict[Fate, str] = {"pivot": "#2563eb", "easy": "#93c5fd", "always": "#059669", "never": "#94a3b8"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 1000, 280, 60, 46, 24
EXAMPLES, MESSAGES_SHOWN, CHARACTERS_SHOWN = 6, 3, 600
STYLE = """<style>
.numbers { overflow-x: auto; }
.numbers td:nth-child(n), .numbers th { width: auto; white-space: nowrap; }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { text-align: right; }
.stages { flex-wrap: wrap; font-size: 14px; }
</style>"""


def pivots_page(
    name: str, selection: Selection, provenance: Mapping[str, Any], remarks: Sequence[str]
) -> str:
    """The page; it holds everything that it shows, and loads nothing."""
    title = f"Pivots of {name}"
    body = [
        STYLE,
        f"<header><h1>{escape(title)}</h1><p>{escape(_headline(provenance))}</p></header>",
        _cards(selection),
        to_be_looked_at([*selection.warnings, *remarks], "Every source has pivots."),
        section("What became of the turns", _sources(selection)),
        section("Mean reward of the turns", _legend() + _chart(selection, float(provenance["threshold"]))),
        section("By depth in the dialogue", _depths(selection)),
        section("Examples", _examples(selection.train)),
        section("Provenance", f"<pre>{escape(json.dumps(dict(provenance), indent=2))}</pre>"),
    ]
    return page(title, "\n".join(body))


def _headline(provenance: Mapping[str, Any]) -> str:
    return (
        f"{provenance['samples']} responses of the policy to each turn at temperature "
        f"{provenance['temperature']:g}; kept is a turn whose rewards vary and have a mean below "
        f"{provenance['threshold']:g}"
    )


def _cards(selection: Selection) -> str:
    total = selection.total
    kept = percent(total.pivots / total.tried if total.tried else None)
    return (
        '<div class="cards">'
        + card("pivots", f"{total.pivots:,}", f"{kept} of the turns tried", main=True)
        + card("uninformative turns", percent(total.uninformative_share), "the paper reports about 71 %")
        + card("turns tried", f"{total.tried:,}", f"of {total.turns:,} in {total.dialogues:,} dialogues")
        + card("to train on", f"{len(selection.train):,}", "train.jsonl")
        + card("held out", f"{len(selection.validation):,}", "validation.jsonl, other dialogues")
        + card("drawn at random", f"{len(selection.random):,}", "random.jsonl, to compare with")
        + "</div>"
    )


def _sources(selection: Selection) -> str:
    rows = [[escape(cell) for cell in row] for row in source_rows(selection)]
    notes = "".join(f"<li>{escape(line)}</li>" for line in left_out(selection))
    meanings = "".join(f"<li><b>{fate}</b>: {escape(text)}</li>" for fate, text in FATES.items())
    return (
        f'<div class="numbers">{table(HEADINGS, rows)}</div>'
        + (f"<ul>{notes}</ul>" if notes else "")
        + f"<details><summary>what the columns mean</summary><ul>{meanings}</ul></details>"
    )


def _legend() -> str:
    items = (
        f'<span class="stage"><i style="background:{colour}"></i>{fate}</span>'
        for fate, colour in COLOURS.items()
    )
    return f'<div class="stages">{"".join(items)}</div>'


def _chart(selection: Selection, threshold: float) -> str:
    """Turns by mean reward: a bar for every tenth, the last one for a mean of 1."""
    bins = histogram(selection)
    highest = max((sum(found.values()) for found in bins), default=0) or 1
    width = (WIDTH - LEFT) / (BINS + 1)
    marks = [_bar(place, found, highest, width) for place, found in enumerate(bins)]
    x = LEFT + width * min(max(threshold, 0.0), 1.0) * BINS
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#dc2626" '
    marks.append(
        line + 'stroke-dasharray="5 4"/>' + _text(x + 6, TOP + 10, f"threshold {threshold:g}", "start")
    )
    marks.append(
        _text(LEFT - 8, TOP + 10, f"{highest:,}", "end") + _text(LEFT - 8, HEIGHT - BOTTOM, "0", "end")
    )
    marks.append(_text(WIDTH / 2, HEIGHT - 4, "mean reward of a turn's responses", "middle"))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="turns by mean reward" '
        f'style="width:100%;height:auto;display:block;background:#fff">{"".join(marks)}</svg>'
    )


def _bar(place: int, found: Mapping[Fate, int], highest: int, width: float) -> str:
    x, y, parts = LEFT + place * width, float(HEIGHT - BOTTOM), []
    for fate, colour in COLOURS.items():
        height = (HEIGHT - BOTTOM - TOP) * found.get(fate, 0) / highest
        y -= height
        parts.append(
            f'<rect x="{x + 3:.1f}" y="{y:.1f}" width="{width - 6:.1f}" height="{height:.1f}" '
            f'fill="{colour}"/>'
        )
    count = sum(found.values())
    label = "1" if place == BINS else f"{place / BINS:.1f}"
    parts.append(_text(x + width / 2, HEIGHT - BOTTOM + 18, label, "middle"))
    if count:
        parts.append(_text(x + width / 2, y - 5, f"{count:,}", "middle"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="13" fill="#475569">'
        f"{escape(text)}</text>"
    )


def _depths(selection: Selection) -> str:
    rows = [
        (str(depth), f"{tried:,}", f"{pivots:,}", percent(pivots / tried), f"{mean:.3f}")
        for depth, tried, pivots, mean in by_depth(selection)
    ]
    headings = ("turns of the model before", "tried", "pivots", "kept", "mean reward")
    return f'<div class="numbers">{table(headings, rows)}</div>'


def _examples(pivots: Sequence[Tried]) -> str:
    """Some pivots, spread over all of them."""
    if not pivots:
        return "<p>There is no pivot.</p>"
    count = min(EXAMPLES, len(pivots))
    return "".join(_example(pivots[k * len(pivots) // count]) for k in range(count))


def _example(tried: Tried) -> str:
    candidate, profile = tried.candidate, tried.profile
    hidden = len(candidate.messages) - MESSAGES_SHOWN
    earlier = f"<p><small>{hidden} earlier messages</small></p>" if hidden > 0 else ""
    shown = "".join(_said(str(m["role"]), _spoken(m), "said") for m in candidate.messages[-MESSAGES_SHOWN:])
    answers = "".join(
        _said(f"policy, {'failed' if reward is None else f'{reward:g}'}", text, _kind(reward))
        for reward, text in zip(profile.rewards, profile.texts, strict=True)
    )
    return (
        f'<div class="example"><h3>{escape(candidate.id)} · mean {profile.mean:.3f}</h3>{earlier}{shown}'
        f"{_said('expert', _action(candidate), 'said right')}"
        f"<details><summary>{len(profile.rewards)} responses of the policy</summary>{answers}</details></div>"
    )


def _kind(reward: float | None) -> str:
    return "said right" if reward is not None and reward >= 1.0 else "said"


def _said(who: str, text: str, kind: str) -> str:
    return said(who, text, kind, most=CHARACTERS_SHOWN)


def _spoken(message: Mapping[str, Any]) -> str:
    calls = [json.dumps(call.get("function", call)) for call in message.get("tool_calls") or ()]
    return "\n".join([*([str(message["content"])] if message.get("content") else []), *calls])


def _action(candidate: Candidate) -> str:
    action = candidate.expected_action
    return str(action["content"]) if action["type"] == "message" else json.dumps(action, ensure_ascii=False)
