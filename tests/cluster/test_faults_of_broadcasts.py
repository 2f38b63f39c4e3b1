"""Weights that are broadcast in real runs, whose workers and learner ranks are lost meanwhile."""

import json
import signal
from importlib.util import find_spec

import pytest
from fault_runs import LEARNER, WORKER, Faults, alive, asked, called, column, generating, recipe, tokens

from rlpost.training import train

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(900),
]

SIZE = ("cluster.learner_ranks=2", "checkpoint.every=4", "train.steps=10")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run, whose workers read the learner's memory."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(recipe(folder, *SIZE, "weights.transport=shared_memory"), folder / "run")


def test_members_lost_in_the_middle_of_a_broadcast_and_beside_it_change_no_sample(
    undisturbed, tmp_path, monkeypatch, capfd
):
    faults = Faults(monkeypatch)
    faults.plan(generating(2, member=0), faults.signal(signal.SIGKILL, WORKER, 0))
    faults.plan(called(WORKER, 1, "receive_weights", 4), faults.signal(signal.SIGKILL, WORKER, 1))
    # Longer silent than a transfer may take, and not long enough to be lost.
    faults.plan(called(WORKER, 0, "receive_weights", 6), faults.signal(signal.SIGSTOP, WORKER, 0))
    faults.plan(called(LEARNER, 0, "update", 7), faults.signal(signal.SIGKILL, WORKER, 1))
    faults.plan(called(LEARNER, 0, "send_weights", 10), faults.signal(signal.SIGKILL, LEARNER, 0))
    run = train(recipe(tmp_path, *SIZE, "weights={transport: broadcast, deadline_s: 25}"), tmp_path / "run")
    assert json.loads((run / "summary.json").read_text())["steps"] == 10
    assert column(run, "step") == list(range(1, 11))
    assert asked(run) == asked(undisturbed)
    assert tokens(run) == tokens(undisturbed)
    assert column(run, "policy/loss") == column(undisturbed, "policy/loss")
    assert len(faults.victims) == 5 and not any(map(alive, faults.victims)) and faults.left() == []
    printed = "".join(capfd.readouterr())
    assert printed.count("fresh rollout workers take over") >= 2
    assert "the weights did not arrive in time" in printed
    assert "learner 0 died\n  where:  send_weights, on" in printed
    assert "going on after step 8" in printed
    assert sum(column(run, "rollout/worker_restarts")) >= 6
