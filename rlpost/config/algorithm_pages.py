"""The rows in docs/algorithms/, from the table: `python -m rlpost.config.algorithm_pages docs/algorithms`.

A page is written by hand, but for the text between `<!-- row NAME -->` and `<!-- end -->` (one row of the
table), and between `<!-- table -->` and `<!-- end -->` (all rows, with links to their pages).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rlpost.estimator import ALGORITHMS, Row

_BLOCK = re.compile(r"<!-- (?P<kind>row|table)(?: (?P<name>\w+))? -->\n.*?<!-- end -->", re.DOTALL)


def render(page: str) -> str:
    """The page with every generated block as the table has it now.

    Raises:
        KeyError: a block names a row that does not exist.
    """
    return _BLOCK.sub(_block, page)


def rows_shown(page: str) -> list[str]:
    """The names of the rows that a page shows."""
    return [block["name"] for block in _BLOCK.finditer(page) if block["kind"] == "row"]


def _block(found: re.Match[str]) -> str:
    text = _table() if found["kind"] == "table" else _row(found["name"], ALGORITHMS[found["name"]])
    head = found[0].split("\n", 1)[0]
    return f"{head}\n{text}\n<!-- end -->"


def _row(name: str, row: Row) -> str:
    return "\n".join(
        [
            f"**`{name}`**: {row.summary}",
            "",
            "```",
            row.objective.describe(),
            "```",
            "",
            f"- source: {row.source}",
            f"- certain: {row.certain}",
            f"- ours: {row.ours}",
        ]
    )


def _table() -> str:
    lines = ["| row | page | what sets it apart |", "|---|---|---|"]
    lines += [
        f"| `{name}` | [{row.family}]({row.family}.md) | {row.summary} |" for name, row in ALGORITHMS.items()
    ]
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Bring every page of `folder` up to date."""
    for path in sorted(folder.glob("*.md")):
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
