"""A run that stands still says who waits for whom and where in the code, and goes on when it can."""

import os
import signal
import sys
import time
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from driver_runs import driver, wait_until

from rlpost import cli
from rlpost.rollout import RolloutWorker
from rlpost.training import run as training

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(600),
]

REWARD = """
import time
from pathlib import Path


def reward(completion, answer):
    while Path(__file__).with_name("slow").exists():
        time.sleep(0.05)
    return 1.0 if completion == answer else 0.2 * min(4, sum(c.isdigit() for c in completion))
"""


class DozingWorker(RolloutWorker):
    """Its engine does nothing while there is a file `doze` in the working directory."""

    def _build(self):
        engine = super()._build()
        step, here = engine.step, Path.cwd()

        def dozing_step():
            while (here / "doze").exists():
                time.sleep(0.05)
            return step()

        engine.step = dozing_step
        return engine


def test_each_kind_of_long_wait_is_told_apart_on_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waits = (
        *("rollout.workers=2", "train.steps=1000"),
        *("cluster.report_every_s=2", "cluster.hang_deadline_s=200"),
    )
    with driver(tmp_path, *waits, "scoring.deadline_s=200", reward=REWARD, program=[__file__]) as run:
        run.wait_for_step(3)
        with trouble(run, Path("slow").touch, Path("slow").unlink) as begun:
            run.says(
                r"still waiting for the responses of stage train \(step \d+: \d+ missing\)\n"
                r"  scorer \d \(process \d+\): at one sample since \d+ s, of at most 200 s\n",
                begun,
            )
        with trouble(run, Path("doze").touch, Path("doze").unlink) as begun:
            run.says(
                r"  rollout worker 0: \d+ unfinished, [\d,]+ tokens sampled so far, the last news \d+ s ago\n"
                r"    rollout worker 0 \(\S+, process \d+\): poll since \d+ s, last sign of life .*\n"
                r"(      .*\n)*?"
                r"      thread engine-steps, \d+ s ago:\n"
                r"(        rlpost/rollout/stepping.py:\d+ \w+\n)+"
                r"        \S*test_long_waits.py:\d+ dozing_step\n",
                begun,
            )
        for role, name in (("rollout worker 1", "rollout-worker-1"), ("learner 1", "learner-1")):
            send = partial(os.kill, run.pid(name))
            with trouble(run, partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)) as begun:
                run.says(
                    r"the driver waits in stage train for\n(  .*\n)*?"
                    rf"  {role} \(\S+, process {run.pid(name)}\): \w+ since \d+ s, .*"
                    r"last sign of life \d+ s ago, stopped \(SIGSTOP\)\n"
                    r"    a ping is unanswered for \d+ s; at 200 s \(cluster.hang_deadline_s\) it counts",
                    begun,
                )
        assert run.end(signal.SIGTERM) == 143
        assert run.said.splitlines()[-1].startswith("stopped by SIGTERM, saved after step ")
        assert run.family() == []


@contextmanager
def trouble(run, begin, end):
    """Trouble that ends, and the steps after it; gives the place in the output at which it began."""
    begin()
    try:
        yield len(run.said)
    finally:
        end()
    steps = run.steps()
    wait_until(lambda: run.steps() > steps + 2, "the run does not go on")


if __name__ == "__main__":
    training.RolloutWorker = DozingWorker
    sys.argv[0] = "rlpost"
    cli.main()
