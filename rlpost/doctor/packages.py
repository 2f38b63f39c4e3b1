"""Checks of what is installed: Python and the rows of the table of versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from rlpost.doctor.check import Check
from rlpost.versions import CONFLICT, DEPENDENCIES, MISSING, OK, OLD, Installed, companions, inspect

GROUP = "packages"
PYTHON = ">=3.11"


def package_checks(path: list[str] | None = None) -> Iterator[Check]:
    """Python, then every row of the table, then companions of torch that would break it.

    Args:
        path: folders whose metadata is read; `sys.path` without it.
    """
    version = platform.python_version()
    fits = SpecifierSet(PYTHON).contains(Version(version), prereleases=True)
    note = "" if fits else f"install Python {PYTHON}"
    yield Check(GROUP, "python", version, PYTHON, OK if fits else OLD, note, required=True)
    for name in DEPENDENCIES:
        yield _package(inspect(name, path))
    yield from _companions(path)


def _package(seen: Installed) -> Check:
    row = seen.dependency
    notes = {
        OK: "",
        MISSING: f"needed for {row.needed_for}: {row.install}",
        CONFLICT: f"they overwrite each other's files: pip uninstall {' '.join(row.distributions)}, "
        "then install one",
    }
    note = notes.get(seen.verdict, f"supported: {row.supported}. Outside, {row.outside}")
    found = ", ".join(
        version if name == row.name else f"{version} ({name})" for name, version in seen.found.items()
    )
    return Check(GROUP, row.name, found or "-", row.tested, seen.verdict, note, row.required)


def _companions(path: list[str] | None) -> Iterator[Check]:
    for name, (version, fits) in companions(path).items():
        if fits:
            yield Check(GROUP, name, version, "not needed")
        else:
            note = f"built for CUDA beside a CPU torch: transformers fails to import; pip uninstall {name}"
            yield Check(GROUP, name, version, "absent, or +cpu", CONFLICT, note, required=True)
