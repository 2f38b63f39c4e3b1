"""Commands about reward functions: score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlpost.cli.app import app
from rlpost.errors import UserError

if TYPE_CHECKING:
    from rlpost.config.schema import RewardConfig


@app.command()
def score(
    reward: Annotated[
        str,
        typer.Argument(
            metavar="REWARD",
            help="A file, file.py:function, or a shipped one: gsm8k; several with commas; or a recipe, whose "
            "rewards and weights are taken.",
        ),
    ],
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="JSONL or Parquet: rows with a `completion` and the columns the reward reads.",
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Write each row with its score here, as JSONL.")] = None,
    completion: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column of the responses.")
    ] = "completion",
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column of the scores that rows expect. Without it, `expected` where there is one.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Status 1 when a row has no score, or another one than expected."),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first rows.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An extra argument of the reward function.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows that one process scores at a time; see `batch_size`.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that score at the same time.")] = 2,
    deadline: Annotated[float, typer.Option(min=0.01, help="Seconds that one row may take.")] = 5.0,
) -> None:
    """Try reward functions on saved completions, in the same worker processes that training uses.

    \b
    rlpost score gsm8k completions.jsonl
    rlpost score my_reward.py completions.jsonl --expected label --strict
    rlpost score gsm8k,my_reward.py:brevity completions.parquet --output scored.jsonl
    """
    from rich.console import Console

    from rlpost.config.schema import ScoringConfig
    from rlpost.scoring import render, score_file

    report = score_file(
        _rewards(reward, option or [], batch_size),
        input,
        output,
        ScoringConfig(workers=workers, deadline_s=deadline),
        completion=completion,
        expected=expected,
        limit=limit,
    )
    render(report, Console())
    if strict and (report.failed or report.disagreements):
        raise typer.Exit(1)


def _rewards(reference: str, pairs: list[str], batch_size: int | None) -> list[RewardConfig]:
    """The reward functions that the command line names."""
    from rlpost.config import load_config
    from rlpost.config.schema import RewardConfig

    changes: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    if reference.endswith((".yaml", ".yml")):
        if pairs:
            raise UserError("a recipe has its own options", where=f"--option {pairs[0]}")
        stages = [stage for stage in load_config(Path(reference)).stages if stage.rewards]
        if not stages:
            raise UserError("the recipe has no rewards", where=reference)
        return [r.model_copy(update=changes) for r in stages[0].rewards]
    names = [name.strip() for name in reference.split(",") if name.strip()]
    if pairs and len(names) > 1:
        raise UserError(
            "it is unclear whose option this is",
            where=f"--option {pairs[0]}",
            found=f"{len(names)} reward functions",
            remedy="write a recipe with `rewards`, and name it in their place",
        )
    return [RewardConfig(function=name, options=_options(pairs), **changes) for name in names]


def _options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as keyword arguments; values are read as YAML."""
    from rlpost.config.yaml_text import parse_value

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError("an option is not of the form NAME=VALUE", where=f"--option {pair}")
        options[name] = parse_value(value)
    return options
