"""What a benchmark is: where its problems lie, how they are asked, what grades them, what others scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlpost.config.schema import DataConfig, RewardConfig
from rlpost.errors import DataError

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
HASHES = "Please reason step by step, and write your final answer on the last line after ####."
LETTER = r"Please reason step by step, and put the letter of the one right option within \boxed{}."

ALL_LENGTHS = 2**31 - 1
"""A prompt of any number of tokens: what does not fit a model is that evaluation's to count."""

Template = Literal["auto", "chat", "none"]

Convert = Callable[[Mapping[str, Any]], dict[str, Any] | None]
"""One row of the published data set as a row of the local file; None leaves the row out."""


@dataclass(frozen=True, slots=True)
class HubDataset:
    """The published data set on the Hugging Face hub.

    Attributes:
        id: such as openai/gsm8k.
        revision: the commit that is read.
        split: the split of it.
        subset: the subset (configuration) of it.
        licence: as its card states it; what it does not state is said.
        checked: how the revision is known to be the right one.
    """

    id: str
    revision: str
    split: str
    subset: str | None = None
    licence: str = ""
    checked: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """A score that somebody else reported, to hold one's own beside.

    Attributes:
        model: whose score it is.
        score: percent of problems.
        settings: how it was sampled.
        source: who reported it, and where.
    """

    model: str
    score: float
    settings: str
    source: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of problems with its verifier.

    Attributes:
        name: the name on the command line, and of the folder with its results.
        path: the local file; a relative path lies under the data directory.
        prompt_column: the problem.
        answer_column: the gold answer; None when the reward needs none.
        reward: the verifier, as in a configuration's `rewards[].function`; it also finds the answer in
            the response.
        options: extra arguments of the verifier.
        instruction: appended to each problem, after a blank line.
        template: whether the model's chat template is applied; see `DataConfig.template`.
        id_column: a stable id of the problem; None takes a hash of its content.
        problems: how many there are; None when that is not fixed.
        hub: the published data set; None for a file of one's own.
        convert: makes the local file's rows from those of the published data set.
        published: scores of others.
        source: what the problems are, and where they come from.
        remark: what one should know before comparing a score with published ones.
    """

    name: str
    path: str
    prompt_column: str
    answer_column: str | None
    reward: str
    options: Mapping[str, Any] = field(default_factory=dict)
    instruction: str | None = None
    template: Template = "auto"
    id_column: str | None = None
    problems: int | None = None
    hub: HubDataset | None = None
    convert: Convert = dict
    published: tuple[Published, ...] = ()
    source: str = ""
    remark: str = ""

    def data_config(
        self, data_dir: Path, *, limit: int | None, template: Template | None = None
    ) -> DataConfig:
        """How to load the problems, in file order, whatever their length.

        Args:
            template: instead of the benchmark's own.

        Raises:
            DataError: the file is not there.
        """
        path = data_dir / self.path
        if not path.is_file():
            raise DataError(
                f"no problems for {self.name}",
                where=path,
                needed=f"a file with the columns {self.prompt_column!r} and {self.answer_column!r}",
                remedy=f"pass the folder that holds {self.path} as --data-dir. {self.source}".strip(),
            )
        return DataConfig(
            path=str(path),
            prompt_column=self.prompt_column,
            answer_column=self.answer_column,
            id_column=self.id_column,
            instruction=self.instruction,
            template=template or self.template,
            max_prompt_tokens=ALL_LENGTHS,
            limit=limit,
            shuffle=False,
        )

    def reward_config(self) -> RewardConfig:
        """The verifier, with weight 1."""
        return RewardConfig(function=self.reward, options=dict(self.options))

    def record(self) -> dict[str, Any]:
        """What a result says about the benchmark that it is of."""
        return {
            "name": self.name,
            "problems": self.problems,
            "dataset": asdict(self.hub) if self.hub is not None else None,
        }
