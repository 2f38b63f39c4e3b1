"""The table of versions in docs/install.md is the one that the code goes by."""

from __future__ import annotations

from rlpost.versions import DEPENDENCIES


def test_the_page_lists_every_package_with_its_tested_and_supported_versions(project_root):
    page = (project_root / "docs/install.md").read_text(encoding="utf-8")
    table = page.split("## Which versions go together")[1].split("\n\n")[2]
    shown = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()[2:]]
    assert shown == [
        (" or ".join(row.distributions), row.tested, f"`{row.supported}`", row.needed_for)
        for row in DEPENDENCIES.values()
    ]
