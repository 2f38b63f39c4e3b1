"""Ctrl-C and SIGTERM end a run even where their exception gets lost."""

import os
import signal
import time

import pytest
import typer

from rlpost.cli import interruptible
from rlpost.monitor import read_metrics
from rlpost.training import train
from rlpost.training.evaluating import Evaluator


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_whose_exception_is_swallowed_ends_the_run_after_the_step(
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
    with pytest.raises(typer.Exit) as end, interruptible("resume like this"):
        train(small_config(), tmp_path / "run")
    assert end.value.exit_code == status
    assert "swallowed" in capsys.readouterr().out
    assert len(read_metrics(tmp_path / "run")) == 1
    assert signal.signal(number, original) == before
