"""Benchmarks of one's own: a short YAML file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from rlpost.config.schema import Section
from rlpost.config.yaml_text import read_document
from rlpost.data.problems import describe, did_you_mean
from rlpost.errors import ConfigError
from rlpost.evaluation.benchmark import Benchmark, HubDataset, Published, Template


class DatasetSection(Section):
    """The published data set; its rows must have the columns that the benchmark names."""

    id: str
    """A Hugging Face dataset id."""
    revision: str
    """The commit to read: a branch may change under a result."""
    split: str = "test"
    """The split of it."""
    subset: str | None = None
    """The subset (configuration) of it."""
    licence: str = ""
    """For the reader."""


class PublishedSection(Section):
    """A score that somebody else reported."""

    model: str
    """Whose score it is."""
    score: float = Field(ge=0, le=100)
    """Percent of problems."""
    settings: str
    """How it was sampled."""
    source: str
    """Who reported it, and where."""


class BenchmarkSection(Section):
    """A benchmark's YAML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """The name in tables, and of the folder with its results."""
    file: str
    """The problems, .jsonl or .parquet; a relative path starts at the YAML file's folder."""
    dataset: DatasetSection | None = None
    """Where to get the file when it is not there."""
    prompt_column: str = "prompt"
    """The problem."""
    answer_column: str | None = "answer"
    """The gold answer; null when the verifier needs none."""
    id_column: str | None = None
    """A stable id of the problem; without one, a hash of its content."""
    instruction: str | None = None
    """Appended to each problem, after a blank line."""
    template: Template = "auto"
    """`chat` applies the model's chat template, `none` takes the text as it is; `auto` is `chat` where there
    is a template."""
    reward: str
    """The verifier: a shipped one such as math_answer, or a .py file beside the YAML file."""
    options: dict[str, Any] = {}
    """Extra arguments of the verifier."""
    problems: int | None = Field(default=None, ge=1)
    """How many there are: another number in the file is pointed out."""
    published: list[PublishedSection] = []
    """Scores of others."""
    source: str = ""
    """What the problems are, and where they come from."""


def load_benchmark(path: Path | str) -> Benchmark:
    """Read a benchmark's YAML file.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown or missing, or a value does not fit;
            all of these are listed.
    """
    path = Path(path)
    data = read_document(path).data
    if not isinstance(data, dict):
        raise ConfigError(
            "the benchmark is not a mapping",
            where=path,
            found=describe(data),
            needed="name, file, reward",
        )
    try:
        section = BenchmarkSection.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            "the benchmark's file is not right",
            where=path,
            found="; ".join(_problem(detail["loc"], detail["msg"]) for detail in error.errors()),
        ) from None
    folder = path.absolute().parent
    return Benchmark(
        name=section.name,
        path=str(folder / section.file),
        prompt_column=section.prompt_column,
        answer_column=section.answer_column,
        reward=_reward(section.reward, folder),
        options=section.options,
        instruction=section.instruction,
        template=section.template,
        id_column=section.id_column,
        problems=section.problems,
        hub=HubDataset(**section.dataset.model_dump()) if section.dataset is not None else None,
        published=tuple(Published(**score.model_dump()) for score in section.published),
        source=section.source,
    )


def _reward(function: str, folder: Path) -> str:
    place, colon, name = function.partition(".py")
    beside = folder / (place + colon)
    return f"{beside}{name}" if colon and beside.is_file() else function


def _problem(keys: tuple[int | str, ...], message: str) -> str:
    key = ".".join(map(str, keys))
    guess = did_you_mean(str(keys[-1]), BenchmarkSection.model_fields) if "Extra" in message else ""
    words = {"Extra inputs are not permitted": "unknown key", "Field required": "missing"}
    return f"{key}: {words.get(message, message)}{guess}"
