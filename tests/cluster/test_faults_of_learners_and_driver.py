"""Learner ranks lost in a real run, also in a broadcast; drivers that are ended, whose run is resumed."""

import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from driver_runs import PATIENCE_S, RANKS, driver, wait_until
from fault_runs import (
    LEARNER,
    WORKER,
    Faults,
    alive,
    asked,
    called,
    column,
    generating,
    recipe,
    tokens,
    write_recipe,
)

from rlpost import cli
from rlpost.learner import DeepSpeedLearner, TorchLearner
from rlpost.monitor import read_metrics
from rlpost.training import run as training

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(900),
]

AHEAD = ("train.max_staleness=1", "algorithm={base: grpo, correction: [{truncated: {}}]}")


class Trapped:
    """Stays for good in the backward pass of an update for which there is a trap: `run/../RANK-UPDATE`."""

    def _backward(self, loss, last):
        trap = self._replay_dir.parents[1] / f"{self._ranks.rank}-{self.updates}"
        if trap.exists():
            loss.register_hook(lambda gradient: self._stay(trap))
        super()._backward(loss, last)

    def _stay(self, trap):
        trap.unlink()
        time.sleep(PATIENCE_S)


class TrappedTorch(Trapped, TorchLearner):
    pass


class TrappedDeepSpeed(Trapped, DeepSpeedLearner):
    pass


class Hunter:
    """Gives signals to learner ranks of a run in this process, one after the other, on a thread of its own.

    Attributes:
        stacks: what each rank did when it was found in a trap.
        victims: the processes that were given a signal.
    """

    def __init__(self, monkeypatch, folder):
        import ray

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self.folder, self.stacks, self.victims = folder, [], []
        self.learners, self.error, start = None, None, training.start_actors

        def start_actors(*args):
            self.learners, workers = start(*args)
            return self.learners, workers

        monkeypatch.setattr(training, "start_actors", start_actors)
        monkeypatch.setattr(training, "TorchLearner", TrappedTorch)
        monkeypatch.setattr(training, "DeepSpeedLearner", TrappedDeepSpeed)

    @contextmanager
    def hunt(self, *hunts):
        thread = threading.Thread(target=self._all, args=[hunts])
        thread.start()
        try:
            yield
        finally:
            thread.join()
        assert self.error is None, self.error

    def in_backward_of(self, update, rank=1, number=signal.SIGKILL):
        """A signal for a rank that is in the backward pass of an update; updates are counted from 0."""

        def hunt():
            trap = self.folder / f"{rank}-{update}"
            trap.touch()
            wait_until(lambda: not trap.exists(), f"nobody came into the trap {trap.name}")
            self.stacks.append(self.learners.group.stacks(rank))
            self._strike(rank, number)

        return hunt

    def while_starting(self, rank=1):
        """SIGKILL for the process that takes a rank's place, before the rank is made."""

        def hunt():
            def fresh():
                facts = self.learners.group.processes()
                return any(f.member == rank and f.pid not in self.victims for f in facts)

            wait_until(fresh, "no rank was started again")
            self._strike(rank, signal.SIGKILL)

        return hunt

    def _all(self, hunts):
        try:
            for hunt in hunts:
                hunt()
        except Exception as error:
            self.error = error

    def _strike(self, rank, number):
        pid = next(f.pid for f in self.learners.group.processes() if f.member == rank)
        self.victims.append(pid)
        os.kill(pid, number)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return training.train(recipe(folder, *RANKS), folder / "run")


def learnt(run):
    """Every metric but those that are times, or count what happened to processes."""
    processes = ("time/", "rollout/worker_restarts", "rollout/resubmitted", "rollout/batches_ahead")
    return [
        {name: value for name, value in row.items() if not name.startswith(processes)}
        for row in read_metrics(run)
    ]


def assert_each_step_was_made_once_of_its_prompts(run, undisturbed):
    assert json.loads((run / "summary.json").read_text())["steps"] == 20
    assert column(run, "step") == list(range(1, 21))
    assert asked(run) == asked(undisturbed)


def test_ranks_lost_in_backward_passes_leave_no_trace_in_the_result(
    undisturbed, tmp_path, monkeypatch, capfd
):
    hunter = Hunter(monkeypatch, tmp_path)
    with hunter.hunt(
        hunter.in_backward_of(2),
        hunter.in_backward_of(10, rank=0),
        hunter.in_backward_of(14, number=signal.SIGSTOP),
    ):
        run = training.train(
            recipe(tmp_path, *RANKS, "cluster.max_restarts=1", "cluster.hang_deadline_s=8"), tmp_path / "run"
        )
    assert all("_engine_run_backward" in stacks and "_stay" in stacks for stacks in hunter.stacks)
    assert_each_step_was_made_once_of_its_prompts(run, undisturbed)
    assert learnt(run) == learnt(undisturbed)
    assert tokens(run) == tokens(undisturbed)
    assert len(hunter.victims) == 3 and not any(map(alive, hunter.victims))
    said = capfd.readouterr().out
    assert [line for line in said.splitlines() if line.startswith(("learner ", "going on"))] == [
        "learner 1 died",
        "going on after step 0",
        "learner 0 died",
        "going on after step 8",
        "learner 1 is silent",
        "going on after step 12",
    ]


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_a_deepspeed_rank_lost_while_the_next_step_is_sampled_costs_no_prompt(
    undisturbed, tmp_path, monkeypatch, capfd
):
    hunter = Hunter(monkeypatch, tmp_path)
    with hunter.hunt(hunter.in_backward_of(6)):
        run = training.train(
            recipe(tmp_path, *RANKS, *AHEAD, "learner={backend: deepspeed, zero_stage: 2, bucket_mib: 8}"),
            tmp_path / "run",
        )
    assert "_engine_run_backward" in hunter.stacks[0]
    assert_each_step_was_made_once_of_its_prompts(run, undisturbed)
    lags = column(run, "rollout/version_lag_max")
    # Sampling was begun anew at the checkpoint, as at the start: with the newest weights.
    assert lags == [0] + [1] * 3 + [0] + [1] * 15
    assert not any(map(alive, hunter.victims))
    assert "going on after step 4" in capfd.readouterr().out


def test_a_rank_that_is_lost_again_and_again_ends_the_run_with_the_cause(tmp_path, monkeypatch, capfd):
    hunter = Hunter(monkeypatch, tmp_path)
    path = write_recipe(tmp_path)
    overrides = (*RANKS, "cluster.max_restarts=2")
    monkeypatch.setattr(
        sys, "argv", ["rlpost", "train", str(path), *overrides, "--output", f"{tmp_path}/run"]
    )
    # The third loss is of an earlier step than the first: there was no progress meanwhile.
    with (
        hunter.hunt(hunter.in_backward_of(6), hunter.while_starting(), hunter.in_backward_of(5)),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    assert end.value.code == 1
    out, err = capfd.readouterr()
    assert "2 of at most 2 times until step 7 is done" in out
    lines = err[err.index("error: ") :].splitlines()
    assert lines[0] == "error: learner 1 died"
    assert lines[1].startswith("  where:  update, on ") and lines[1].endswith(f"process {hunter.victims[-1]}")
    if os.uname().release.split(".") >= ["6", "15"]:
        assert lines[2] == "  found:  killed by SIGKILL"
    assert lines[3].endswith("learner-1.log, its last lines:")
    assert "learner 1 on " in lines[4]
    assert "Traceback" not in err and "gloo" not in err


def test_members_lost_in_the_middle_of_a_broadcast_and_beside_it_change_no_sample(
    undisturbed, tmp_path, monkeypatch, capfd
):
    faults = Faults(monkeypatch)
    faults.plan(generating(2, member=0), faults.signal(signal.SIGKILL, WORKER, 0))
    faults.in_call(WORKER, 1, "receive_weights", 4, faults.signal(signal.SIGKILL, WORKER, 1))
    # Longer silent than a transfer may take, and not long enough to be lost.
    faults.in_call(WORKER, 0, "receive_weights", 6, faults.signal(signal.SIGSTOP, WORKER, 0))
    faults.plan(called(LEARNER, 0, "update", 7), faults.signal(signal.SIGKILL, WORKER, 1))
    faults.in_call(LEARNER, 0, "send_weights", 10, faults.signal(signal.SIGKILL, LEARNER, 0))
    settings = ("rollout.workers=2", "train.steps=10", "weights={transport: broadcast, deadline_s: 25}")
    run = training.train(recipe(tmp_path, *RANKS, *settings), tmp_path / "run")
    assert json.loads((run / "summary.json").read_text())["steps"] == 10
    assert column(run, "step") == list(range(1, 11))
    # Of twice as many steps, whose only worker reads the learner's memory.
    assert asked(run) == {step: ids for step, ids in asked(undisturbed).items() if step <= 10}
    assert tokens(run) == {step: ids for step, ids in tokens(undisturbed).items() if step <= 10}
    assert column(run, "policy/loss") == column(undisturbed, "policy/loss")[:10]
    assert len(faults.victims) == 5 and not any(map(alive, faults.victims)) and faults.left() == []
    printed = "".join(capfd.readouterr())
    assert printed.count("fresh rollout workers take over") >= 2
    assert "the weights did not arrive in time" in printed
    assert "learner 0 died\n  where:  send_weights, on" in printed
    assert "going on after step 8" in printed
    assert sum(column(run, "rollout/worker_restarts")) >= 6


def test_a_killed_driver_and_one_told_to_stop_leave_nothing_and_are_resumed_to_the_same_result(
    undisturbed, tmp_path
):
    with driver(tmp_path) as first:
        first.wait_for_step(6)
        family = first.family()
        assert len(family) >= 10
        first.end(signal.SIGKILL)
        wait_until(lambda: not any(map(alive, family)) and not first.family(), "processes are left", 10.0)
    with driver(tmp_path, resume=True) as second:
        second.wait_for_step(9)
        # As from `timeout`: to the process and to its group, in which nothing may end before the driver.
        os.kill(second.process.pid, signal.SIGTERM)
        assert second.end(signal.SIGTERM, group=True) == 143
        assert second.family() == []
        said = re.match(
            r"stopped by SIGTERM, saved after step (\d+); resume with: rlpost train ",
            second.said.splitlines()[-1],
        )
    with driver(tmp_path, resume=True) as third:
        assert third.process.wait(PATIENCE_S) == 0, third.said[-2000:]
        assert third.family() == []
    assert second.resumed_after() >= 4 and third.resumed_after() == int(said[1]) >= 9
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "done"
    assert_each_step_was_made_once_of_its_prompts(tmp_path / "run", undisturbed)
    assert learnt(tmp_path / "run") == learnt(undisturbed)
    assert tokens(tmp_path / "run") == tokens(undisturbed)


def test_an_interrupted_driver_that_sampled_ahead_is_resumed_with_each_prompt_at_its_step(
    undisturbed, tmp_path
):
    ahead = (*AHEAD, "cluster.learner_ranks=1", "rollout.workers=2")
    with driver(tmp_path, *ahead) as first:
        first.wait_for_step(10)
        assert first.end(signal.SIGINT, group=True) == 130
        assert first.family() == []
        assert first.said.splitlines()[-1].startswith("interrupted; resume with: rlpost train ")
    with driver(tmp_path, *ahead, resume=True) as second:
        assert second.process.wait(PATIENCE_S) == 0, second.said[-2000:]
    assert second.resumed_after() >= 8
    assert_each_step_was_made_once_of_its_prompts(tmp_path / "run", undisturbed)
    assert max(column(tmp_path / "run", "rollout/version_lag_max")) == 1
