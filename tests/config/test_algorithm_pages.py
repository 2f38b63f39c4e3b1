"""The pages in docs/algorithms show the table as it is."""

from __future__ import annotations

from collections import Counter

import pytest

from rlpost.config.algorithm_pages import render, rows_shown
from rlpost.estimator import ALGORITHMS


def test_a_block_is_written_anew_and_the_text_around_it_stays() -> None:
    page = "# Title\n\n<!-- row grpo -->\nstale text\n<!-- end -->\n\nafter\n"
    found = render(page)
    assert found.startswith("# Title\n\n<!-- row grpo -->\n**`grpo`**: ")
    assert found.endswith("\n<!-- end -->\n\nafter\n")
    assert "stale text" not in found
    assert render(found) == found


def test_a_block_for_a_row_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        render("<!-- row nothing -->\n<!-- end -->")


def test_every_page_is_current(project_root) -> None:
    for path in (project_root / "docs/algorithms").glob("*.md"):
        page = path.read_text(encoding="utf-8")
        assert render(page) == page, f"run `make docs`: {path.name}"


def test_every_row_is_shown_once_on_the_page_of_its_family(project_root) -> None:
    shown = Counter()
    for path in (project_root / "docs/algorithms").glob("*.md"):
        for name in rows_shown(path.read_text(encoding="utf-8")):
            assert ALGORITHMS[name].family == path.stem, name
            shown[name] += 1
    assert shown == Counter(list(ALGORITHMS))
