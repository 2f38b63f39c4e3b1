"""`rlpost train` in a process of its own, to be ended from outside."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

from fault_runs import RECIPE, REWARD, alive, write_recipe

RANKS = ("cluster.learner_ranks=2", "rollout.workers=1", "scoring.workers=2", "checkpoint.every=4")
SLOW_REWARD = "import time\n" + REWARD.replace("    return", "    time.sleep(0.03)\n    return")
PATIENCE_S = 240.0


def wait_until(done, message, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < end, message
        time.sleep(0.01)


class Driver:
    """`rlpost train` in a process of its own, and all processes that it has, known by their environment.

    Attributes:
        said: what it has printed so far.
    """

    def __init__(
        self,
        folder,
        *overrides,
        resume=False,
        reward=SLOW_REWARD,
        program=("-m", "rlpost.cli"),
        recipe=RECIPE,
    ):
        self.folder, self.run, self.mark = folder, folder / "run", uuid.uuid4().hex
        command = [*program, "train", str(write_recipe(folder, reward, recipe)), *RANKS, *overrides]
        self.output = folder / f"{self.mark}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--output", str(self.run), *(["--resume"] if resume else [])],
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TEST_OF_A_DRIVER": self.mark},
                start_new_session=True,
                # The tests may run in the background of a script, where Ctrl-C is ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def said(self):
        return self.output.read_text()

    def says(self, pattern, since=0):
        """Wait until what it has printed after `since` characters matches; the match."""
        found = []

        def there():
            assert self.process.poll() is None, self.said[-2000:]
            found[:] = [m for m in [re.compile(pattern).search(self.said, since)] if m]
            return bool(found)

        wait_until(there, f"{pattern} was not said")
        return found[0]

    def resumed_after(self):
        """The step that it says it goes on from."""
        return int(re.search(r"resuming after step (\d+)", self.said)[1])

    def pid(self, name):
        """The process of an actor, by the name of its log."""
        return int(re.findall(r"process (\d+)", (self.run / "logs" / f"{name}.log").read_text())[-1])

    def steps(self):
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def family(self):
        """Living processes with this driver's mark."""
        mark, found = f"TEST_OF_A_DRIVER={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    marked = mark in (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if marked and alive(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def wait_for_step(self, step):
        wait_until(lambda: self.steps() >= step or self.process.poll() is not None, "no progress")
        assert self.process.poll() is None, self.said[-2000:]
        time.sleep(random.uniform(0, 0.3))

    def end(self, number, *, group=False):
        """Give it a signal, or its whole group, as a terminal does for Ctrl-C; its exit status."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def driver(folder, *overrides, **settings):
    """As `Driver`; it is killed on exit, and its family with it."""
    made = Driver(folder, *overrides, **settings)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
