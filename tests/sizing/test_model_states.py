import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import FAMILIES, build

from rlpost.config.schema import ModelConfig
from rlpost.sizing.model_facts import Parameter, facts_of
from rlpost.sizing.model_states import deepspeed_estimate, model_states, own_part

PARAMETERS = (Parameter(100, vector=False), Parameter(31, vector=False), Parameter(7, vector=True))


def test_states_by_hand():
    whole = model_states(PARAMETERS, 0, 2)
    assert (whole.weights, whole.gradients, whole.optimizer) == (4 * 138, 4 * 138, 8 * 138)
    # Flat tensors are multiples of 2 x ranks: 131 -> 132, 7 -> 8, so a rank has 70 of 140.
    one, two = model_states(PARAMETERS, 1, 2), model_states(PARAMETERS, 2, 2)
    assert (one.weights, one.gradients, one.optimizer) == (4 * 140, 4 * 138, 12 * 70)
    assert (two.weights, two.gradients, two.optimizer) == (4 * 140, 4 * 70, 12 * 70)
    # Each tensor is divided: 50 + 16 + 4.
    three = model_states(PARAMETERS, 3, 2)
    assert (three.weights, three.gradients, three.optimizer) == (4 * 70, 4 * 70, 12 * 70)
    assert [own_part(PARAMETERS, stage, 2) for stage in range(4)] == [138, 70, 70, 70]


def test_what_is_frozen_has_neither_gradient_nor_optimizer_state():
    parameters = (Parameter(1000, vector=False, trained=False), Parameter(64, vector=False))
    found = model_states(parameters, 2, 4)
    assert (found.weights, found.gradients, found.optimizer) == (4 * 1064, 4 * 16, 12 * 16)
    assert model_states(parameters, 3, 4).weights == 4 * (250 + 16)


def test_estimators_know_two_stages():
    with pytest.raises(ValueError, match="stages 2 and 3, found 1"):
        deepspeed_estimate(10, 5, stage=1)


@pytest.mark.cluster
@pytest.mark.slow
def test_six_families_come_to_what_deepspeeds_estimators_say(monkeypatch):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    for family in FAMILIES:
        model = build(family)
        facts = facts_of(model, ModelConfig(init=family), "")
        total, largest = stage3.model_to_params(model)
        assert (facts.total, facts.largest_module) == (total, largest), family
        assert stage_1_and_2.model_to_params(model) == facts.total
        for ranks, machines in ((1, 1), (8, 1), (3, 5), (8, 2)):
            arguments = {"ranks_per_machine": ranks, "machines": machines}
            for offload in (False, True):
                theirs = stage_1_and_2.estimate_zero2_model_states_mem_needs(total, ranks, machines, offload)
                ours = deepspeed_estimate(total, largest, stage=2, offload_optimizer=offload, **arguments)
                assert (ours.host, ours.accelerator) == theirs, family
            for offload, parameters in ((False, False), (True, False), (True, True)):
                theirs = stage3.estimate_zero3_model_states_mem_needs(
                    total, largest, ranks, machines, offload, parameters
                )
                ours = deepspeed_estimate(
                    total,
                    largest,
                    stage=3,
                    offload_optimizer=offload,
                    offload_parameters=parameters,
                    **arguments,
                )
                assert (ours.host, ours.accelerator) == theirs[:2], family


@pytest.mark.cluster
@pytest.mark.slow
def test_two_ranks_hold_what_is_planned_byte_for_byte(tmp_path, project_root):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    families, here = ["qwen2", "qwen3_moe"], Path(__file__).parent
    paths = os.pathsep.join([str(project_root), str(here)])
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(here / "zero_bytes_process.py")]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path), *families],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(outputs)
    for rank in range(2):
        found = json.loads((tmp_path / f"states-{rank}.json").read_text())
        for family in families:
            parameters = facts_of(build(family, "meta"), ModelConfig(init=family), "").parameters
            for stage in range(4):
                assert found[family][stage] == vars(model_states(parameters, stage, 2)), (family, stage)
