"""Experts' dialogues of the built-in tasks, as chat JSONL with tools.

    python -m rlpost.environments.experts lookup --rows 500 --seed 1 --output experts.jsonl hops=3

Each line is an object with `id`, `source` (the task), `messages` (from the question to the answer) and
`tools`: what supervised fine-tuning on dialogues and `rlpost pivots` read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from rlpost.config.schema import EnvironmentConfig
from rlpost.data.tasks import build_task
from rlpost.environments.loading import SHIPPED, load_environment
from rlpost.errors import RlpostError, UserError


def expert_dialogues(task: str, rows: int, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    """Dialogues of the train split of a task that has an environment of the same name.

    Args:
        options: the task's own, such as `hops`; with `mistakes` the experts err.

    Raises:
        UserError: the task has no environment.
        ConfigError: its options are wrong.
    """
    if task not in SHIPPED:
        raise UserError(f"there are no dialogues for {task!r}", needed=f"one of {', '.join(SHIPPED)}")
    tools = list(load_environment(EnvironmentConfig(name=task)).tools)
    built = build_task(task, {**options, "size": rows})
    return [
        {
            "id": f"{task}-{seed}-{number:06d}",
            "source": task,
            "messages": [{"role": "user", "content": row["prompt"]}, *row["demonstration"]],
            "tools": tools,
        }
        for number, row in enumerate(built.rows("train", seed))
    ]


def main(
    task: Annotated[str, typer.Argument(help="calculator, guess or lookup")],
    options: Annotated[list[str] | None, typer.Argument(help="the task's options, as NAME=VALUE")] = None,
    *,
    output: Annotated[Path, typer.Option(help="the file to write")],
    rows: Annotated[int, typer.Option(help="how many dialogues", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="decides which")] = 0,
) -> None:
    """Write experts' dialogues of a built-in task as chat JSONL with tools."""
    pairs = [option.partition("=") for option in options or []]
    try:
        dialogues = expert_dialogues(
            task, rows, seed, **{name: yaml.safe_load(value) for name, _, value in pairs}
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("".join(json.dumps(dialogue) + "\n" for dialogue in dialogues))
    except RlpostError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        typer.echo(f"error: the file cannot be written: {error}", err=True)
        sys.exit(1)
    turns = sum(message["role"] == "assistant" for d in dialogues for message in d["messages"])
    typer.echo(f"{output}: {len(dialogues)} dialogues with {turns} turns of the assistant")


if __name__ == "__main__":
    typer.run(main)
