"""Grade stored generations again: no model, no GPU, no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.data.trajectory import RewardResult
from rlpost.errors import DataError
from rlpost.evaluation.generations import GENERATIONS, Generation, read_generations, write_text
from rlpost.evaluation.manifest import MANIFEST, grading_manifest
from rlpost.evaluation.results import RESULTS, EvaluationResult, summarise, write_results


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """One sample that the verifier now judges differently."""

    prompt_id: str
    sample: int
    before: RewardResult
    after: RewardResult


@dataclass(frozen=True)
class RegradedEvaluation:
    """One evaluation, graded again.

    Attributes:
        directory: where it lies; its files now hold the new verdicts.
        samples: how many were graded.
        changes: the samples whose score or outcome changed.
        result: the new result.
        accuracy_before: avg@n as it was.
    """

    directory: Path
    samples: int
    changes: tuple[VerdictChange, ...]
    result: EvaluationResult
    accuracy_before: float


@dataclass(frozen=True)
class RegradeReport:
    """All evaluations under the given directory, graded again."""

    evaluations: tuple[RegradedEvaluation, ...]

    @property
    def changes(self) -> tuple[VerdictChange, ...]:
        return tuple(change for evaluation in self.evaluations for change in evaluation.changes)


def regrade(results_dir: Path | str, *, workers: int = 2) -> RegradeReport:
    """Grade every finished evaluation in `results_dir`, or directly below it, again.

    Files are rewritten; when the verifier judges as before they keep their bytes.

    Raises:
        DataError: nothing finished is there, or a file is damaged.
        RewardError: a reward function of the manifest cannot be loaded.
    """
    root = Path(results_dir)
    directories = [d for d in (root, *sorted(root.glob("*"))) if (d / RESULTS).is_file()]
    if not directories:
        raise DataError(
            "no finished evaluation",
            where=root,
            needed=f"a directory with {RESULTS} and {GENERATIONS}, or one that holds such directories",
            remedy="run `rlpost eval` with this directory as --output; it goes on where it stopped",
        )
    return RegradeReport(tuple(_regrade_one(directory, workers) for directory in directories))


def _regrade_one(directory: Path, workers: int) -> RegradedEvaluation:
    from rlpost.scoring import ScoreItem, Scorer

    record = _read_results(directory / RESULTS)
    manifest, n = record["manifest"], record["samples_per_problem"]
    grading = manifest["grading"]
    rewards = [RewardConfig(**reward) for reward in grading["rewards"]]
    scoring = ScoringConfig(workers=workers, deadline_s=grading["deadline_s"])
    old = read_generations(directory / GENERATIONS)
    if len(old) != record["problems"] * n:
        raise DataError(
            "generations are missing",
            where=directory / GENERATIONS,
            found=f"{len(old)} samples",
            needed=f"{record['problems'] * n}",
        )
    with Scorer(rewards, scoring) as scorer:
        results = scorer.score_items([ScoreItem(g.prompt, g.text, g.columns) for g in old])
    new = [replace(g, reward=result) for g, result in zip(old, results, strict=True)]
    renewed = {**manifest, "grading": grading_manifest(rewards, scoring)}
    settings = manifest["settings"]
    result, table = summarise(new, n, settings["seed"], settings["max_failure_share"], directory)
    write_text(directory / GENERATIONS, "".join(generation.line() for generation in new))
    write_results(result, table, renewed)
    write_text(directory / MANIFEST, json.dumps(renewed, indent=2) + "\n")
    before = record["metrics"][f"avg@{n}"]["value"]
    return RegradedEvaluation(directory, len(new), _changes(old, new), result, before)


def _changes(old: Sequence[Generation], new: Sequence[Generation]) -> tuple[VerdictChange, ...]:
    return tuple(
        VerdictChange(a.prompt_id, a.sample, a.reward, b.reward)
        for a, b in zip(old, new, strict=True)
        if (a.reward.score, a.reward.outcome) != (b.reward.score, b.reward.outcome)
    )


def _read_results(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        manifest = record["manifest"]
        for section, key in (
            ("grading", "rewards"),
            ("grading", "deadline_s"),
            ("settings", "seed"),
            ("settings", "max_failure_share"),
        ):
            manifest[section][key]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the results do not say how they were graded",
            where=path,
            found=f"{type(error).__name__}: {error}",
            needed="manifest.grading and manifest.settings, as `rlpost eval` writes them",
        ) from error
    return record
