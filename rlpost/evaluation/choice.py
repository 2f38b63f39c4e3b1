"""Which benchmarks an evaluation runs, and whether their problems are all there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.errors import UserError
from rlpost.evaluation.benchmark import Benchmark
from rlpost.evaluation.benchmark_file import load_benchmark
from rlpost.evaluation.fetch import fetch
from rlpost.evaluation.library import find_benchmark
from rlpost.evaluation.results import EvaluationResult

if TYPE_CHECKING:
    from rich.console import Console


def choose(
    names: Sequence[str],
    data: Path | str | None,
    prompt_column: str | None,
    answer_column: str | None,
    id_column: str | None,
    reward: str | None,
) -> list[Benchmark]:
    """The named benchmarks, and the user's own file as one more.

    Raises:
        UserError: a name is unknown or taken twice, or the options contradict each other.
    """
    chosen = [
        load_benchmark(name) if name.endswith((".yaml", ".yml")) else find_benchmark(name)
        for name in dict.fromkeys(names)
    ]
    if data is None and (prompt_column or answer_column or id_column or reward):
        raise UserError(
            "--prompt-column, --answer-column, --id-column and --reward describe a file of your own",
            needed="--data FILE beside them",
            remedy="benchmarks bring their own columns and verifier",
        )
    if data is not None:
        if reward is None:
            raise UserError(
                "nothing says how to score the file", where=f"--data {data}", needed="--reward FUNCTION"
            )
        chosen.append(
            Benchmark(
                name=Path(data).stem,
                path=str(Path(data).absolute()),
                prompt_column=prompt_column or "prompt",
                answer_column=answer_column or "answer",
                id_column=id_column,
                reward=reward,
            )
        )
    if not chosen:
        raise UserError(
            "nothing to evaluate on", needed="--benchmarks NAME,NAME or --data FILE with --reward"
        )
    names_chosen = [benchmark.name for benchmark in chosen]
    twice = sorted({name for name in names_chosen if names_chosen.count(name) > 1})
    if twice:
        raise UserError("two benchmarks have the same name", found=twice[0], remedy="rename one of them")
    return chosen


def data_folder(benchmarks: Sequence[Benchmark], data_dir: Path | str | None, console: Console) -> Path:
    """Where the benchmarks' files are; every one of them is there, fetched if need be.

    Raises:
        DataError: a file is missing, and cannot be fetched or is not to be.
    """
    folder = Path(data_dir) if data_dir is not None else Path("data")
    for benchmark in benchmarks:
        if data_dir is None and benchmark.hub is not None and not (folder / benchmark.path).is_file():
            console.print(f"{benchmark.name}: fetching {benchmark.hub.id} at {benchmark.hub.revision}")
            console.print(f"{benchmark.name}: wrote {fetch(benchmark, folder)}")
        benchmark.data_config(folder, limit=None)
    return folder


def point_out_problems(
    benchmark: Benchmark, result: EvaluationResult, limit: int | None, console: Console
) -> None:
    """Say so when a result is not of all problems, or not of what the model would have answered."""
    if result.too_long:
        console.print(
            f"{benchmark.name}: {result.too_long:,} of {result.problems:,} problems have prompts that do not "
            "fit the model's positions beside --max-response-tokens: not asked, counted as wrong"
        )
    if result.unanswered:
        console.print(
            f"{benchmark.name}: {result.unanswered:,} samples could not be had, and count as wrong; the same "
            "command asks for them again"
        )
    expected = benchmark.problems
    if expected is not None and result.problems != expected:
        why = f"--limit {limit}" if limit is not None and limit < expected else "the file holds that many"
        console.print(
            f"{benchmark.name}: {result.problems:,} problems instead of {expected:,} ({why}); "
            "published scores are of all of them"
        )
