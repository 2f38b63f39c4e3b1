"""Commands about reward functions: score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlpost.cli.app import app
from rlpost.errors import UserError


@app.command()
def score(
    reward: Annotated[
        str, typer.Argument(metavar="REWARD", help="A file, file.py:function, or a shipped one: gsm8k.")
    ],
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT.jsonl", help="Rows with a `completion` and the columns the reward reads."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Write each row with its score here, as JSONL.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An extra argument of the reward function.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that score at the same time.")] = 2,
    deadline: Annotated[float, typer.Option(min=0.01, help="Seconds that one row may take.")] = 5.0,
) -> None:
    """Try a reward function on saved completions, in the same worker processes that training uses.

    \b
    rlpost score gsm8k completions.jsonl
    rlpost score my_reward.py completions.jsonl --output scored.jsonl
    """
    from rich.console import Console

    from rlpost.config.schema import RewardConfig, ScoringConfig
    from rlpost.scoring import render, score_file

    config = RewardConfig(function=reward, options=_options(option or []))
    report = score_file(config, input, output, ScoringConfig(workers=workers, deadline_s=deadline))
    render(report, Console())


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
