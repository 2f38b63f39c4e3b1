"""Commands about runs that are at work or over: runs, logs, stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlpost.cli.app import app
from rlpost.errors import INTERRUPTED

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="An id as `rlpost runs` shows it, the beginning of one, or a run directory.",
        show_default=False,
    ),
]


@app.command()
def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Folders of run directories; `runs` without one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs: state, stage, step, last accuracy, when and where they were started.

    \b
    submitted   handed to a launcher, not begun
    running     at work
    done        trained to the end
    failed      ended by an error, which is shown below the table
    stopped     told to stop, or interrupted; `--resume` goes on
    lost        it says running, and its driver is gone
    unfinished  from before runs kept a record
    """
    from rlpost.runs.finding import DEFAULT_FOLDERS, find_runs
    from rlpost.runs.listing import as_json as json_of
    from rlpost.runs.listing import as_text

    chosen = folders or [folder for folder in DEFAULT_FOLDERS if folder.is_dir()]
    found = find_runs(chosen)
    typer.echo(json_of(found) if as_json else as_text(found))


@app.command()
def logs(
    run: Run,
    role: Annotated[
        str, typer.Argument(metavar="[ROLE]", help="driver, learner-0, rollout-worker-1, ray, ...")
    ] = "driver",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is over, then say how it ended.")
    ] = False,
    lines: Annotated[int, typer.Option(min=0, help="Lines of what is there already.")] = 50,
) -> None:
    """Show what a run's driver printed, or one of its other processes."""
    from rlpost.runs.finding import find_run
    from rlpost.runs.logs import Follower, last_lines, log_file

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    found = find_run(run)
    if not follow:
        write(last_lines(log_file(found, role), lines)[0])
        return
    if found.state == "submitted":
        typer.echo(f"run {found.id} has not begun yet", err=True)
    try:
        ended = Follower(found, role, lines, write).until_end()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"run {ended.id} is {ended.state}", err=True)


@app.command()
def stop(
    run: Run,
    wait: Annotated[
        float, typer.Option(min=0, help="Longest wait for the run's end, in seconds; 0 does not wait.")
    ] = 600.0,
) -> None:
    """Have a run save a checkpoint of the last finished step and end; it can be resumed.

    \b
    rlpost stop runs/quickstart-20260102-030405-abcd
    rlpost stop quickstart-2026 --wait 60
    """
    from rlpost.runs.finding import find_run
    from rlpost.runs.stopping import stop_run

    stop_run(find_run(run), wait, typer.echo)
