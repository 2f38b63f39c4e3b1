"""docs/troubleshooting.md quotes messages that the program really has."""

from __future__ import annotations

import re


def quoted(page: str) -> list[str]:
    """The messages of the page's tables."""
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def test_every_message_that_the_page_quotes_is_in_the_code(project_root):
    page = (project_root / "docs/troubleshooting.md").read_text()
    code = "\n".join(path.read_text() for path in sorted((project_root / "rlpost").rglob("*.py")))
    # Adjacent literals are one text.
    code = re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", code)
    messages = quoted(page)
    assert len(messages) > 40
    assert len(set(messages)) == len(messages)
    for message in messages:
        pieces = [piece.strip() for piece in message.split("...") if piece.strip(" ,;:")]
        assert pieces, message
        for piece in pieces:
            assert piece in code, message
