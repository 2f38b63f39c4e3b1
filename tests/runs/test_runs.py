"""Runs seen from outside: their list, their logs, asking one to stop."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from rlpost.errors import DeadlineError, UserError
from rlpost.runs.finding import find_run, find_runs, look_at
from rlpost.runs.listing import as_json, as_text
from rlpost.runs.logs import Follower, last_lines, log_files
from rlpost.runs.stopping import stop_run
from rlpost.training.run_directory import name_of
from rlpost.training.status import RunRecord, first_record, read_record, write_submitted

PATIENCE_S = 60.0
ENDED = {"pid": 1, "process": "0"}


@pytest.fixture
def folder(tmp_path):
    """A run of each kind, as they lie in one folder."""

    def here(name):
        directory = tmp_path / name
        return directory, first_record(directory, name_of(directory.name), {})

    directory, record = here("sums-20260101-000000-aaaa")
    done = replace(record, state="done", step=20, steps=20, stage="finishing", score=0.725, exit_status=0)
    replace(done, started="2026-01-01T00:00:00+00:00").write(directory)
    directory, record = here("sums-20260102-000000-bbbb")
    failed = replace(record, state="failed", step=3, steps=20, last_line="learner 0 died: killed by SIGKILL")
    replace(failed, started="2026-01-02T00:00:00+00:00").write(directory)
    directory, record = here("sums-20260103-000000-cccc")
    replace(record, started="2026-01-03T00:00:00+00:00", **ENDED).write(directory)
    directory, record = here("comparison/grpo/words-20260104-000000-dddd")
    replace(record, started="2026-01-04T00:00:00+00:00", step=2, steps=9, stage="rl").write(directory)
    write_submitted(tmp_path / "queued", "sums-20260105-000000-eeee", "slurm", "17")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    older = tmp_path / "old-20250101-000000"
    older.mkdir()
    (older / "config.yaml").touch()
    (older / "metrics.jsonl").write_text('{"step": 7, "stage": "rl", "eval/accuracy": 0.25}\n')
    (tmp_path / "data").mkdir()
    return tmp_path


def test_every_run_is_listed_with_its_state_and_the_unreadable_with_the_reason(folder):
    runs = {run.id: run for run in find_runs([folder])}
    assert {id: run.state for id, run in runs.items()} == {
        "sums-20260101-000000-aaaa": "done",
        "sums-20260102-000000-bbbb": "failed",
        "sums-20260103-000000-cccc": "lost",
        "words-20260104-000000-dddd": "running",
        "sums-20260105-000000-eeee": "submitted",
        "old-20250101-000000": "unfinished",
        "damaged": "unreadable",
    }
    lines = as_text(list(runs.values())).splitlines()
    assert lines[0].split() == ["run", "state", "stage", "step", "score", "started", "where", "folder"]
    (done,) = (line for line in lines if line.startswith("sums-20260101"))
    assert done.split()[1:5] == ["done", "finishing", "20/20", "0.725"]
    assert "sums-20260102-000000-bbbb: learner 0 died: killed by SIGKILL" in lines
    assert any("slurm:17" in line for line in lines)
    assert any(line.startswith("damaged: a run's record cannot be read") for line in lines)
    (old,) = (line for line in lines if line.startswith("old-"))
    assert old.split()[1:5] == ["unfinished", "rl", "7", "0.250"]
    found = {run["id"]: run for run in json.loads(as_json(list(runs.values())))}
    assert found["sums-20260103-000000-cccc"]["state"] == "lost"
    assert found["damaged"]["reason"].startswith("a run's record")
    assert as_text([]) == "no runs"


def test_a_run_is_found_by_its_id_a_beginning_of_it_or_its_directory(folder):
    assert find_run("words", [folder]).record.step == 2
    assert find_run(str(folder / "queued"), []).id == "sums-20260105-000000-eeee"
    assert find_run("sums-20260101-000000-aaaa", [folder]).state == "done"
    with pytest.raises(UserError, match="may be any of 4 runs"):
        find_run("sums", [folder])
    with pytest.raises(UserError, match=r"no run 'dreams'[\s\S]*sums-20260105-000000-eeee"):
        find_run("dreams", [folder])
    with pytest.raises(UserError, match="no such folder"):
        find_runs([folder / "nowhere"])


def test_roles_have_logs_and_the_drivers_is_what_its_launcher_keeps(tmp_path):
    (tmp_path / "logs").mkdir()
    for name in ("driver", "learner-0", "ray"):
        (tmp_path / "logs" / f"{name}.log").write_text(f"{name}\n")
    RunRecord("x", "x", "running").write(tmp_path)
    assert {role: path.name for role, path in log_files(look_at(tmp_path)).items()} == {
        "driver": "driver.log",
        "learner-0": "learner-0.log",
        "ray": "ray.log",
    }
    write_submitted(tmp_path, "x", "slurm", "17")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "slurm-17.out").touch()
    assert log_files(look_at(tmp_path))["driver"].name == "slurm-17.out"


@pytest.mark.parametrize("count", [0, 1, 3, 50_000, 200_000])
def test_the_last_lines_of_a_long_file_are_those_of_the_whole(tmp_path, count):
    lines = [f"line {n}\n" for n in range(100_000)]
    (tmp_path / "log").write_text("".join(lines) + "half a line")
    kept = [*lines, "half a line"][-count:] if count else []
    assert last_lines(tmp_path / "log", count)[0] == "".join(kept)


def test_a_log_is_followed_over_rotation_and_restarts_until_the_run_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr("rlpost.runs.logs.POLL_S", 0.01)
    written, launch = [], tmp_path / "launch"
    record = write_submitted(tmp_path, "x", "slurm", "17")
    launch.mkdir()
    over = []
    follower = Follower(look_at(tmp_path), "driver", 1, written.append)
    thread = threading.Thread(target=lambda: over.append(follower.until_end()))
    thread.start()

    def see(text):
        end = time.monotonic() + PATIENCE_S
        while not "".join(written).endswith(text):
            assert time.monotonic() < end and thread.is_alive(), written
            time.sleep(0.01)

    log = launch / "slurm-17.out"
    partial = launch / "partial"
    partial.write_text("one\ntwo\n")
    partial.rename(log)
    see("two\n")
    running = replace(first_record(tmp_path, "x", {}), launcher=record.launcher).write(tmp_path)
    with log.open("a") as file:
        file.write("three\n")
    see("two\nthree\n")
    partial.write_text("in the place of it\n")
    partial.rename(log)
    see("in the place of it\n")
    with (launch / "slurm-18.out").open("a") as again:
        os.utime(log, (0, 0))
        again.write("queued again\n")
    see("queued again\n")
    replace(running, state="done").write(tmp_path)
    thread.join(PATIENCE_S)
    assert over[0].state == "done"
    assert written[0] == "two\n"


def test_a_run_is_told_to_stop_and_waited_for(folder, monkeypatch):
    monkeypatch.setattr("rlpost.runs.stopping.POLL_S", 0.01)
    said, words = [], find_run("words", [folder])
    with pytest.raises(DeadlineError, match="is still running"):
        stop_run(words, 0.05, said.append)
    assert (words.directory / "stop").exists()

    def end():
        record = replace(words.record, state="stopped", last_line="stopped by the file, saved after step 3")
        record.write(words.directory)

    timer = threading.Timer(0.1, end)
    timer.start()
    assert stop_run(words, PATIENCE_S, said.append).state == "stopped"
    timer.join()
    assert "saved after step 3" in said[-2] and said[-1].startswith("go on with: rlpost train ")

    queued = find_run(str(folder / "queued"))
    assert stop_run(queued, PATIENCE_S, said.append).state == "stopped"
    assert (queued.directory / "stop").exists()
    write_submitted(queued.directory, "other", "slurm")
    assert not (queued.directory / "stop").exists()
    assert read_record(queued.directory).state == "submitted"

    lost = find_run("sums-20260103", [folder])
    assert stop_run(lost, PATIENCE_S, said.append).state == "lost"
    assert said[-1].endswith("is not at work: it is lost")
    with pytest.raises(UserError, match="cannot be asked"):
        stop_run(find_run(str(folder / "damaged")), 0.0, said.append)


def test_the_commands_show_list_logs_and_end(folder, tmp_path):
    directory = folder / "sums-20260101-000000-aaaa"
    (directory / "logs").mkdir()
    (directory / "logs" / "driver.log").write_text("one\ntwo\n")

    def rlpost(*arguments):
        program = (
            "import sys\nfrom rlpost import cli\nfor command in sys.argv[1].split(';'):\n"
            "    sys.argv = ['rlpost', *command.split()]\n"
            "    try: cli.main()\n    except SystemExit as end: print('status', end.code, flush=True)\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, ";".join(arguments)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    said = rlpost(
        f"runs {folder} --json",
        f"logs {directory} --lines 1 --follow",
        f"logs {directory} learner-7",
        f"stop {directory}",
    )
    assert '"state": "lost"' in said
    assert "\ntwo\n" in said and "\none\n" not in said
    assert "run sums-20260101-000000-aaaa is done\n" in said
    assert "has no log of 'learner-7'" in said and "found:  driver" in said
    assert "is not at work: it is done" in said
    assert [line for line in said.splitlines() if line.startswith("status")] == [
        "status 0",
        "status 0",
        "status 2",
        "status 0",
    ]
