"""Runs in processes of their own: failures stay where they happen, and nothing is left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from rlpost.comparison import compare
from rlpost.comparison.plan import make_plan
from rlpost.comparison.runner import execute
from rlpost.comparison.runs import runs_of
from rlpost.errors import RlpostError


@pytest.fixture
def runs(recipe, arms_file, tmp_path):
    def make(*overrides):
        plan = make_plan([recipe()], overrides, arms_file=arms_file(), seeds=1)
        return runs_of(plan, tmp_path / "out", 2)

    return make


def test_a_run_past_its_deadline_is_killed_and_those_that_need_it_are_not_started(runs):
    told, before = [], children(os.getpid())
    outcomes = execute(runs(), jobs=2, deadline_s=0.3, report=told.append)
    assert told == outcomes
    assert [outcome.run.arm for outcome in outcomes] == [None, "grpo", "rloo"]
    assert outcomes[0].failure.startswith("killed after 0.3 s (--deadline-s)")
    assert outcomes[1].failure == "not started: the shared stages it starts from failed"
    assert not outcomes[1].run.directory.exists()
    assert children(os.getpid()) <= before


@pytest.mark.slow
def test_a_run_that_cannot_start_is_reported_with_the_last_lines_of_its_log(runs, tmp_path):
    bad = runs("stages.warmup.data.task=null", f"stages.warmup.data.path={tmp_path}/absent.jsonl")[0]
    (outcome,) = execute([bad], jobs=1, deadline_s=60.0, report=lambda _: None)
    reason, *log = outcome.failure.splitlines()
    assert reason == "exit status 2"
    assert any("absent.jsonl" in line for line in log)
    assert (bad.directory / "log.txt").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end children with their parent")
def test_runs_die_with_the_comparison(recipe, arms_file, tmp_path):
    command = ["-m", "rlpost.cli", "compare", str(recipe(warmup_steps=5000)), "--arms", str(arms_file())]
    parent = subprocess.Popen(
        [sys.executable, *command, "--output", str(tmp_path / "out"), "--seeds", "2", "--jobs", "2"],
        stdout=subprocess.DEVNULL,
    )
    try:
        logs = tmp_path.glob
        wait_for(lambda: len([log for log in logs("out/shared/*/*/log.txt") if log.stat().st_size]) == 2)
        started = children(parent.pid)
        assert len(started) == 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(30)
    wait_for(lambda: not any(alive(pid) for pid in started))


@pytest.mark.slow
def test_two_arms_are_compared_a_failed_one_does_not_stop_the_other_and_the_rest_is_kept(
    recipe, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raises.py").write_text(
        "def reward(completion, answer):\n"
        "    if not __import__('pathlib').Path('mended').exists():\n"
        "        raise RuntimeError('the verifier is broken')\n"
        "    return float(completion == answer)\n"
    )
    paths = [recipe("plain"), recipe("broken", "rloo", reward="raises.py")]
    output = tmp_path / "out"
    settings = {"seeds": 2, "jobs": 2, "output": output, "different_budgets": True, "deadline_s": 120.0}

    def run():
        console = Console(file=io.StringIO(), width=120)
        try:
            return compare(paths, console=console, **settings), console.file.getvalue()
        except RlpostError as error:
            return error, console.file.getvalue()

    failed, printed = run()
    assert isinstance(failed, RlpostError)
    assert failed.exit_status == 1
    assert "2 of 6 runs failed" in str(failed)
    assert "found:  error: reward 'raises' fails on a gold answer" in str(failed)
    assert printed.count("FAILED: exit status 2") == 2
    assert "the verifier is broken" in printed
    tree = json.loads((output / "comparison.json").read_text())
    assert [run["status"] for run in tree["runs"]] == ["done", "failed"] * 2
    plain = tree["tasks"][0]["arms"][0]
    assert [point["step"] for point in plain["curves"]["accuracy"]] == [0, 2, 4]
    assert plain["measures"]["generated_samples"]["value"] == 64.0
    assert plain["measures"]["pass@2"]["n"] == 2
    summary = output / "runs" / "addition" / "plain" / "seed-1" / "summary.json"
    untouched = summary.stat().st_mtime_ns

    (tmp_path / "mended").touch()
    results, printed = run()
    assert "2 complete already; 2 to train; 2 at a time" in printed
    assert [record.failure for record in results.records] == [None] * 4
    assert summary.stat().st_mtime_ns == untouched
    broken = results.tasks[0].arms[1]
    assert broken.differences["accuracy"].n == 2
    assert broken.measures["clip_share"] is None
    start = [arm.curves["accuracy"][0] for arm in results.tasks[0].arms]
    assert start[0] == start[1], "both arms start from the policy of the shared stages"
    assert "report.html" in printed


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            found.update(map(int, thread.read_text().split()))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("this did not happen in time")
