"""Where rows come from: a local file, a Hugging Face dataset or a built-in task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rlpost.config.schema import DataConfig
from rlpost.data.problems import BadRows, Place, RowError, describe, did_you_mean
from rlpost.data.tasks import build_task
from rlpost.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read.

    Attributes:
        place: where it stands in its source, for messages.
        values: its columns.
    """

    place: Place
    values: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """All rows that were read, and those that could not be.

    Attributes:
        name: what messages call it: the file, "dataset owner/name", "task addition".
        rows: in the order of the source.
        bad: rows that are not JSON objects; later checks add theirs.
        total: rows looked at, those included.
    """

    name: str
    rows: tuple[Row, ...]
    bad: BadRows
    total: int


def read_source(config: DataConfig, seed: int) -> Source:
    """Read the first `config.limit` rows (all without one) of whichever source is configured.

    Raises:
        ConfigError: not exactly one of path, dataset and task is set, or the task or its options are unknown.
        DataError: the source cannot be read, or holds no row.
    """
    given = [name for name in ("path", "dataset", "task") if getattr(config, name) is not None]
    if len(given) != 1:
        raise ConfigError(
            "the data needs exactly one source",
            where="data",
            found=" and ".join(f"data.{name}" for name in given) or "none",
            needed="one of data.path, data.dataset, data.task",
        )
    name, rows = {"path": _from_file, "dataset": _from_hub, "task": _from_task}[given[0]](config, seed)
    good, bad = [], BadRows(name)
    for place, content in islice(rows, config.limit):
        try:
            good.append(Row(place, _parsed(content)))
        except RowError as problem:
            bad.add(place, problem)
    if not good and not len(bad):
        raise DataError("the dataset is empty", where=name, found="0 rows", needed="at least one row")
    return Source(name, tuple(good), bad, len(good) + len(bad))


def _from_file(config: DataConfig, seed: int) -> tuple[str, Iterable[tuple[Place, object]]]:
    name = str(config.path)
    readers = {".jsonl": _jsonl_lines, ".parquet": _parquet_rows}
    try:
        path = Path(name).expanduser()
        if not path.is_file():
            raise _missing_file(name, path)
    except (OSError, RuntimeError) as error:  # no permission, name too long, no such user
        raise DataError(
            "the data file cannot be reached", where=f"data.path = {name}", found=error
        ) from error
    if path.suffix not in readers:
        raise DataError(
            "this kind of file cannot be read",
            where=name,
            found=f"suffix {path.suffix!r}",
            needed=" or ".join(readers),
            remedy="write one JSON object per line into a .jsonl file",
        )
    return name, readers[path.suffix](name, path)


def _missing_file(name: str, path: Path) -> DataError:
    if path.is_dir():
        return DataError("the data path is a folder", where=name, needed="a .jsonl or .parquet file in it")
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return DataError(
        f"the data file does not exist{did_you_mean(path.name, siblings)}",
        where=f"data.path = {name}",
        found=f"nothing at {path.absolute()}",
        needed="a .jsonl or .parquet file; relative paths start at the current directory",
    )


def _jsonl_lines(name: str, path: Path) -> Iterator[tuple[Place, object]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield Place(number, "line"), line.rstrip()
    except OSError as error:
        raise DataError("the data file cannot be read", where=name, found=error) from error


def _parquet_rows(name: str, path: Path) -> Iterator[tuple[Place, object]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Place(number), values
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            "the parquet file cannot be read", where=name, found=str(error).splitlines()[0]
        ) from error


def _from_hub(config: DataConfig, seed: int) -> tuple[str, Iterable[tuple[Place, object]]]:
    import datasets

    name = (
        f"dataset {config.dataset}" + (f" ({config.subset})" if config.subset else "") + f" [{config.split}]"
    )
    try:
        dataset = datasets.load_dataset(
            config.dataset, config.subset, split=config.split, revision=config.revision
        )
    except Exception as error:  # the library raises many unrelated types, and each ends the same way
        raise DataError(
            "the dataset cannot be loaded",
            where=name,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            needed="a dataset id, subset and split that the Hugging Face hub (or its cache) serves here",
            remedy="check the three names and the network, or use a local file: data.path=FILE.jsonl",
        ) from error
    return name, ((Place(number), values) for number, values in enumerate(dataset, 1))


def _from_task(config: DataConfig, seed: int) -> tuple[str, Iterable[tuple[Place, object]]]:
    task = build_task(str(config.task), config.task_options)
    rows = task.rows(config.split, seed)
    name = f"task {config.task} [{config.split}]"
    return name, ((Place(number), values) for number, values in enumerate(rows, 1))


def _parsed(content: object) -> dict[str, Any]:
    """The row as an object; a line of a JSONL file arrives as bytes."""
    if isinstance(content, bytes):
        try:
            content = json.loads(content.decode("utf-8"))
        except json.JSONDecodeError as error:
            raise RowError("not_json", f"malformed JSON at column {error.colno}: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise RowError("not_json", f"malformed JSON: {error}") from error
    if not isinstance(content, dict):
        raise RowError("not_json", f"expected a JSON object, found {describe(content)}")
    return content
