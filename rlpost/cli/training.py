"""Commands about recipes and runs: train, explain, algorithms, compare, replay, report, doctor."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from rlpost.cli.app import app, interruptible
from rlpost.cli.text import algorithm_table

Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML recipe, such as configs/quickstart.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys to change, by dotted path: train.steps=20, stages.rl.train.learning_rate=1e-4, "
        "rewards=my_reward.py. Values are read as YAML.",
        show_default=False,
    ),
]
RunDir = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/quickstart-...")
]


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The run directory. Without it, a new one under `output` of the recipe, by name and time."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --output, or with the newest run of this name, exactly where it was.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved recipe and its plan; load and write nothing."),
    ] = False,
) -> None:
    """Train a model: every stage of a recipe, with evaluations before and after.

    \b
    rlpost train configs/quickstart.yaml
    rlpost train configs/gsm8k.yaml data.path=mine.jsonl rewards=my_reward.py train.steps=50
    rlpost train configs/quickstart.yaml --resume
    """
    from rlpost.config import dump_config, explain, load_config

    resolved = load_config(config, overrides or ())
    if dry_run:
        typer.echo(dump_config(resolved))
        typer.echo("\n".join(f"# {line}".rstrip() for line in explain(resolved).splitlines()))
        return
    from rlpost.training.run_directory import choose_directory
    from rlpost.training.status import RUN_ID

    run = choose_directory(resolved.output, resolved.name, output, resume, os.environ.get(RUN_ID)).path
    arguments = [str(config), *(overrides or ()), "--output", str(run), "--resume"]
    advice = f"resume with: {shlex.join(['rlpost', 'train', *arguments])}"
    stop = f"`{shlex.join(['rlpost', 'stop', str(run)])}` would have saved a checkpoint first"
    with interruptible(advice, on_interrupt=f"{advice}; {stop}", notices=True):
        from rlpost.training import train

        train(resolved, run, resume)


@app.command()
def explain(config: Config, overrides: Overrides = None) -> None:
    """Say in words what a recipe does: sizes with their arithmetic, the objective, the schedule."""
    from rlpost.config import explain, load_config

    typer.echo(explain(load_config(config, overrides or ())))


@app.command()
def algorithms(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One row, with parts, formulas and source.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The table of algorithms, or one row of it."""
    typer.echo(algorithm_table(name, as_json))


@app.command()
def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|KEY=VALUE",
            help="Recipes, and keys to change in all of them. Without --arms every recipe is one arm, "
            "with it one task.",
            show_default=False,
        ),
    ],
    arms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML, arm name to `algorithm`: every task is trained with every arm."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm; intervals are over them.")] = 3,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings at the same time; the number of cores without it.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The directory; a comparison there is continued. Without it a new one under runs/."
        ),
    ] = None,
    deadline_s: Annotated[
        float, typer.Option(min=1.0, help="Seconds that one training may take; past them it is killed.")
    ] = 3600.0,
    different_budgets: Annotated[
        bool, typer.Option("--different-budgets", help="Compare arms of unequal budget all the same.")
    ] = False,
) -> None:
    """Train several arms with the same budget over several seeds, and write one report.

    \b
    rlpost compare grpo.yaml rloo.yaml --seeds 5
    rlpost compare configs/quickstart.yaml --arms configs/lab/arms.yaml stages.rl.train.steps=100
    """
    from rlpost.comparison import compare

    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    recipes = [Path(text) for text in arguments if text not in overrides]
    with interruptible("the same command goes on where this one stopped, with --output as printed above"):
        compare(
            recipes,
            overrides,
            arms_file=arms,
            seeds=seeds,
            jobs=jobs,
            output=output,
            deadline_s=deadline_s,
            different_budgets=different_budgets,
        )


@app.command()
def replay(
    run_dir: RunDir,
    step: Annotated[int, typer.Option(min=1, help="The step whose saved rollouts are learned from again.")],
) -> None:
    """Run the learner on a step's saved rollouts, with no engine: the same loss, for finding out why."""
    from rlpost.training import replay

    typer.echo(json.dumps(replay(run_dir, step), indent=2))


@app.command()
def report(run_dir: RunDir) -> None:
    """Write one self-contained HTML page about a run."""
    from rlpost.monitor import write_report

    typer.echo(write_report(run_dir))


@app.command()
def doctor(
    output: Annotated[Path, typer.Option(help="The directory that runs would be written to.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare packages and machine with what rlpost is tested with; status 1 where it cannot work."""
    from rlpost import doctor

    checks = doctor.examine(output)
    typer.echo(doctor.as_json(checks) if as_json else doctor.as_text(checks))
    if doctor.fails(checks):
        raise typer.Exit(1)
