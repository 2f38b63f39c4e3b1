"""Two stored results on the same problems, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.evaluation.generations import Generation, write_text
from rlpost.evaluation.manifest import differences
from rlpost.evaluation.paired import PairedTest, paired_test
from rlpost.evaluation.results import finished_evaluations, read_results, stored_groups

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """One benchmark's result beside another one.

    Attributes:
        directory: the first result; its comparison.json holds what is here.
        against: the second result.
        accuracy: avg@n of the first.
        accuracy_against: avg@n of the second.
        test: the paired test.
        problems: of each problem its id and the share of correct samples in either result.
        unlike: what else the two do not have in common, such as the sampling temperature.
    """

    directory: Path
    against: Path
    accuracy: float
    accuracy_against: float
    test: PairedTest
    problems: tuple[Mapping[str, Any], ...]
    unlike: tuple[str, ...]


def compare_results(results_dir: Path | str, against: Path | str) -> list[Comparison]:
    """Compare the benchmarks that two results directories have in common; write a comparison.json for each.

    Raises:
        DataError: one of them holds no finished evaluation, or a damaged one.
        UserError: they have no benchmark in common, or one that was asked with other problems or graded
            by another verifier.
    """
    ours, theirs = finished_evaluations(Path(results_dir)), finished_evaluations(Path(against))
    others = {directory.relative_to(against): directory for directory in theirs}
    names = {directory: directory.relative_to(results_dir) for directory in ours}
    pairs = [(directory, others[name]) for directory, name in names.items() if name in others]
    if len(ours) == len(theirs) == 1:
        pairs = [(ours[0], theirs[0])]
    if not pairs:
        raise UserError(
            "the two results have no benchmark in common",
            where=f"{results_dir} and {against}",
            found=f"{', '.join(map(str, names.values()))}; {', '.join(map(str, others))}",
        )
    comparisons = [compare_pair(directory, other) for directory, other in pairs]
    for comparison in comparisons:
        record = asdict(comparison) | {
            "directory": str(comparison.directory),
            "against": str(comparison.against),
        }
        write_text(comparison.directory / COMPARISON, json.dumps(record, indent=2) + "\n")
    return comparisons


def compare_pair(directory: Path, against: Path) -> Comparison:
    """Compare two finished evaluations of the same problems; write nothing.

    Raises:
        DataError: one of them is damaged.
        UserError: they are of other problems, or graded by another verifier.
    """
    ours, theirs = read_results(directory), read_results(against)
    a = {group[0].prompt_id: group for group in stored_groups(directory, ours)}
    b = {group[0].prompt_id: group for group in stored_groups(against, theirs)}
    _check_problems(directory, a, against, b)
    _check_grading(directory, ours, against, theirs)
    correct_a, correct_b = ([_correct(groups[id]) for id in a] for groups in (a, b))
    n_a, n_b = ours["samples_per_problem"], theirs["samples_per_problem"]
    test = paired_test(correct_a, n_a, correct_b, n_b, seed=ours["manifest"]["settings"]["seed"])
    return Comparison(
        directory=directory,
        against=against,
        accuracy=sum(correct_a) / (n_a * len(a)),
        accuracy_against=sum(correct_b) / (n_b * len(b)),
        test=test,
        problems=tuple(
            {"prompt_id": id, "correct": x / n_a, "correct_against": y / n_b}
            for id, x, y in zip(a, correct_a, correct_b, strict=True)
        ),
        unlike=tuple(sorted(differences(theirs["manifest"], ours["manifest"]))),
    )


def _correct(group: Sequence[Generation]) -> int:
    return sum(generation.correct for generation in group)


def _check_problems(
    directory: Path,
    a: Mapping[str, Sequence[Generation]],
    against: Path,
    b: Mapping[str, Sequence[Generation]],
) -> None:
    only_a, only_b = [id for id in a if id not in b], [id for id in b if id not in a]
    if only_a or only_b:
        raise UserError(
            "the two results are not of the same problems",
            where=f"{directory} and {against}",
            found=f"{len(only_a)} problems in the first alone, {len(only_b)} in the second alone, "
            f"such as {(only_a + only_b)[0]}",
            needed="a paired comparison asks both models the same problems",
            remedy="evaluate both with the same file and --limit",
        )
    other = [id for id in a if a[id][0].columns.get("answer") != b[id][0].columns.get("answer")]
    if other:
        raise UserError(
            f"{len(other)} problems have another gold answer in the other result",
            where=f"{directory} and {against}",
            found=f"{other[0]}: {a[other[0]][0].columns.get('answer')!r} "
            f"and {b[other[0]][0].columns.get('answer')!r}",
        )


def _check_grading(
    directory: Path, ours: Mapping[str, Any], against: Path, theirs: Mapping[str, Any]
) -> None:
    unlike = sorted(differences(theirs["manifest"]["grading"], ours["manifest"]["grading"]))
    if unlike:
        raise UserError(
            "the two results were not graded by the same verifier",
            where=f"{directory} and {against}",
            found="; ".join(unlike[:3]),
            remedy=f"`rlpost regrade {directory} --against {against}` grades both again, then compares",
        )
