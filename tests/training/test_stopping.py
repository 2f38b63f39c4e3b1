"""Runs that are told to stop, wherever they are, save a checkpoint and go on as if nothing had been."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from rlpost.cli import interruptible
from rlpost.monitor import read_metrics
from rlpost.scoring import Scorer
from rlpost.training import stopping, train
from rlpost.training.evaluating import Evaluator
from rlpost.training.learners import Learners
from rlpost.training.recording import read_rollouts
from rlpost.training.saving import Saver
from rlpost.training.status import read_record
from rlpost.training.workers import Workers, WorkersSource

GO_ON = "resume like this"


def result(run: Path):
    """All that two runs of one recipe have in common, byte by byte but for the times."""
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(run)]
    samples = [
        (path.name, [(t.id, t.token_ids, t.reward) for t in read_rollouts(path)])
        for path in sorted(run.glob("rollouts/*"))
    ]
    generations = {
        str(path.relative_to(run)): path.read_text()
        for path in sorted(run.glob("evaluations/*/generations.jsonl"))
    }
    return rows, samples, generations, (run / "policy" / "model.safetensors").read_bytes()


@contextmanager
def told_in(monkeypatch, kind, method, call, *numbers):
    """Signals for this process in the `call`th call of a method, from 1."""
    original, calls = getattr(kind, method), []

    def watched(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            for number in numbers:
                signal.raise_signal(number)
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(kind, method, watched)
        yield
    assert len(calls) >= call


def stopped(config, run):
    """The exit status and the number of steps of a run that is told to stop."""
    with pytest.raises(typer.Exit) as end, interruptible(GO_ON, notices=True):
        train(config, run, resume=run.exists())
    record = read_record(run)
    assert (record.state, record.exit_status) == ("stopped", end.value.exit_code)
    return end.value.exit_code, record.step


def checkpoint(run):
    return (run / "checkpoints" / "latest").read_text().strip()


@pytest.mark.slow
def test_a_run_told_to_stop_again_and_again_ends_as_one_that_was_not(
    finished, small_config, tmp_path, monkeypatch, capfd
):
    run, config, term, usr1 = tmp_path / "run", small_config(), signal.SIGTERM, signal.SIGUSR1
    moments = [
        # Where it is, and after which step it can stop there.
        ("the first evaluation", WorkersSource, "poll", 1, 0),
        ("an update of the demonstrations", Learners, "update", 1, 1),
        ("the evaluation of step 3", WorkersSource, "poll", 3, 3),
        ("the save after the first stage", Saver, "save", 1, 4),
        ("the first evaluation of the second stage", WorkersSource, "poll", 1, 4),
        ("sampling", Workers, "poll", 3, 5),
        ("the rewards", Scorer, "score", 1, 5),
        ("the update before an evaluation", Learners, "update", 2, 7),
        ("the weights' way to the engine, after that evaluation", Workers, "sync", 2, 7),
        ("the same one step later", Workers, "sync", 3, 8),
        ("the last evaluation", Evaluator, "_ask", 1, 10),
    ]
    for number, (name, kind, method, call, step) in enumerate(moments):
        # As from `timeout`, the signal comes twice at once.
        with told_in(monkeypatch, kind, method, call, *[usr1 if number % 2 else term] * 2):
            assert stopped(config, run) == (143, step), name
        if step:
            assert checkpoint(run) == f"step-{step:06d}", name
        said = capfd.readouterr().err.splitlines()
        saved = f"saved after step {step}" if step else "before the first step was done"
        assert said[-1] == f"stopped by {'SIGUSR1' if number % 2 else 'SIGTERM'}, {saved}; {GO_ON}", name
        assert sum("told to stop by" in line for line in said) == 1, name
    train(config, run, resume=True)
    assert result(run) == result(finished)
    record = read_record(run)
    assert (record.state, record.step, record.steps, record.exit_status) == ("done", 10, 10, 0)
    assert (run / "logs" / "driver.log").read_text().count("--- ") == len(moments) + 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_whose_exception_is_swallowed_ends_the_run_all_the_same(
    small_config, tmp_path, monkeypatch, capsys, number, status
):
    def swallow(self, state, stage):
        try:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        except BaseException:
            print("swallowed")
        return {}

    monkeypatch.setattr(Evaluator, "evaluate", swallow)
    # The tests may run in the background of a script, where Ctrl-C is ignored.
    original, before = signal.signal(number, signal.default_int_handler), signal.default_int_handler
    with pytest.raises(typer.Exit) as end, interruptible(GO_ON):
        train(small_config(), tmp_path / "run")
    assert end.value.exit_code == status
    assert "swallowed" in capsys.readouterr().out
    assert read_metrics(tmp_path / "run") == []
    assert signal.signal(number, original) == before
    record = read_record(tmp_path / "run")
    assert (record.state, record.exit_status) == ("stopped", status)


def deaf(capfd, *, grace_s=60.0, during):
    """What is said of a run that is busy for good when it is told to stop, and what `during` it goes on."""
    with (
        pytest.raises(typer.Exit) as end,
        interruptible(GO_ON, notices=True),
        stopping.hearing(grace_s),
    ):
        signal.raise_signal(signal.SIGTERM)
        during()
    assert end.value.exit_code == 143
    return capfd.readouterr().err.splitlines()[-1]


def test_a_second_notice_and_a_grace_that_is_over_end_a_run_at_once(capfd, monkeypatch):
    def tell_again():
        signal.raise_signal(signal.SIGUSR1)  # an echo
        monkeypatch.setattr(stopping, "ECHO_S", 0.0)
        signal.raise_signal(signal.SIGTERM)

    assert deaf(capfd, during=tell_again) == f"ended by SIGTERM; {GO_ON}"
    assert deaf(capfd, grace_s=0.05, during=lambda: time.sleep(60)) == (
        f"ended by SIGTERM, 0.05 s ago (checkpoint.grace_s), without a checkpoint since; {GO_ON}"
    )


def test_notices_to_a_run_that_is_being_closed_change_nothing(capfd):
    with pytest.raises(typer.Exit) as end, interruptible(GO_ON, notices=True):
        try:
            with stopping.hearing(60.0):
                signal.raise_signal(signal.SIGTERM)
                raise stopping.Stopped(stopping.noticed(), 3, Path("run"))
        finally:
            signal.raise_signal(signal.SIGTERM)
    assert end.value.exit_code == 143
    assert capfd.readouterr().err.endswith(f"stopped by SIGTERM, saved after step 3; {GO_ON}\n")


def test_the_file_stop_ends_a_run_and_keeps_a_queued_one_from_starting_again(
    small_config, tmp_path, monkeypatch, capsys
):
    run, poll = tmp_path / "run", WorkersSource.poll

    def wish(self, wait_s):
        (run / "stop").touch()
        time.sleep(0.01)
        return poll(self, wait_s)

    monkeypatch.setattr("rlpost.training.run_status.WATCH_S", 0.01)
    monkeypatch.setattr(WorkersSource, "poll", wish)
    with pytest.raises(stopping.Stopped, match=r"by the file .*stop, before the first step was done"):
        train(small_config(), run)
    monkeypatch.undo()
    monkeypatch.setenv("RLPOST_LAUNCHER", "slurm:17")
    train(small_config(), run, resume=True)
    assert "Nothing was started" in capsys.readouterr().out
    assert read_record(run).state == "stopped"
