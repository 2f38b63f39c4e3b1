"""`rlpost launch slurm`: a batch script that makes a Ray cluster of its nodes and trains on it."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlpost.errors import DeadlineError, RlpostError, UserError
from rlpost.launch.directory import claim, write_files
from rlpost.launch.job import Job, Rendered, command_of
from rlpost.launch.templates import render
from rlpost.training.run_directory import LAUNCH
from rlpost.training.status import write_ended, write_submitted

SCRIPT, ENVIRONMENT, RECIPE = "slurm.sh", "environment.sh", "recipe.yaml"
SUBMIT_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Submitted:
    """What Slurm made of it.

    Attributes:
        job: its number.
        runs: the jobs of rlpost in it, each with the name that Slurm has for it: `12`, `12_0`.
    """

    job: str
    runs: Sequence[tuple[Job, str]]

    def __str__(self) -> str:
        """What a user wants to know next."""
        first = self.runs[0][0]
        parent = shlex.quote(str(first.directory.parent))
        lines = [f"submitted {first.run_id} as Slurm job {self.job}"]
        for job, name in self.runs:
            lines.append(f"  run     {job.directory}" + (f"  ({name})" if len(self.runs) > 1 else ""))
        directory = shlex.quote(str(first.directory))
        return "\n".join([
            *lines,
            f"  output  {first.directory / LAUNCH}/slurm-*.out",
            f"  follow  rlpost logs {directory} --follow",
            f"  see     rlpost runs {parent};  squeue --jobs={self.job}",
            f"  stop    rlpost stop {directory}  saves a checkpoint;  scancel {self.job}  need not",
        ])  # fmt: skip


def expand(job: Job, seeds: int | None) -> list[Job]:
    """The runs of a job: itself, or one for each seed from the recipe's on, in directories of their own."""
    if seeds is None:
        return [job]
    first = job.config.seed
    return [
        claim(
            Job(
                f"{job.run_id}-seed{seed}",
                job.config.model_copy(update={"seed": seed}),
                job.directory.with_name(f"{job.directory.name}-seed{seed}"),
            )
        )
        for seed in range(first, first + seeds)
    ]


def render_slurm(job: Job, folder: Path, seeds: int | None = None) -> Rendered:
    """The batch script, what it reads, and the command that submits it.

    Args:
        folder: where the job's processes start.
        seeds: runs of an array, one for each seed; None for a single run.
    """
    config, first = job.config, expand(job, seeds)[0]
    script = render(
        "slurm.sh.j2",
        run_id=job.run_id,
        directory=job.directory,
        options=options(job, folder, seeds),
        seeds=seeds is not None,
        rlpost=command_of(config, shared=True),
        cpus=config.machines.cpus,
        accelerators=config.machines.accelerators or 0,
        deadline_s=f"{config.launch.start_deadline_s:g}",
        requeue=config.launch.slurm.requeue,
    )
    environment = render(
        "slurm_environment.sh.j2",
        environment=sorted(config.launch.environment.items()),
        setup=config.launch.setup,
    )
    path = first.directory / LAUNCH / SCRIPT
    files = {SCRIPT: script, ENVIRONMENT: environment, RECIPE: first.recipe}
    return Rendered(files, [["sbatch", "--parsable", str(path)]])


def options(job: Job, folder: Path, seeds: int | None) -> list[str]:
    """The lines after `#SBATCH`."""
    config, machines, slurm = job.config, job.config.machines, job.config.launch.slurm
    first = config.seed
    runs = "" if seeds is None else "-seed%a"
    number = "%j" if seeds is None else "%A_%a"
    output = str(job.directory).replace("%", "%%") + f"{runs}/launch/slurm-{number}.out"
    wanted: list[tuple[str, object]] = [
        ("job-name", job.run_id),
        ("comment", f"rlpost:{job.run_id}"),
        ("chdir", folder),
        ("output", output),
        ("open-mode", "append"),
        ("nodes", machines.count),
        ("ntasks-per-node", 1),
        ("gres", f"gpu:{machines.accelerators}" if machines.accelerators else None),
        ("cpus-per-task", machines.cpus),
        ("mem", _mebibytes(machines.memory_gib)),
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("time", slurm.time),
        ("signal", f"B:USR1@{slurm.notice_s}"),
        ("array", None if seeds is None else f"{first}-{first + seeds - 1}"),
    ]
    lines = [f"--{name}={_word(value)}" for name, value in wanted if value is not None]
    return [*lines, "--requeue" if slurm.requeue else "--no-requeue", *slurm.options]


def submit(job: Job, folder: Path, seeds: int | None = None) -> Submitted:
    """Write everything, and hand it to Slurm.

    Raises:
        UserError: there is no sbatch here, or a run directory holds another run.
        RlpostError: Slurm refused; with its own words.
    """
    rendered, jobs = render_slurm(job, folder, seeds), expand(job, seeds)
    for one in jobs:
        write_files(one.directory, replace(rendered, files={**rendered.files, RECIPE: one.recipe}))
        write_submitted(one.directory, one.run_id, "slurm", name=one.config.name)
    try:
        number = _sbatch(rendered.commands[0])
    except RlpostError as error:
        for one in jobs:
            write_ended(one.directory, "failed", error.exit_status, str(error).splitlines()[0])
        raise
    runs = [(one, number if seeds is None else f"{number}_{one.config.seed}") for one in jobs]
    for one, name in runs:
        write_submitted(one.directory, one.run_id, "slurm", name, one.config.name)
    return Submitted(number, runs)


def _sbatch(command: Sequence[str]) -> str:
    """Submit; the job's number."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SUBMIT_DEADLINE_S, check=False)
    except FileNotFoundError:
        raise UserError(
            "there is no Slurm here",
            where=shlex.join(command),
            found="the command sbatch is not on the path",
            remedy="submit from a login node of the cluster, or see what would be submitted with --dry-run",
        ) from None
    except subprocess.TimeoutExpired:
        raise DeadlineError(
            "Slurm does not answer",
            where=shlex.join(command),
            found=f"nothing after {SUBMIT_DEADLINE_S:g} s",
            remedy="see `scontrol ping`; whether it was submitted after all, `squeue --me` tells",
        ) from None
    if done.returncode:
        raise RlpostError(
            "Slurm refused the job",
            where=shlex.join(command),
            found=" ".join(done.stderr.replace("sbatch: error: ", "").split()),
            remedy="change `launch.slurm` or `machines` in the recipe, or on the command line",
        )
    # With federations the cluster's name follows.
    return done.stdout.strip().partition(";")[0]


def _mebibytes(gibibytes: float | None) -> str | None:
    return None if gibibytes is None else f"{math.ceil(gibibytes * 1024)}M"


def _word(value: object) -> str:
    """As sbatch reads a word in a script: in quotes where it holds more than plain characters."""
    text = str(value)
    if re.fullmatch(r"[\w@%+=:,./-]*", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
