"""The page docs/metrics.md: `python -m rlpost.monitor.metrics > docs/metrics.md`."""

from __future__ import annotations

from rlpost.monitor.catalogue import SECTIONS

PREAMBLE = """# Metrics

Every step appends one JSON object to `metrics.jsonl`; TensorBoard shows the same names. This page
is generated: `python -m rlpost.monitor.metrics > docs/metrics.md`. A run cannot emit a name that is
not here.

In the formulas, *behaviour* is the log-prob that the engine reported when it sampled a token, *old*
the log-prob of the same token under the learner's weights before the step's first update, π_θ the
policy during an update, π_den the objective's denominator, A the advantage and m the mask. A number
that is not finite is written as `null`.
"""


def render() -> str:
    """The table of metrics as Markdown."""
    lines = [PREAMBLE]
    for title, metrics in SECTIONS.items():
        lines += [f"## {title}", "", "| name | unit | formula | healthy |", "|---|---|---|---|"]
        for m in metrics:
            cells = (f"`{m.name}`", m.unit, m.formula, m.healthy)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(render(), end="")
