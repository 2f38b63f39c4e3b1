"""A published benchmark as a local file: read from the Hugging Face hub once, at a pinned revision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlpost.errors import DataError
from rlpost.evaluation.benchmark import Benchmark
from rlpost.evaluation.generations import write_text


def fetch(benchmark: Benchmark, data_dir: Path) -> Path:
    """Write the benchmark's local file, with the rows of its published data set.

    Returns:
        The file.

    Raises:
        DataError: the benchmark is published nowhere, the data set cannot be read, or it does not hold the
            number of problems that it should.
    """
    path = data_dir / benchmark.path
    raw = _read(benchmark, path)
    try:
        rows = [row for row in map(benchmark.convert, raw) if row is not None]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the rows of {benchmark.name} are not what they should be",
            where=_place(benchmark),
            found=f"{type(error).__name__}: {error}; columns {', '.join(raw[0])}",
            remedy=f"write {path} by hand",
        ) from error
    if benchmark.problems is not None and len(rows) != benchmark.problems:
        raise DataError(
            f"{benchmark.name} does not hold the number of problems that it should",
            where=_place(benchmark),
            found=len(rows),
            needed=benchmark.problems,
            remedy="the data set has changed; write the file by hand and check it",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def _read(benchmark: Benchmark, path: Path) -> list[dict[str, Any]]:
    hub = benchmark.hub
    if hub is None:
        raise DataError(f"no problems for {benchmark.name}", where=path, needed="that file")
    import datasets

    try:
        rows = datasets.load_dataset(hub.id, hub.subset, split=hub.split, revision=hub.revision)
        return [dict(row) for row in rows]
    except Exception as error:  # the library raises many unrelated types, and each ends the same way
        raise DataError(
            f"the problems of {benchmark.name} cannot be fetched",
            where=_place(benchmark),
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            needed=f"access to the Hugging Face hub (a gated data set needs its terms accepted and a token), "
            f"or the file {path}",
            remedy=f"pass the folder that holds {benchmark.path} as --data-dir",
        ) from error


def _place(benchmark: Benchmark) -> str:
    hub = benchmark.hub
    assert hub is not None
    subset = f" ({hub.subset})" if hub.subset else ""
    return f"{hub.id}{subset} [{hub.split}] at {hub.revision}"
