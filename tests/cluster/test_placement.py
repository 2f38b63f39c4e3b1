"""Who gets which accelerators: the plan as arithmetic, and Ray doing as it says."""

import os
import sys
import time

import pytest

from rlpost.cluster import LEARNER, WORKER, start_cluster
from rlpost.cluster.placement import Bundle, Node, bundles, plan, refusal, spread
from rlpost.config.schema import (
    ClusterConfig,
    DataConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    StageConfig,
    VLLMConfig,
)
from rlpost.errors import ConfigError


def run_config(ranks, workers, tensor_parallel=1, placement="split", engine="vllm", source="rollouts"):
    rollout = RolloutConfig(engine=engine, workers=workers, vllm=VLLMConfig(tensor_parallel=tensor_parallel))
    stage = StageConfig(
        name="only",
        source=source,
        data=DataConfig(task="addition"),
        rollout=rollout,
        algorithm={"base": "grpo"},
    )
    return RunConfig(
        model=ModelConfig(init="tiny"),
        stages=[stage],
        cluster=ClusterConfig(mode="ray", learner_ranks=ranks, placement=placement),
    )


def machines(count, accelerators=8):
    return [Node(f"node-{i}", accelerators, accelerators) for i in range(count)]


def by_node(chosen):
    """For each node, the members that sit on it."""
    table = {}
    for bundle, node in zip(chosen.bundles, chosen.nodes, strict=True):
        for role, member, *_ in bundle.seats:
            table.setdefault(node, []).append(f"{'L' if role == LEARNER else 'W'}{member}")
    return table


def test_split_on_one_machine_of_eight_gives_everybody_accelerators_of_their_own():
    needed = bundles(run_config(ranks=4, workers=2, tensor_parallel=2))
    assert needed == (
        *(Bundle(1, ((LEARNER, rank, 0, 1),)) for rank in range(4)),
        Bundle(2, ((WORKER, 0, 0, 2),)),
        Bundle(2, ((WORKER, 1, 0, 2),)),
    )
    assert by_node(plan(needed, machines(1))) == {0: ["L0", "L1", "L2", "L3", "W0", "W1"]}


def test_split_on_four_machines_of_eight_packs_the_ranks_and_keeps_each_worker_on_one_machine():
    chosen = plan(bundles(run_config(ranks=12, workers=5, tensor_parallel=4)), machines(4))
    assert by_node(chosen) == {
        0: ["L0", "L1", "L2", "L3", "L4", "L5", "L6", "L7"],
        1: ["L8", "L9", "L10", "L11", "W0"],
        2: ["W1", "W2"],
        3: ["W3", "W4"],
    }


def test_a_worker_is_never_cut_over_two_machines():
    needed = bundles(run_config(ranks=6, workers=2, tensor_parallel=4))
    assert plan(needed, machines(2, 7)) is None
    assert by_node(plan(needed, machines(2))) == {0: ["L0", "L1", "L2", "L3", "L4", "L5"], 1: ["W0", "W1"]}


def test_a_small_bundle_fills_the_gap_that_a_large_one_left():
    chosen = plan(bundles(run_config(ranks=6, workers=3, tensor_parallel=4)), machines(3))
    assert chosen.nodes == (0, 0, 0, 0, 0, 0, 1, 1, 2)
    needed = (Bundle(3, ()), Bundle(2, ()), Bundle(1, ()))
    assert plan(needed, machines(2, 4)).nodes == (0, 1, 0)


def test_colocated_ranks_and_workers_see_the_same_accelerators():
    assert bundles(run_config(ranks=8, workers=4, tensor_parallel=2, placement="colocated")) == tuple(
        Bundle(2, ((LEARNER, 2 * i, 0, 1), (LEARNER, 2 * i + 1, 1, 1), (WORKER, i, 0, 2))) for i in range(4)
    )


def test_colocated_bundles_cover_whichever_side_needs_more():
    more_ranks = bundles(run_config(ranks=3, workers=1, tensor_parallel=2, placement="colocated"))
    assert more_ranks == (
        Bundle(2, ((LEARNER, 0, 0, 1), (LEARNER, 1, 1, 1), (WORKER, 0, 0, 2))),
        Bundle(1, ((LEARNER, 2, 0, 1),)),
    )
    more_workers = bundles(run_config(ranks=1, workers=2, tensor_parallel=2, placement="colocated"))
    assert more_workers == (
        Bundle(2, ((LEARNER, 0, 0, 1), (WORKER, 0, 0, 2))),
        Bundle(2, ((WORKER, 1, 0, 2),)),
    )


def test_the_torch_engine_takes_one_accelerator_whatever_vllm_is_told():
    needed = bundles(run_config(ranks=1, workers=1, tensor_parallel=4, engine="torch"))
    assert [bundle.size for bundle in needed] == [1, 1]


def test_accelerators_in_use_are_not_planned_with():
    needed = bundles(run_config(ranks=1, workers=1))
    assert plan(needed, [Node("a", 1, 8), Node("b", 0, 8), Node("c", 2, 8)]).nodes == (0, 2)


def test_the_refusal_is_a_table_of_what_is_needed_and_what_is_there():
    needed = bundles(run_config(ranks=8, workers=2, tensor_parallel=4))
    error = refusal(needed, [Node("head", 0, 0), Node("worker-1", 3, 8)], 300)
    assert error.details["needed"].splitlines() == [
        "16 accelerators",
        "       8 x 1 on one machine, for learners",
        "       2 x 4 on one machine, for rollout workers",
    ]
    assert error.details["found"].splitlines() == [
        "3 free accelerators after 300 s",
        "    head      0 of 0 free",
        "    worker-1  3 of 8 free",
    ]
    shared = bundles(run_config(ranks=8, workers=4, tensor_parallel=2, placement="colocated"))
    assert (
        "4 x 2 on one machine, for learners and rollout workers" in refusal(shared, [], 0).details["needed"]
    )


def test_seats_without_accelerators_go_to_all_machines_by_their_cpus():
    assert spread(4, [Node("a", 0, 0, 2), Node("b", 0, 0, 2), Node("c", 0, 0, 2)], [0, 0, 0]) == [0, 1, 2, 0]
    assert spread(3, [Node("big", 0, 0, 8), Node("small", 0, 0, 4)], [0, 0]) == [0, 0, 1]
    assert spread(2, [Node("head", 0, 0, 0), Node("b", 0, 0, 1), Node("c", 0, 0, 1)], [0, 1, 0]) == [2, 1]
    assert spread(2, [Node("a", 0, 0, 0), Node("b", 0, 0, 0)], [0, 0]) == [0, 1]


class Looker:
    """Says which accelerators it may see."""

    def sees(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.fixture(scope="module")
def cluster():
    """Ray believes what it is told of a machine's accelerators: here that there are four."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        num_cpus=1, num_gpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1"
    )
    with start_cluster(ClusterConfig(mode="ray", deadline_s=120)) as cluster:
        yield cluster


@pytest.mark.cluster
def test_a_run_waits_for_accelerators_in_use_and_is_refused_after_the_deadline(cluster):
    from rlpost.cluster import ray_placement
    from rlpost.cluster.ray_nodes import nodes_by_id

    others = ray_placement.reserve(bundles(run_config(ranks=1, workers=2)), 60)
    needed = bundles(run_config(ranks=2, workers=1, tensor_parallel=2))
    with pytest.raises(ConfigError, match="1 free accelerators"):
        ray_placement.reserve(needed, 0)
    ours = ray_placement.reserve(needed, 60, others.release)
    assert sorted(ours.slots) == [(LEARNER, 0), (LEARNER, 1), (WORKER, 0)]
    seen = [identity for slot in ours.slots.values() for identity in slot.accelerators]
    assert sorted(seen) == ["0", "1", "2", "3"]
    assert [node.free for _, node in nodes_by_id()] == [0]
    ours.release()
    while [node.free for _, node in nodes_by_id()] != [4]:
        time.sleep(0.1)


@pytest.mark.cluster
def test_colocated_members_are_shown_the_same_accelerators_also_after_a_restart(cluster):
    cluster.reserve(run_config(ranks=3, workers=2, tensor_parallel=2, placement="colocated"))
    ranks = cluster.start_group(LEARNER, Looker, [{}] * 3)
    workers = cluster.start_group(WORKER, Looker, [{}] * 2)
    seen = ranks.call_all("sees")
    assert len(set(seen)) == 3
    first, second = (text.split(",") for text in workers.call_all("sees"))
    assert sorted(first + second) == ["0", "1", "2", "3"]
    assert first == seen[:2]
    assert second[0] == seen[2]
    workers.restart(1)
    assert workers.call(1, "sees").split(",") == second
