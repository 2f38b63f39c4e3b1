"""Members that are killed, stopped or leave: who is blamed, with which words, and what goes on."""

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlpost.cluster import start_cluster
from rlpost.config.schema import ClusterConfig
from rlpost.errors import ActorLostError, RlpostError

pytestmark = pytest.mark.cluster


class Rank:
    """One of two ranks that meet over a socket, as torch's ranks do."""

    def __init__(self, number, meet=None):
        self.number, self.meet = number, meet

    def join(self):
        """A connection to the other rank."""
        if self.number == 0:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(self.meet)
                server.listen()
                self.other, _ = server.accept()
        else:
            while not Path(self.meet).exists():
                time.sleep(0.01)
            self.other = socket.socket(socket.AF_UNIX)
            while self.other.connect_ex(self.meet):
                time.sleep(0.01)

    def exchange(self):
        """Fails as soon as the other rank is dead."""
        if not self.other.recv(1):
            raise RuntimeError("Connection closed by peer")

    def die(self, text, status):
        print(text, flush=True)
        subprocess.run(["echo", "and a word of my child"], check=True)
        os.kill(os.getpid(), -status) if status < 0 else os._exit(status)
        time.sleep(60)  # any thread may take the signal

    def work(self, seconds):
        time.sleep(seconds)
        return self.number

    def child(self):
        """A process that leaves this one's session and does not watch anybody."""
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid


@pytest.fixture(autouse=True, scope="module")
def rank_travels_by_value():
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    config = ClusterConfig(mode="ray", deadline_s=120, hang_deadline_s=4, report_every_s=1)
    reports = []
    with start_cluster(config, tmp_path_factory.mktemp("logs"), reports.append) as cluster:
        cluster.reports = reports
        yield cluster


@pytest.fixture(scope="module")
def workers(cluster):
    return cluster.start_group("rollout worker", Rank, [{"number": 0}, {"number": 1}])


@pytest.fixture
def group(workers):
    """Two workers that live."""
    for member in range(2):
        try:
            workers.call(member, "work", 0)
        except ActorLostError:
            workers.restart(member)
    return workers


def test_a_dead_member_is_named_with_its_exit_status_and_the_end_of_its_log(cluster, group):
    pid = group.processes()[1].pid
    with pytest.raises(ActorLostError, match="rollout worker 1 died") as error:
        group.call(1, "die", "\n".join(f"line {i}" for i in range(50)), 7)
    assert (error.value.role, error.value.member) == ("rollout worker", 1)
    assert error.value.details["where"] == f"die, on {socket.gethostname()}, process {pid}"
    text = str(error.value).splitlines()
    assert text[-1].strip() == "and a word of my child"
    assert text[-2].strip() == "line 49"
    assert text[-21].strip().endswith("rollout-worker-1.log, its last lines:")
    if told_how_processes_end():
        assert error.value.details["found"] == "exit status 7"
    assert group.call(0, "work", 0) == 0


def test_a_member_that_is_lost_stays_lost_until_it_is_restarted(group):
    calls = [group.start(1, "die", "", -9), group.start(1, "work", 0)]
    for call in calls:
        with pytest.raises(ActorLostError, match="rollout worker 1 died"):
            group.result(call)
    with pytest.raises(ActorLostError, match="rollout worker 1 died"):
        group.start(1, "work", 0)
    group.restart(1)
    assert group.call(1, "work", 0) == 1
    with pytest.raises(ActorLostError):
        group.result(calls[1])


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_the_signal_that_killed_a_member_is_named(group, name):
    if not told_how_processes_end():
        pytest.skip("this kernel does not tell how a process ended to others than its parent")
    with pytest.raises(ActorLostError) as error:
        group.call(0, "die", "the end", -getattr(signal, name))
    assert error.value.details["found"] == f"killed by {name}"


def test_a_stopped_member_is_lost_at_the_hang_deadline_and_can_be_restarted(cluster, group):
    facts = group.processes()[1]
    cluster.phase, cluster.reports[:] = "generation", []
    call = group.start(1, "work", 1000)
    os.kill(facts.pid, signal.SIGSTOP)
    with pytest.raises(ActorLostError, match="rollout worker 1 is silent") as error:
        group.result(call)
    assert re.fullmatch(r"no sign of life for \d+ s; stopped \(SIGSTOP\)", error.value.details["found"])
    report = next(text for text in cluster.reports if "rollout worker 1" in text)
    assert report.startswith("the driver waits in generation for")
    assert re.search(rf"process {facts.pid}\): work since \d+ s, last sign of life \d+ s ago", report)
    assert "stopped (SIGSTOP)" in report
    group.restart(1)
    assert not lives(facts.pid)
    assert group.call(1, "work", 0) == 1


def test_a_member_that_works_is_not_silent(cluster, group):
    cluster.reports[:] = []
    assert group.call_each("work", [(6,), (0,)]) == [0, 1]
    assert len(cluster.reports) > 2
    report = cluster.reports[-1]
    assert "rollout worker 0" in report
    assert "rollout worker 1" not in report
    assert report.endswith(" work")


def test_a_member_that_is_lost_while_the_driver_waits_for_another_is_found(cluster, group):
    call = group.start(0, "work", 1000)
    os.kill(group.processes()[0].pid, signal.SIGSTOP)
    assert group.call(1, "work", 7) == 1
    assert group.wait([call], 0) == [call]
    with pytest.raises(ActorLostError, match="rollout worker 0 is silent"):
        group.result(call)


def test_the_dead_rank_is_blamed_and_not_the_one_that_noticed(cluster, tmp_path):
    meet = str(tmp_path / "meet")
    ranks = cluster.start_group("learner", Rank, [{"number": n, "meet": meet} for n in range(2)])
    ranks.call_all("join")
    call = ranks.start(0, "exchange")
    os.kill(ranks.processes()[1].pid, signal.SIGKILL)
    with pytest.raises(RlpostError, match="Connection closed by peer"):
        ranks.result(call)
    ranks.restart_all([{"number": n, "meet": meet + " again"} for n in range(2)])
    ranks.call_all("join")
    second = ranks.processes()[1].pid
    cluster.on_idle(lambda: os.kill(second, signal.SIGKILL) if lives(second) else None)
    with pytest.raises(ActorLostError, match="learner 1 died") as error:
        ranks.call_all("exchange")
    cluster.on_idle(None)
    assert error.value.member == 1
    ranks.close()


def test_what_a_killed_member_started_ends_too(group):
    child = group.call(0, "child")
    os.kill(group.processes()[0].pid, signal.SIGKILL)
    group.restart(0)
    end = time.monotonic() + 30
    while lives(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not lives(child)


def test_a_group_whose_members_cannot_be_made_says_why_and_leaves_nothing(cluster):
    with pytest.raises(RlpostError, match="learner 0 failed") as error:
        cluster.start_group("learner", Rank, [{"nonsense": 0}])
    assert "nonsense" in error.value.details["found"]
    assert error.value.details["where"].startswith("start, on ")


def test_a_lost_actor_survives_pickling():
    error = ActorLostError(
        "worker 1 died", role="worker", member=1, where="here", log="the log", tail=("a", "b")
    )
    again = pickle.loads(pickle.dumps(error))
    assert (again.role, again.member, str(again)) == ("worker", 1, str(error))
    assert str(again).splitlines()[-2:] == ["    a", "    b"]


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def told_how_processes_end():
    version = os.uname().release.split(".")
    return (int(version[0]), int(version[1])) >= (6, 15)
