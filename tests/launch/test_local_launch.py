"""`rlpost launch local`: a driver that outlives the terminal, or says at once why it does not."""

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from rlpost.errors import DeadlineError, UserError
from rlpost.launch import Job, Rendered, make_job
from rlpost.launch.directory import claim
from rlpost.launch.local import launch_local, render_local
from rlpost.training.status import RunRecord, read_record

GOLDEN = Path(__file__).with_name("golden")
RUN_ID = "quickstart-20260102-030405-abcd"


def job_of(project_root, directory, *overrides):
    recipe = project_root / "configs" / "quickstart.yaml"
    made = make_job(recipe, overrides, "local", None, datetime(2026, 1, 2, 3, 4, 5))
    return Job(RUN_ID, made.config, directory)


def test_what_is_run_in_the_background_is_as_it_was(project_root):
    job = job_of(
        project_root,
        Path("/data/runs/first one"),
        "launch.environment={HF_HOME: /data/hf cache}",
        "launch.setup=[module load cuda]",
        "launch.rlpost=/opt/venv/bin/rlpost",
    )
    rendered = render_local(job, Path("/home/me/work"))
    assert rendered.files["recipe.yaml"] == job.recipe
    shown = f"{Rendered({'local.sh': rendered.files['local.sh']}, rendered.commands)}\n"
    golden = GOLDEN / "local-quickstart.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text()


def with_driver(project_root, folder, script, *overrides):
    """A job whose command `rlpost` is a script of Python."""
    program = folder / "program.py"
    program.write_text(script)
    words = f"launch.rlpost='{sys.executable} {program}'"
    return job_of(project_root, folder / "run", words, *overrides)


RUNS = """
import json, os, sys, time
from datetime import datetime
from pathlib import Path
print("hello", os.getsid(0) == os.getpid(), sys.stdin.read() == "", sys.argv[1:], flush=True)
variables = {name: os.environ[name] for name in ("RLPOST_RUN_ID", "RLPOST_LAUNCHER", "MINE")}
print(variables, flush=True)
record = {"id": os.environ["RLPOST_RUN_ID"], "name": "quickstart", "state": "running", "stage": "rl"}
record |= {"pid": os.getpid(), "updated": datetime.now().astimezone().isoformat()}
part = Path(sys.argv[4], "run.json.part")
part.write_text(json.dumps(record))
part.rename(part.with_suffix(""))
time.sleep(300)
"""


def test_the_driver_has_a_session_and_an_output_of_its_own(tmp_path, project_root):
    job = with_driver(project_root, tmp_path, RUNS, "launch.environment={MINE: a b}")
    said = []
    assert launch_local(job, said.append) == 0
    record = read_record(job.directory)
    try:
        assert said[0] == f"run {RUN_ID} is process {record.pid}\nits directory is {job.directory}"
        assert said[1].splitlines()[1] == f"  stop it:   rlpost stop {job.directory}"
        assert (record.id, record.state) == (RUN_ID, "running")
        files = job.directory / "launch"
        words = ["train", str(files / "recipe.yaml"), "--output", str(job.directory), "--resume"]
        variables = {"RLPOST_RUN_ID": RUN_ID, "RLPOST_LAUNCHER": f"local:{record.pid}", "MINE": "a b"}
        assert (files / "output.log").read_text() == f"hello True True {words}\n{variables}\n"
        with pytest.raises(UserError, match=rf"going on\n.*\n.*process {record.pid}\n.*rlpost stop"):
            claim(job)
    finally:
        os.killpg(record.pid, signal.SIGKILL)
        os.waitpid(record.pid, 0)


def test_a_driver_that_ends_at_once_is_shown_with_its_last_error(tmp_path, project_root):
    script = "import sys; print('error: no such file\\n  where: x.py', file=sys.stderr); sys.exit(2)"
    job = with_driver(project_root, tmp_path, script)
    said = []
    assert launch_local(job, said.append) == 2
    assert said[1:] == [
        "error: no such file\n  where: x.py",
        f"error: run {RUN_ID} ended at once with status 2: no such file",
    ]
    record = read_record(job.directory)
    assert (record.state, record.exit_status, record.last_line) == ("failed", 2, "no such file")


def test_a_driver_that_does_not_begin_is_ended_with_all_that_it_started(tmp_path, project_root):
    job = job_of(project_root, tmp_path / "run", "launch.setup=[sleep 300]", "launch.start_deadline_s=0.3")
    with pytest.raises(DeadlineError, match=r"launch.start_deadline_s: 0"):
        launch_local(job, lambda text: None)
    left = subprocess.run(["pgrep", "-f", str(job.directory)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_directory_with_something_else_in_it_is_no_run(tmp_path, project_root):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than a run"):
        claim(job_of(project_root, tmp_path))
    RunRecord("first", "quickstart", "done").write(tmp_path)
    assert claim(job_of(project_root, tmp_path)).run_id == "first"
