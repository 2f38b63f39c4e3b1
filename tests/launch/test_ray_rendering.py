"""Everything that a Ray cluster would be given, to the letter, and how the cluster is named."""

import os
import pty
import re
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from rlpost.errors import UserError
from rlpost.launch import Job, make_job
from rlpost.launch.ray import CONTINUE, DETACH, STOP, ask_in_terminal, watch
from rlpost.launch.ray_job import LIMIT, render_ray
from rlpost.launch.ray_server import given_address, without_secrets

GOLDEN = Path(__file__).with_name("golden")
RUN_ID = "quickstart_ray-20260102-030405-abcd"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with a reward of its own, data, and things that stay here."""
    folder = tmp_path / "work"
    for name, text in {
        "mine.py": "def mine(sample):\n    return 1.0\n",
        "data/problems.jsonl": '{"prompt": "1+1", "answer": "2"}\n',
        ".git/HEAD": "ref\n",
        "runs/old/run.json": "{}\n",
        "notes.tmp": "n\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    return folder


def job_of(project_root, *overrides):
    recipe = project_root / "configs" / "quickstart_ray.yaml"
    made = make_job(recipe, overrides, "ray", None, datetime(2026, 1, 2, 3, 4, 5))
    return Job(RUN_ID, made.config, Path("/shared/runs") / RUN_ID)


def test_what_a_ray_cluster_is_given_is_as_it_was(work, project_root):
    job = job_of(
        project_root,
        "rewards=mine.py",
        "launch.environment={HF_HOME: /shared/hf}",
        "launch.setup=[module load cuda]",
        "launch.rlpost=/opt/venv/bin/rlpost",
        "launch.ray.exclude=['*.tmp']",
        "launch.ray.driver_cpus=2",
    )
    rendered = render_ray(job, "http://head:8265", work).rendered()
    # The recipe holds every default there is, and is as long as that.
    assert "mine.py" in rendered.files["recipe.yaml"]
    files = {**rendered.files, "recipe.yaml": "(the resolved recipe)"}
    shown = re.sub(
        rf"(?m)^ +\d+  ({RUN_ID}.yaml|bytes in)", r"        SIZE  \1", str(replace(rendered, files=files))
    )
    shown = re.sub(r"files: .*", "files: SIZE", shown) + "\n"
    golden = GOLDEN / "ray-quickstart.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text()


def test_a_run_that_goes_on_is_a_job_of_another_name_and_the_same_run(work, project_root):
    job = render_ray(job_of(project_root), None, work, f"{RUN_ID}-2")
    variables = job.request["runtime_env"]["env_vars"]
    assert variables["RLPOST_RUN_ID"] == RUN_ID
    assert variables["RLPOST_LAUNCHER"] == f"ray:{RUN_ID}-2"
    assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > job.job.config.checkpoint.grace_s
    assert "--address" not in job.rendered().commands[0]


def test_a_working_directory_that_ray_would_not_take_is_refused_with_its_largest_files(work, project_root):
    with (work / "data" / "large.bin").open("wb") as file:
        file.truncate(LIMIT - 1000)
    render_ray(job_of(project_root), None, work)
    with (work / "second.bin").open("wb") as file:
        file.truncate(2000)
    with pytest.raises(
        UserError, match=r"(?s)data/large\.bin \(100\.0 MiB\), second\.bin \(2\.0 KiB\).*exclude"
    ):
        render_ray(job_of(project_root), None, work)
    render_ray(job_of(project_root, "launch.ray.exclude=[data/]"), None, work)


def test_files_outside_of_the_working_directory_are_named(work, project_root, tmp_path):
    (tmp_path / "other.py").write_text("def score(sample):\n    return 1.0\n")
    job = render_ray(job_of(project_root, "rewards=../other.py"), None, work)
    assert str(tmp_path / "other.py") in job.listing()
    assert str(tmp_path / "other.py") in job.texts[f"{RUN_ID}.yaml"]


@pytest.mark.parametrize(
    ("option", "configured", "variables", "expected"),
    [
        (None, None, {}, None),
        (None, None, {"RAY_ADDRESS": "head:6379"}, "head:6379"),
        (None, None, {"RAY_ADDRESS": "head:6379", "RAY_API_SERVER_ADDRESS": "http://a:1/"}, "http://a:1"),
        (None, "http://b:1", {"RAY_API_SERVER_ADDRESS": "http://a:1"}, "http://b:1"),
        ("http://c:1", "http://b:1", {"RAY_API_SERVER_ADDRESS": "http://a:1"}, "http://c:1"),
    ],
)
def test_the_address_is_the_options_then_the_recipes_then_the_environments(
    option, configured, variables, expected
):
    assert given_address(option, configured, variables) == expected


def test_a_password_in_an_address_is_not_shown():
    assert without_secrets("https://me:secret@head:8265/x") == "https://head:8265/x"


def test_ctrl_c_asks_in_a_terminal_and_leaves_the_run_alone_elsewhere(monkeypatch, capsys):
    class Interrupted:
        job, server, report = "job", None, staticmethod(lambda text: None)

        def until_end(self):
            raise KeyboardInterrupt

    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", nothing)
        assert watch(Interrupted(), ask_in_terminal) is None
    assert capsys.readouterr().err == ""
    for typed, meant in {"what\nS\n": STOP, "c\n": CONTINUE, "detach\n": DETACH, "\x04": DETACH}.items():
        outer, inner = pty.openpty()
        os.write(outer, typed.encode())
        with open(inner) as terminal:  # noqa: PTH123
            monkeypatch.setattr(sys, "stdin", terminal)
            assert ask_in_terminal() == meant
        os.close(outer)
    assert capsys.readouterr().err.count("[s]top the run") == 5
