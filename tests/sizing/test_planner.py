import pytest

from rlpost.config import load_config
from rlpost.errors import ConfigError
from rlpost.machine import memory_limit
from rlpost.sizing import describe, plan_memory

GIB = 2**30
EIGHT = ["machines.accelerators=8", "machines.accelerator_gib=80", "machines.memory_gib=1000"]
SHARED = ["machines.shared_memory_gib=100"]


def planned(project_root, name, *changes):
    config = load_config(project_root / "configs" / f"{name}.yaml", [*EIGHT, *SHARED, *changes])
    return plan_memory(config, hub=False)


def lines_of(role):
    return {line.what: line for line in role.lines}


def test_a_7b_on_eight_accelerators_by_hand(project_root):
    plan = planned(project_root, "qwen2.5_math_7b")
    parameters = 7_615_616_512
    learner = lines_of(plan.role("learner rank"))
    assert learner["weights"].bytes == 4 * parameters
    # Both flat tensors are multiples of 16 already.
    assert learner["gradients"].bytes == 4 * parameters // 8
    assert learner["optimizer"].bytes == 12 * parameters // 8
    # 1024 + 3000 tokens are read but for the last, and 4 of them fit into 16,384.
    assert "16,092 tokens" in learner["activations"].formula
    worker = lines_of(plan.role("rollout worker"))
    assert worker["weights"].bytes == 2 * parameters
    room = int(0.35 * 80 * GIB) - worker["weights"].bytes - worker["passes and graphs"].bytes
    assert worker["keys and values"].bytes == room
    # Evaluations have prompts of 1,096 tokens: sequences of all the model's positions.
    assert f"{room // (57_344 * 4096)} responses of 4,096 tokens" in worker["keys and values"].formula
    # Engines sleep while the learner works: what they hold does not count then.
    card = next(place for place in plan.places if place.kind == "accelerator")
    assert card.needed < plan.role("learner rank").peak("accelerator") + worker["keys and values"].bytes
    assert plan.verdict == "fits"
    assert all(place.remedies == () for place in plan.places)


def test_what_does_not_fit_has_remedies_with_numbers(project_root):
    plan = planned(project_root, "qwen2.5_math_7b", "machines.accelerator_gib=40")
    assert plan.verdict == "does not fit"
    short = [
        place for place in plan.places if place.verdict == "does not fit" and place.kind == "accelerator"
    ]
    told = {remedy.change: remedy for place in short for remedy in place.remedies}
    assert "learner.zero_stage=3" in told
    # 28.4 GiB of whole weights, less an eighth of them and the layers that are whole at the same time.
    assert 10 * GIB < told["learner.zero_stage=3"].saves < 28 * GIB
    text = describe(plan)
    assert "does not fit" in text and "try learner.zero_stage=3: " in text


def test_an_engine_whose_share_is_too_small_is_found(project_root):
    plan = planned(project_root, "qwen2.5_math_7b", "rollout.vllm.gpu_memory_utilization=0.15")
    share = next(place for place in plan.places if place.name.startswith("vLLM's share"))
    assert share.verdict == "does not fit"
    assert any(remedy.fits for remedy in share.remedies)


def test_every_rank_that_loads_the_model_counts_on_its_machine(project_root):
    plan = planned(project_root, "qwen2.5_math_7b", "machines.memory_gib=200")
    host = next(place for place in plan.places if place.kind == "host")
    assert host.moment == "load"
    assert host.needed > 8 * 4 * 7_615_616_512
    assert host.verdict == "does not fit"
    assert "learner.zero_stage=3" in [remedy.change for remedy in host.remedies]


def test_more_than_the_target_has_is_said(project_root):
    plan = planned(project_root, "qwen2.5_math_7b", "machines.accelerators=4")
    assert any("places 8 accelerators, and the target has 1 x 4" in note for note in plan.notes)


def test_what_nobody_says_of_machines_elsewhere_is_unknown_and_not_what_this_one_has(project_root):
    silent = ("machines.count=2", "machines.memory_gib=null", "machines.shared_memory_gib=null")
    plan = planned(project_root, "qwen2.5_math_7b", *silent)
    assert {place.verdict for place in plan.places if place.kind != "accelerator"} == {"unknown"}
    assert (
        plan.notes[1] == "what the machines have: from the section machines; unknown: memory, shared memory"
    )


def test_what_nobody_says_of_a_run_on_this_machine_is_what_this_one_has(project_root):
    config = load_config(
        project_root / "configs/quickstart.yaml", ["machines.accelerators=0", "data.limit=100"]
    )
    plan = plan_memory(config, hub=False)
    assert plan.places[0].limit == memory_limit()
    assert plan.notes[1] == (
        "what the machines have: from the section machines and this machine (memory, shared memory)"
    )


def test_an_adapter_takes_little_beside_its_frozen_model(project_root):
    plan = planned(project_root, "qwen2.5_7b_lora")
    learner = lines_of(plan.role("first learner rank"))
    assert learner["weights"].bytes == 4 * (7_615_616_512 + 80_740_352)
    assert learner["gradients"].bytes == 4 * 80_740_352
    assert learner["optimizer"].bytes == 8 * 80_740_352


def test_an_engine_may_be_given_a_part_of_a_gibibyte(project_root):
    changes = ["machines.accelerators=0", "rollout.vllm.kv_cache_gib=0.0625"]
    plan = plan_memory(load_config(project_root / "configs/quickstart_cluster.yaml", changes), hub=False)
    assert lines_of(plan.role("rollout worker"))["keys and values"].bytes == 2**26


def test_without_accelerators_all_is_host_memory(project_root):
    changes = ["machines.accelerators=0", "machines.memory_gib=8", "data.limit=100", "evaluation.problems=10"]
    plan = plan_memory(load_config(project_root / "configs/quickstart.yaml", changes), hub=False)
    assert {place.kind for place in plan.places} == {"host"}
    # The task's prompts have 6 tokens, whatever data.max_prompt_tokens allows: 512 rows of 6 + 8.
    assert "6,656 tokens" in lines_of(plan.role("first learner rank"))["activations"].formula


def test_a_model_without_configuration_stops_the_plan(project_root):
    config = load_config(project_root / "configs/quickstart.yaml", ["model.init=nobody/unknown"])
    with pytest.raises(ConfigError, match="memory cannot be planned"):
        plan_memory(config, hub=False)
