"""`rlpost launch ray`: a run as a job of a Ray cluster that is there already, followed to its end."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rlpost.errors import INTERRUPTED, TERMINATED, RlpostError, UserError
from rlpost.launch.directory import note_failure, write_files
from rlpost.launch.following import End, Follower
from rlpost.launch.job import Job
from rlpost.launch.ray_job import ARCHIVE, RayJob, render_ray
from rlpost.launch.ray_server import JobServer
from rlpost.training.status import write_submitted

Report = Callable[[str], None]

STOP, DETACH, CONTINUE = "stop", "detach", "continue"


def launch_ray(job: Job, address: str | None, again: Sequence[str], detach: bool, report: Report) -> int:
    """Submit a run and follow it; the exit status of the command line.

    Args:
        address: of the cluster; None for one of this machine.
        again: the command that goes on with the run, for the user to type.
        detach: return once the cluster has the job.
        report: takes what is said beside the job's own output.

    Raises:
        UserError: the cluster, the working directory or the run directory is not fit for it.
        RlpostError: the cluster did not take the job, did not start it in time, or fell silent.
    """
    server = JobServer(address)
    ray_job = render_ray(job, server.address, Path.cwd(), free_name(job, server))
    submit(ray_job, server)
    advice = how_to(ray_job)
    report(f"run {job.run_id} is job {ray_job.submission_id} of the Ray cluster at {server.address}")
    report(f"its directory is {job.directory}")
    if detach:
        report(advice)
        return 0
    follower = Follower(server, ray_job.submission_id, _print, report, job.config.launch.start_deadline_s)
    end = watch(follower, ask_in_terminal)
    if end is None:
        report(f"the run goes on without this terminal\n{advice}")
        return 0 if sys.stdin.isatty() else INTERRUPTED
    if end.status == TERMINATED:
        report(f"run {job.run_id} was stopped; go on with: {shlex.join(again)}")
    elif end.status:
        note_failure(job.directory, end.status, end.cause)
        report(f"error: run {job.run_id} failed with status {end.status}: {end.cause}")
    else:
        report(f"run {job.run_id} is done: {job.directory}")
    return end.status


def free_name(job: Job, server: JobServer) -> str:
    """A name that no job of the cluster has: the run's id, and with a number when the run goes on.

    Raises:
        UserError: the run is on the cluster, and has not ended.
    """
    number, name = 1, job.run_id
    while (known := server.details(name)) is not None:
        if not known.status.is_terminal():
            raise UserError(
                "the run is on the cluster already",
                where=f"job {name} of the Ray cluster at {server.address}",
                found=known.status.value.lower(),
                remedy=f"stop it first with: {ray_command('stop', name, server.address)}",
            )
        number += 1
        name = f"{job.run_id}-{number}"
    return name


def submit(ray_job: RayJob, server: JobServer) -> None:
    """Write the launch's files, send the working directory, and hand the job in.

    Raises:
        UserError: the run directory cannot be written, or the working directory cannot be read.
        RlpostError: the cluster did not take the job.
    """
    job = ray_job.job
    write_files(job.directory, ray_job.rendered())
    with tempfile.TemporaryDirectory(prefix="rlpost-") as scratch:
        archive = Path(scratch) / ARCHIVE
        ray_job.packing.write(archive, ray_job.texts)
        environment = {**ray_job.request["runtime_env"], "working_dir": str(archive)}
        write_submitted(job.directory, job.run_id, "ray", ray_job.submission_id, job.config.name)
        try:
            server.submit({**ray_job.request, "runtime_env": environment})
        except RlpostError as error:
            note_failure(job.directory, error.exit_status, error.what)
            raise


def watch(follower: Follower, ask: Callable[[], str]) -> End | None:
    """Follow a job to its end; None where that is no longer wanted.

    Args:
        ask: called on Ctrl-C; answers `STOP`, `DETACH` or `CONTINUE`.
    """
    while True:
        try:
            return follower.until_end()
        except KeyboardInterrupt:
            answer = ask()
            if answer == STOP:
                follower.report(
                    "the run is told to stop; it saves a checkpoint of its last finished step first"
                )
                follower.server.stop(follower.job)
            elif answer == DETACH:
                return None


def ask_in_terminal() -> str:
    """What Ctrl-C means. Without a terminal, and on a second Ctrl-C: leave the run alone."""
    if not sys.stdin.isatty():
        return DETACH
    question = "\n[s]top the run (it saves first), [d]etach and let it run, or [c]ontinue to follow it? "
    answers = {"s": STOP, "d": DETACH, "c": CONTINUE}
    try:
        while True:
            print(question, end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if answer := answers.get(line.strip().lower()[:1], "" if line else DETACH):
                return answer
    except KeyboardInterrupt:
        return DETACH


def how_to(ray_job: RayJob) -> str:
    """How to look at a job that nobody follows, and how to stop it."""
    name, address = ray_job.submission_id, ray_job.address
    return "\n".join(
        [
            f"  follow it: {ray_command('logs --follow', name, address)}",
            f"  its state: {ray_command('status', name, address)}",
            f"  stop it:   {ray_command('stop', name, address)}   (it saves a checkpoint first)",
            f"  or, where its directory is seen: rlpost logs --follow, rlpost stop {ray_job.job.directory}",
        ]
    )


def ray_command(words: str, job: str, address: str | None) -> str:
    """A command of Ray's own about a job."""
    return f"ray job {words} {job}" + (f" --address {address}" if address else "")


def _print(text: str) -> None:
    print(text, end="", flush=True)
