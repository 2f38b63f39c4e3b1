"""Stored generations: one JSON line per sampled response, enough to grade it again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.data.trajectory import FinishReason, Outcome, Prompt, RewardResult
from rlpost.errors import DataError

GENERATIONS = "generations.jsonl"
CORRECT = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class Generation:
    """One response to one problem, with its verdict.

    Attributes:
        problem: position of the problem in the data, from 0.
        prompt_id: the prompt's stable id.
        sample: which of the problem's responses, from 0.
        seed: the seed that decided its tokens.
        prompt: the prompt's text, as the reward function receives it.
        token_ids: the sampled tokens.
        text: the response, as the reward function receives it.
        finish_reason: "eos", "stop" or "length" (truncated).
        reward: the verdict.
        columns: the dataset row, as the reward function receives it.
    """

    problem: int
    prompt_id: str
    sample: int
    seed: int
    prompt: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    reward: RewardResult
    columns: Mapping[str, Any]

    @property
    def correct(self) -> bool:
        """A score of 1 or more; a failure to score counts as not correct."""
        return self.reward.score is not None and self.reward.score >= CORRECT

    def line(self) -> str:
        """The JSON line, newline included."""
        reward = self.reward
        record = {
            "problem": self.problem,
            "prompt_id": self.prompt_id,
            "sample": self.sample,
            "seed": self.seed,
            "score": reward.score,
            "outcome": reward.outcome,
            "parts": {k: v if math.isfinite(v) else None for k, v in sorted(reward.parts.items())},
            "note": reward.note,
            "finish_reason": self.finish_reason,
            "prompt": self.prompt,
            "text": self.text,
            "columns": dict(self.columns),
            "token_ids": self.token_ids,
        }
        return json.dumps(record, allow_nan=False) + "\n"

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Generation:
        """The inverse of `line`, from the parsed JSON object."""
        outcome: Outcome = record["outcome"]
        parts = {k: math.nan if v is None else v for k, v in record["parts"].items()}
        return cls(
            problem=record["problem"],
            prompt_id=record["prompt_id"],
            sample=record["sample"],
            seed=record["seed"],
            prompt=record["prompt"],
            token_ids=tuple(record["token_ids"]),
            text=record["text"],
            finish_reason=record["finish_reason"],
            reward=RewardResult(record["score"], outcome, parts, record["note"]),
            columns=record["columns"],
        )


def check_columns(prompt_id: str, columns: Mapping[str, Any]) -> None:
    """Make sure that a row can be stored, before anything is sampled for it.

    Raises:
        DataError: a column holds something that JSON cannot, such as a date or NaN.
    """
    for name, value in columns.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                "a dataset row cannot be stored beside its generations",
                where=f"prompt {prompt_id}, column {name!r}",
                found=f"{type(value).__name__} ({error})",
                needed="text, finite numbers, booleans, lists and mappings of these",
                remedy="convert or remove that column",
            ) from error


def read_generations(path: Path) -> list[Generation]:
    """All complete lines of the file, in its order; a half-written last line is ignored.

    Raises:
        DataError: the file is missing, or a complete line is not a generation.
    """
    if not path.is_file():
        raise DataError("no stored generations", where=path, needed="a results directory of `rlpost eval`")
    return [generation for generation, _ in _complete_lines(path)]


def restore_generations(
    path: Path, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]
) -> list[Generation]:
    """The problems that an earlier call finished; the file is cut after the last of them.

    Args:
        prompts: the P problems, in order.
        seeds: for each, the seeds of its n samples.

    Returns:
        The generations of the first m problems, n each; [] without a file.

    Raises:
        DataError: the file holds other problems, samples or seeds than these.
    """
    if not path.is_file():
        return []
    n = len(seeds[0])
    kept: list[Generation] = []
    ends: list[int] = []
    for i, (generation, end) in enumerate(_complete_lines(path)):
        problem, sample = divmod(i, n)
        found = (generation.problem, generation.sample, generation.prompt_id, generation.seed)
        if problem >= len(prompts) or found != (problem, sample, prompts[problem].id, seeds[problem][sample]):
            raise DataError(
                "the stored generations are not those of this evaluation",
                where=f"{path}:{i + 1}",
                found=f"problem {found[0]}, sample {found[1]}, prompt id {found[2]}",
                remedy="choose another output directory, or remove this file",
            )
        kept.append(generation)
        ends.append(end)
    complete = len(kept) // n * n
    os.truncate(path, ends[complete - 1] if complete else 0)
    return kept[:complete]


def append_generations(path: Path, generations: Iterable[Generation]) -> None:
    """Add lines to the file and force them to disk."""
    lines = "".join(generation.line() for generation in generations)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Replace the file in one step: readers see the old text or the new, never half of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _complete_lines(path: Path) -> Iterator[tuple[Generation, int]]:
    """Each generation and the byte position after its line."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                generation = Generation.of(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    "a stored generation is damaged",
                    where=f"{path}:{number}",
                    found=f"{type(error).__name__}: {error}",
                    remedy="remove this file to generate again",
                ) from error
            yield generation, end
