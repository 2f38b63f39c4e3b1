import os
import sys
import time
from pathlib import Path

import pytest
import torch

from rlpost.cluster import LEARNER, start_cluster
from rlpost.config.schema import ClusterConfig, DataConfig, ModelConfig, RunConfig, StageConfig
from rlpost.errors import DeadlineError, NonFiniteError, RlpostError


class Counter:
    """A member that counts, and misbehaves on demand."""

    def __init__(self, start):
        self.value = start

    def add(self, amount):
        self.value += amount
        return self.value

    def set(self, value):
        self.value = value

    CONCURRENT = frozenset({"look"})

    def look(self):
        return self.value

    def process(self):
        return os.getpid()

    def fail(self):
        raise NonFiniteError("the loss is nan", where="step 3", remedy="look at the batch")

    def misuse(self):
        return {}["no such key"]

    def leave(self):
        sys.exit(3)

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds


@pytest.fixture(autouse=True, scope="module")
def counter_travels_by_value():
    """Ray workers cannot import this file."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", params=["inline", pytest.param("ray", marks=pytest.mark.cluster)])
def cluster(request):
    with start_cluster(ClusterConfig(mode=request.param, deadline_s=60)) as cluster:
        cluster.counters = cluster.start_group("counter", Counter, [{"start": 0}, {"start": 10}])
        yield cluster


@pytest.fixture
def group(cluster):
    """Two counters, at 0 and 10 again."""
    cluster.counters.call_each("set", [(0,), (10,)])
    return cluster.counters


def test_members_keep_their_own_state_and_answer_in_order(group):
    assert group.size == 2
    assert group.call_all("add", 1) == [1, 11]
    assert group.call_each("add", [(1,), (2,)]) == [2, 13]
    assert group.call(1, "add", 0) == 13


def test_an_error_of_ours_arrives_as_it_was_raised(group):
    with pytest.raises(NonFiniteError) as error:
        group.call(0, "fail")
    assert error.value.details["where"] == "step 3"
    assert error.value.exit_status == 1
    assert group.call(0, "add", 1) == 1
    with pytest.raises(NonFiniteError):
        group.call_all("fail")
    assert group.call_all("add", 1) == [2, 11]


def test_calls_that_are_started_run_in_order_and_answer_when_asked(group):
    calls = [group.start(1, "add", amount) for amount in (1, 2, 3)]
    waiting = list(calls)
    while waiting:
        over = group.wait(waiting, 60)
        assert over
        waiting = [call for call in waiting if call not in over]
    assert [group.result(call) for call in calls] == [11, 13, 16]
    assert group.result(calls[0]) == 11
    assert [(call.role, call.member, call.method) for call in calls[:1]] == [("counter", 1, "add")]


def test_a_failed_call_is_over_and_its_result_raises(group):
    failed, fine = group.start(0, "fail"), group.start(0, "add", 1)
    assert group.result(fine) == 1
    assert group.wait([failed], 0) == [failed]
    with pytest.raises(NonFiniteError):
        group.result(failed)
    with pytest.raises(NonFiniteError):
        group.result(failed)


def test_a_shared_value_is_an_argument_of_many_calls(group):
    amount = group.share(5)
    assert group.call_each("add", [(amount,), (amount,)]) == [5, 15]
    assert group.call_all("add", amount) == [10, 20]
    assert group.result(group.start(0, "add", amount)) == 15


def test_a_restarted_member_is_as_new_and_the_others_keep_their_state(group):
    group.call_all("add", 1)
    group.restart(1)
    assert group.call_all("add", 0) == [1, 10]


def test_a_restarted_group_may_have_new_arguments(group):
    group.restart_all([{"start": 5}, {"start": 6}])
    assert group.call_all("add", 1) == [6, 7]
    group.restart(0)
    assert group.call_all("add", 0) == [5, 7]
    group.restart_all([{"start": 0}, {"start": 10}])


def test_every_member_says_where_it_lives(group):
    facts = group.processes()
    assert [(f.role, f.member) for f in facts] == [("counter", 0), ("counter", 1)]
    assert [f.pid for f in facts] == group.call_all("process")


def test_arguments_for_another_number_of_members_are_refused(group):
    with pytest.raises(ValueError, match="arguments for 1 members in a group of 2"):
        group.call_each("add", [(1,)])
    with pytest.raises(ValueError, match="arguments for 3 members in a group of 2"):
        group.restart_all([{"start": 0}] * 3)
    assert group.call_all("add", 0) == [0, 10]


def test_nothing_is_reserved_where_there_are_no_accelerators(cluster):
    if torch.cuda.is_available():
        pytest.skip("this machine has accelerators")
    stage = StageConfig(name="only", data=DataConfig(task="addition"), algorithm={"base": "grpo"})
    cluster.reserve(RunConfig(model=ModelConfig(init="tiny"), stages=[stage], cluster=cluster.config))
    learner = cluster.start_group(LEARNER, Counter, [{"start": 3}])
    assert learner.call(0, "add", 1) == 4
    learner.close()


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_another_error_becomes_one_of_ours_that_says_who_and_where(group):
    pid = group.call(1, "process")
    with pytest.raises(RlpostError, match="counter 1 failed") as error:
        group.call(1, "misuse")
    assert error.value.details["found"] == "KeyError: 'no such key'"
    assert f"process {pid}" in error.value.details["where"]
    assert 'return {}["no such key"]' in str(error.value.__cause__)
    with pytest.raises(RlpostError, match="SystemExit: 3"):
        group.call(1, "leave")
    assert group.call(1, "add", 1) == 11


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_the_driver_does_not_wait_for_a_call_that_it_starts(group):
    slow = group.start(0, "sleep", 1.0)
    assert group.wait([slow], 0) == []
    assert group.wait([slow, quick := group.start(1, "add", 0)], 60) == [quick]
    assert group.result(slow) == 1.0


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_the_idle_callback_runs_while_the_driver_waits_and_never_within_itself(cluster, group):
    answers, depth = [], []

    def pump():
        depth.append(1)
        assert len(depth) == 1
        answers.append(group.call(1, "sleep", 0.2))
        depth.pop()

    cluster.on_idle(pump)
    group.call(0, "sleep", 1.0)
    cluster.on_idle(None)
    assert len(answers) >= 2
    count = len(answers)
    group.call(0, "sleep", 0.2)
    assert len(answers) == count


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_what_the_idle_callback_raises_ends_the_wait(cluster, group):
    def refuse():
        raise NonFiniteError("enough")

    cluster.on_idle(refuse)
    with pytest.raises(NonFiniteError, match="enough"):
        group.call(0, "sleep", 5)
    cluster.on_idle(None)


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_a_member_shows_its_stacks_while_it_works(group):
    call = group.start(0, "sleep", 1.0)
    while "in sleep" not in (text := group.stacks(0)):
        assert not group.wait([call], 0)
    assert "time.sleep(seconds)" in text


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_ray_members_are_processes_of_their_own_and_end_with_the_group(cluster):
    group = cluster.start_group("short-lived", Counter, [{"start": 0}, {"start": 0}])
    processes = group.call_all("process")
    assert len({os.getpid(), *processes}) == 3
    group.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_a_call_past_the_deadline_says_who_waits_for_whom(cluster, group):
    group.deadline_s = 1
    cluster.phase = "step 3, update"
    with pytest.raises(DeadlineError, match="counter 1 did not answer in time") as error:
        group.call_each("sleep", [(0,), (30,)])
    text = str(error.value)
    assert "no answer after 1 s; the driver waits in step 3, update for" in text
    assert f"process {group.processes()[1].pid}): sleep since 1 s" in text
    group.deadline_s = 60
