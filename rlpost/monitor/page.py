"""The report's HTML: style and the few elements it is made of. Callers escape what they pass."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 32px 28px 64px; background: #f8fafc; color: #0f172a;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; }
h2 { margin: 40px 0 12px; font-size: 19px; }
h3 { margin: 22px 0 8px; font-size: 15px; color: #475569; }
header p { margin: 2px 0 0; color: #64748b; }
p { color: #475569; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 22px 0; }
.card { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 12px 14px; }
.card span { display: block; font-size: 12.5px; color: #64748b; }
.card b { display: block; font-size: 20px; font-weight: 650; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.card.main { background: #eff6ff; border-color: #bfdbfe; }
.card.main b { color: #1d4ed8; }
.calm { padding: 10px 14px; border-radius: 8px; background: #ecfdf5; color: #065f46; }
.warnings { padding: 12px 16px; border-radius: 8px; background: #fffbeb; border: 1px solid #fde68a;
  color: #78350f; }
.warnings ul { margin: 6px 0 0; padding-left: 20px; }
.stages { display: flex; gap: 18px; margin: 0 0 10px; }
.stage i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
@media (max-width: 860px) { .charts { grid-template-columns: minmax(0, 1fr); } }
.chart { margin: 0; background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 12px 10px 4px;
  min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; padding: 0 8px 4px; }
table { width: 100%; border-collapse: collapse; background: #fff; border: 1px solid #e2e8f0;
  font-size: 13px; }
th { text-align: left; font-weight: 600; color: #64748b; background: #f1f5f9; }
th, td { padding: 7px 10px; border-bottom: 1px solid #e2e8f0; vertical-align: top; }
td:nth-child(1) { width: 34%; } td:nth-child(2) { width: 42%; }
pre { margin: 0; max-height: 220px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { font: 12.5px ui-monospace, Menlo, Consolas, monospace; background: #fef3c7; padding: 1px 5px;
  border-radius: 4px; }
details { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 10px 16px; }
.turn { border-left: 3px solid #cbd5e1; margin: 0 0 6px; padding-left: 8px; }
.turn.model { border-color: #1d4ed8; }
.example { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 12px 16px;
  margin: 0 0 14px; }
.example h3 { margin-top: 0; } .example pre { margin: 4px 0 10px; }
.example .said { border-left: 3px solid #cbd5e1; padding-left: 10px; }
.example .right { border-left-color: #059669; }
details pre { max-height: none; margin-top: 10px; }
summary { cursor: pointer; }
small { color: #64748b; }
"""


def page(title: str, body: str) -> str:
    """A whole document; `title` is plain text, `body` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · rlpost</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading (plain text) and what is under it (HTML)."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def card(label: str, value: str, detail: str = "", main: bool = False) -> str:
    """A number with its name; all plain text."""
    kind = "card main" if main else "card"
    lines = f"<span>{escape(label)}</span><b>{escape(value)}</b><span>{escape(detail)}</span>"
    return f'<div class="{kind}">{lines}</div>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Headings are plain text, cells are HTML."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def to_be_looked_at(lines: Sequence[str], calm: str) -> str:
    """What is unusual, or that nothing is; all plain text."""
    if not lines:
        return f'<p class="calm">{escape(calm)}</p>'
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warnings"><strong>To be looked at</strong><ul>{items}</ul></div>'


def said(who: str, text: str, kind: str = "said", *, most: int) -> str:
    """Who said what, cut to `most` characters; all plain text."""
    cut = text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"
    return f'<div class="{kind}"><small>{escape(who)}</small><pre>{escape(cut)}</pre></div>'
