import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlpost.cluster import start_cluster
from rlpost.config.schema import ClusterConfig
from rlpost.errors import DeadlineError, NonFiniteError, RlpostError


class Counter:
    """A member that counts, and misbehaves on demand."""

    def __init__(self, start):
        self.value = start

    def add(self, amount):
        self.value += amount
        return self.value

    def process(self):
        return os.getpid()

    def fail(self):
        raise NonFiniteError("the loss is nan", where="step 3", remedy="look at the batch")

    def exit(self):
        os._exit(7)

    def sleep(self, seconds):
        time.sleep(seconds)


@pytest.fixture(autouse=True, scope="module")
def counter_travels_by_value():
    """Ray workers cannot import this file."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", params=["inline", pytest.param("ray", marks=pytest.mark.cluster)])
def cluster(request):
    with start_cluster(ClusterConfig(mode=request.param, deadline_s=60)) as cluster:
        yield cluster


def test_members_keep_their_own_state_and_answer_in_order(cluster):
    group = cluster.start_group("counter", Counter, [{"start": 0}, {"start": 10}, {"start": 20}])
    assert group.size == 3
    assert group.call_all("add", 1) == [1, 11, 21]
    assert group.call_each("add", [(1,), (2,), (3,)]) == [2, 13, 24]
    assert group.call(1, "add", 0) == 13
    group.close()


def test_an_error_of_ours_arrives_as_it_was_raised(cluster):
    group = cluster.start_group("counter", Counter, [{"start": 0}])
    with pytest.raises(NonFiniteError) as error:
        group.call(0, "fail")
    assert error.value.details["where"] == "step 3"
    assert error.value.exit_status == 1
    assert group.call(0, "add", 1) == 1
    group.close()


@pytest.mark.cluster
def test_ray_members_are_processes_of_their_own_and_end_with_the_group():
    with start_cluster(ClusterConfig(mode="ray", deadline_s=60)) as cluster:
        group = cluster.start_group("counter", Counter, [{"start": 0}, {"start": 0}])
        processes = group.call_all("process")
        assert len({os.getpid(), *processes}) == 3
        group.close()
        deadline = time.monotonic() + 10
        while any(_alive(pid) for pid in processes):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.cluster
def test_a_cluster_that_we_start_is_bound_to_loopback():
    script = """
from rlpost.cluster import start_cluster
from rlpost.config.schema import ClusterConfig
with start_cluster(ClusterConfig(mode="ray")):
    import ray
    print(ray.util.get_node_ip_address())
"""
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.split() == ["127.0.0.1"]


@pytest.mark.cluster
def test_a_dead_member_is_named_with_the_call_that_found_it():
    with start_cluster(ClusterConfig(mode="ray", deadline_s=60)) as cluster:
        group = cluster.start_group("rollout worker", Counter, [{"start": 0}, {"start": 0}])
        with pytest.raises(RlpostError, match="rollout worker 1 died") as error:
            group.call(1, "exit")
        assert error.value.details["where"].startswith("exit, on ")


@pytest.mark.cluster
def test_a_member_that_hangs_is_named_at_the_deadline():
    with start_cluster(ClusterConfig(mode="ray", deadline_s=1)) as cluster:
        group = cluster.start_group("learner", Counter, [{"start": 0}, {"start": 0}])
        with pytest.raises(DeadlineError, match="learner 1 did not answer in time"):
            group.call_each("sleep", [(0,), (30,)])


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
