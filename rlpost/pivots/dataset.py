"""Turns as a dataset: what `load_prompts` reads as prompts, with the expert's action and the provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlpost.config.dependent import prompts_of_file
from rlpost.config.schema import DataConfig
from rlpost.errors import UserError
from rlpost.evaluation.generations import write_text
from rlpost.pivots.cut import Candidate
from rlpost.pivots.selection import Tried

COLUMNS: dict[str, Any] = {
    "prompt_column": "messages",
    "tools_column": "tools",
    "answer_column": None,
    "id_column": "id",
}
"""The keys of `data` under which these files are read."""


def data_of(stage: DataConfig, path: Path) -> DataConfig:
    """How a stage's prompts are read from such a file: its template and limits, our columns."""
    return prompts_of_file(stage, str(path), COLUMNS)


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> None:
    """All turns that are to be tried.

    Raises:
        UserError: the file is there and holds others.
    """
    text = "".join(_line(_row(candidate)) for candidate in candidates)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            "the output directory holds other turns",
            where=path,
            found="the trajectories, or how they are cut, have changed since",
            remedy="choose another output directory, or remove this one",
        )
    write_text(path, text)


def write_turns(path: Path, turns: Iterable[Tried], provenance: Mapping[str, Any]) -> None:
    """Turns to train on, each with what the policy made of it.

    Args:
        provenance: what they all have in common: policy, verifier, seed, threshold.
    """
    write_text(path, "".join(_line(_row(t.candidate) | {"profile": _profile(t, provenance)}) for t in turns))


def _row(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "messages": candidate.messages,
        "tools": candidate.tools,
        "expected_action": candidate.expected_action,
        "trajectory": candidate.trajectory,
        "source": candidate.source,
        "depth": candidate.depth,
    }


def _profile(tried: Tried, provenance: Mapping[str, Any]) -> dict[str, Any]:
    profile = tried.profile
    return {
        "samples": len(profile.rewards),
        "passes": sum(score >= 1.0 for score in profile.scores),
        "mean": profile.mean,
        "variance": profile.variance,
        **provenance,
    }


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
