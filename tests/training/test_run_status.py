"""run.json: what a run says of itself, and what others make of it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime

import pytest

from rlpost.errors import DataError, UserError
from rlpost.processes import machine, process_start
from rlpost.training.run_directory import choose_directory, name_of, new_run_id
from rlpost.training.status import first_record, read_record, write_ended, write_submitted


def test_a_runs_id_is_kept_from_its_submission_over_every_start(tmp_path):
    write_submitted(tmp_path, "sums-20260102-030405-abcd", "slurm")
    again = write_submitted(tmp_path, "sums-20260102-030405-ffff", "slurm", job="17")
    assert (again.id, again.name, again.launcher) == (
        "sums-20260102-030405-abcd",
        "sums",
        {"kind": "slurm", "job": "17"},
    )
    there = {"RLPOST_RUN_ID": "other", "RLPOST_LAUNCHER": "slurm:17"}
    record = first_record(tmp_path, "sums", there).write(tmp_path)
    assert (record.id, record.state, record.pid) == (again.id, "running", os.getpid())
    assert record.launcher == {"kind": "slurm", "job": "17"}
    assert read_record(tmp_path) == record and record.present() == "running"
    # The launcher's second call may come after the start.
    assert write_submitted(tmp_path, "x", "slurm", job="18").state == "running"


def test_an_id_comes_from_the_environment_the_directory_or_the_clock(tmp_path):
    assert first_record(tmp_path, "sums", {"RLPOST_RUN_ID": "mine"}).id == "mine"
    assert first_record(tmp_path / "sums-20260102-030405", "sums", {}).id == "sums-20260102-030405"
    assert re.fullmatch(r"sums-\d{8}-\d{6}-[0-9a-f]{4}", first_record(tmp_path / "here", "sums", {}).id)
    assert name_of(new_run_id("a-b", datetime(2026, 1, 2))) == "a-b"
    fresh = choose_directory(str(tmp_path), "sums", None, resume=False)
    assert first_record(fresh.path, "sums", {}).id == fresh.path.name


def test_a_directory_with_a_launchers_files_alone_is_free(tmp_path):
    write_submitted(tmp_path, "sums-20260102-030405-abcd", "local")
    (tmp_path / "launch").mkdir()
    assert choose_directory("runs", "sums", tmp_path, resume=False).path == tmp_path
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="not empty"):
        choose_directory("runs", "sums", tmp_path, resume=False)


def test_a_run_is_lost_when_its_process_is_gone_or_another_machine_is_silent(tmp_path):
    record = first_record(tmp_path, "sums", {}).write(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    of_child = replace(record, pid=child.pid, process=process_start(child.pid))
    assert of_child.present() == "running"
    assert replace(of_child, process="1").present() == "lost"  # another process has got its id
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # nobody has taken note of its end yet
    assert of_child.present() == "lost"
    child.communicate()
    assert of_child.present() == "lost"
    elsewhere = replace(of_child, machine=machine() + "2")
    assert elsewhere.present() == "running"
    assert replace(elsewhere, updated="2026-01-01T00:00:00+00:00").present() == "lost"
    assert replace(elsewhere, state="done").present() == "done"


def test_a_damaged_record_is_refused_and_a_newer_versions_is_read(tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / "run.json").write_text('{"id": "x", "name": "x", "state": "done", "colour": "red"}')
    assert read_record(tmp_path).state == "done"
    write_ended(tmp_path, "failed", 1, "the queue refused it")
    assert json.loads((tmp_path / "run.json").read_text())["last_line"] == "the queue refused it"
    (tmp_path / "run.json").write_text('{"id": "x"')
    with pytest.raises(DataError, match="cannot be read"):
        read_record(tmp_path)
