"""Commands that start runs elsewhere or later: rlpost launch local, ray, slurm, kubernetes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlpost.cli.app import app
from rlpost.cli.training import Config, Overrides

if TYPE_CHECKING:
    from rlpost.config.launching import Launcher
    from rlpost.launch import Job

launch = typer.Typer(
    name="launch",
    help="Start a run on a Ray cluster, with Slurm, on Kubernetes, or here in the background.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(launch)

Output = Annotated[
    Path | None,
    typer.Option(
        help="The run directory, as the machines of the run see it. Without it a new one under "
        "`launch.output`, or under `output`."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print everything that would be written and run, and do nothing.")
]

NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Start without looking first for what would stop the run.")
]


def prepared(launcher: Launcher, config: Path, overrides: list[str] | None, output: Path | None) -> Job:
    """The job of a launch command."""
    from rlpost.launch import make_job

    return make_job(config, overrides or (), launcher, output, datetime.now())


def look_first(launcher: Launcher, job: Job, no_check: bool) -> None:
    """Stop at what would stop the run, and tell of what may, as far as that is cheap to find out."""
    if no_check:
        return
    from rlpost.preflight import cheap_findings, stop_at_errors

    here = launcher == "local"
    findings = cheap_findings(job.config, hub=here, here=here, output=job.directory if here else None)
    for warning in stop_at_errors(list(findings)):
        say(f"warning: {warning}")


@launch.command()
def local(
    config: Config,
    overrides: Overrides = None,
    output: Output = None,
    no_check: NoCheck = False,
    dry_run: DryRun = False,
) -> None:
    """Run in the background of this machine: the run outlives the terminal.

    \b
    rlpost launch local configs/quickstart.yaml
    """
    from rlpost.launch.directory import claim
    from rlpost.launch.local import launch_local, render_local

    job = claim(prepared("local", config, overrides, output))
    if dry_run:
        typer.echo(render_local(job, Path.cwd()))
        return
    look_first("local", job, no_check)
    if status := launch_local(job, say):
        raise typer.Exit(status)


@launch.command()
def ray(
    config: Config,
    overrides: Overrides = None,
    output: Output = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's job server, such as http://head:8265. Without it launch.ray.address, "
            "RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or a cluster of this machine."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit the run, say how to look at it, and return.")
    ] = False,
    no_check: NoCheck = False,
    dry_run: DryRun = False,
) -> None:
    """Run on a Ray cluster that is there already, as a job: what it prints is printed here, to its end.

    The working directory goes along, without run directories, environments and version control. The exit
    status is the run's. Ctrl-C asks whether to stop the run or to leave it alone.

    \b
    rlpost launch ray configs/quickstart_ray.yaml --address http://head:8265 --output /shared/runs/first
    """
    import os

    from rlpost.launch.directory import claim
    from rlpost.launch.ray import launch_ray
    from rlpost.launch.ray_job import render_ray
    from rlpost.launch.ray_server import given_address, without_secrets

    job = claim(prepared("ray", config, overrides, output))
    found = given_address(address, job.config.launch.ray.address, os.environ)
    if dry_run:
        typer.echo(render_ray(job, found and without_secrets(found), Path.cwd()).rendered())
        return
    look_first("ray", job, no_check)
    again = ["rlpost", "launch", "ray", str(config), *(overrides or ()), "--output", str(job.directory)]
    if address is not None:
        again += ["--address", without_secrets(address)]
    if status := launch_ray(job, found, again, detach, say):
        raise typer.Exit(status)


@launch.command()
def slurm(
    config: Config,
    overrides: Overrides = None,
    output: Output = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Submit an array: as many runs, of the seeds from the recipe's on."),
    ] = None,
    no_check: NoCheck = False,
    dry_run: DryRun = False,
) -> None:
    """Submit to Slurm: the job makes a Ray cluster of its nodes, and goes on after a preemption.

    `machines` says what it asks for, `launch.slurm` the partition, the account and the time.

    \b
    rlpost launch slurm configs/qwen3_4b.yaml launch.slurm.partition=gpu launch.slurm.time=12:00:00
    rlpost launch slurm configs/quickstart_cluster.yaml --seeds 3 --dry-run
    """
    from rlpost.launch.directory import claim
    from rlpost.launch.slurm import render_slurm, submit

    job = prepared("slurm", config, overrides, output)
    if seeds is None:
        job = claim(job)
    if dry_run:
        typer.echo(render_slurm(job, Path.cwd(), seeds))
        return
    look_first("slurm", job, no_check)
    typer.echo(submit(job, Path.cwd(), seeds))


WORDS_AS_THEY_ARE = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


@launch.command("ray-node", hidden=True, context_settings=WORDS_AS_THEY_ARE)
def ray_node(context: typer.Context) -> None:
    """Be a node of a run's own Ray cluster; for scripts of launchers."""
    from rlpost.launch.ray_node import main

    raise typer.Exit(main(context.args))


@launch.command("await-nodes", hidden=True, context_settings=WORDS_AS_THEY_ARE)
def await_nodes(context: typer.Context) -> None:
    """Wait for all nodes of a Ray cluster; for scripts of launchers."""
    from rlpost.launch.nodes import main

    main(context.args)


@launch.command()
def kubernetes(
    config: Config,
    overrides: Overrides = None,
    output: Output = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit the run, say how to look at it, and return.")
    ] = False,
    no_check: NoCheck = False,
    dry_run: DryRun = False,
) -> None:
    """Run on Kubernetes, as a RayJob of KubeRay: what it prints is printed here, to its end.

    Needs kubectl, KubeRay 1.5.1 or newer in the cluster, an image (see docker/), and a claim that all pods
    can write to. The recipe and the small files that it names go along. The exit status is the run's. Ctrl-C
    leaves the run alone and says how to stop it.

    \b
    rlpost launch kubernetes RECIPE --output /runs/first --dry-run
    """
    from rlpost.launch.directory import claim
    from rlpost.launch.kubernetes import launch_kubernetes, warn
    from rlpost.launch.kubernetes_job import local_folder, render_kubernetes

    job = claim(prepared("kubernetes", config, overrides, output))
    if dry_run:
        launched = render_kubernetes(job, Path.cwd(), local_folder(job))
        warn(launched, say)
        typer.echo(launched.rendered)
        return
    look_first("kubernetes", job, no_check)
    if status := launch_kubernetes(job, detach, say):
        raise typer.Exit(status)


def say(text: str) -> None:
    """To standard error: what a run itself prints has standard output."""
    typer.echo(text, err=True)
