"""The command that makes problems solvable which the policy never solves: guide."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rlpost.cli.app import app, interruptible
from rlpost.cli.training import Config, Overrides


@app.command()
def guide(
    config: Config,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The directory; what an interrupted call left there is continued. Without it "
            "`guidance-NAME` under `output` of the recipe."
        ),
    ] = None,
) -> None:
    """Find problems that the policy never solves, and put as much of a solution into their prompts as helps.

    \b
    rlpost guide configs/qwen3_4b_pope.yaml
    rlpost guide my.yaml guidance.data.path=problems.jsonl guidance.samples=32 model.init=MODEL

    Each problem is written twice, with and without guidance, as prompts for `rlpost train`; the last lines
    say how a recipe reads them.
    """
    from rlpost.config import load_config

    resolved = load_config(config, overrides or ())
    arguments = [str(config), *(overrides or ()), *(["--output", str(output)] if output else [])]
    with interruptible(f"go on with: {shlex.join(['rlpost', 'guide', *arguments])}"):
        from rlpost.guidance import make_guidance

        make_guidance(resolved, output)
