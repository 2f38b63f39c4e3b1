"""rlpost check: everything about a recipe that can be known before it costs time."""

from __future__ import annotations

from typing import Annotated

import typer

from rlpost.cli.app import app
from rlpost.cli.training import Config, Overrides


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Look at only the first rows of each data set.")
    ] = None,
    no_hub: Annotated[
        bool,
        typer.Option("--no-hub", help="Ask no hub: what is not on this machine is not tried."),
    ] = False,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Only what every start of a run looks at: no data, no rewards."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out what is wrong with a recipe before it costs time; status 1 on an error.

    Sizes, packages, addresses, disk and memory; tokenizer and chat template; every row of the data; the
    rewards on every gold answer. Needs no accelerator and loads no weights.

    \b
    rlpost check configs/quickstart.yaml
    rlpost check configs/gsm8k.yaml data.path=mine.jsonl rewards=my_reward.py
    """
    from rich.console import Console

    from rlpost.config import load_config
    from rlpost.doctor.recipe_tables import report_recipe

    recipe = load_config(config, overrides or ())
    if not report_recipe(recipe, limit, Console(), hub=not no_hub, fast=fast, as_json=as_json):
        raise typer.Exit(1)
