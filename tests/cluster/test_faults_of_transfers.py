"""Weights that are damaged on their way in a real run: it stops within the step, and names the tensor."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec

import pytest
from fault_runs import WORKER, Faults, asked, column, recipe, tokens, write_recipe

from rlpost.cli import main
from rlpost.errors import WeightTransferError
from rlpost.training import train
from rlpost.weights import WeightBundle
from rlpost.weights.shared_tensors import SharedTensors

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(900),
]

NAME, TWIN = "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"
EVERY_STEP = "checkpoint={every: 1, keep: 30}"
ONE_WORKER = "rollout.workers=1"


def corrupted(bundle: WeightBundle) -> WeightBundle:
    """One bit of `NAME` changes in the learner's memory, after its checksum was computed."""
    place = next(place for place in bundle.tensors.places if place.name == NAME)
    file = os.open(bundle.tensors.region.path, os.O_RDWR)
    byte = os.pread(file, 1, place.offset + 5)[0]
    os.pwrite(file, bytes([byte ^ 1]), place.offset + 5)
    os.close(file)
    return bundle


def dropped(bundle: WeightBundle) -> WeightBundle:
    """`NAME` is not sent."""
    places = [place for place in bundle.tensors.places if place.name != NAME]
    checksums = {name: value for name, value in bundle.checksums.items() if name != NAME}
    return WeightBundle(bundle.version, SharedTensors(bundle.tensors.region, places), checksums)


def reordered(bundle: WeightBundle) -> WeightBundle:
    """`NAME` and `TWIN`, which have one shape, are sent in each other's place."""
    offsets = {place.name: place.offset for place in bundle.tensors.places}
    other = {NAME: TWIN, TWIN: NAME}
    places = [
        replace(place, offset=offsets[other.get(place.name, place.name)]) for place in bundle.tensors.places
    ]
    return replace(bundle, tensors=SharedTensors(bundle.tensors.region, places))


@pytest.fixture
def damage(monkeypatch):
    """`damage(version, how)`: the workers are sent that version, when it is next due, damaged in that way."""
    from rlpost.cluster.ray_group import RayGroup

    share, due = RayGroup.share, []

    def damaged(group, value):
        if group.role == WORKER and due and isinstance(value, WeightBundle) and value.version == due[0][0]:
            value = due.pop()[1](value)
        return share(group, value)

    monkeypatch.setattr(RayGroup, "share", damaged)
    yield lambda version, how: due.append((version, how))
    assert due == []


def assert_the_run_stopped_at(run, version: int) -> None:
    """Steps until that version are trained and kept; nothing was sampled with it."""
    assert column(run, "step") == list(range(1, version + 1))
    assert max(asked(run)) == version
    assert (run / "checkpoints" / "latest").read_text() == f"step-{version:06d}\n"
    assert not (run / "summary.json").exists()


def test_a_tensor_that_is_corrupted_dropped_or_exchanged_stops_the_run_which_resumes_to_the_same_result(
    tmp_path, monkeypatch, damage, capfd
):
    undisturbed = train(recipe(tmp_path, "cluster.mode=inline", ONE_WORKER), tmp_path / "undisturbed")
    config, run, faults = recipe(tmp_path, EVERY_STEP, ONE_WORKER), tmp_path / "run", Faults(monkeypatch)
    damage(5, corrupted)
    with pytest.raises(WeightTransferError, match=rf"{NAME}'.*\n.*engine 0\n.*checksum"):
        train(config, run)
    assert_the_run_stopped_at(run, 5)
    damage(9, dropped)
    with pytest.raises(WeightTransferError, match=NAME):
        train(config, run, resume=True)
    assert_the_run_stopped_at(run, 9)

    damage(14, reordered)
    command = ["rlpost", "train", str(write_recipe(tmp_path)), EVERY_STEP, ONE_WORKER]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(run), "--resume"])
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    last = capfd.readouterr().err.partition("error: ")[2]
    assert NAME in last and "engine 0" in last and "Traceback" not in last
    assert_the_run_stopped_at(run, 14)

    train(config, run, resume=True)
    assert json.loads((run / "summary.json").read_text())["steps"] == 20
    assert asked(run) == asked(undisturbed) and tokens(run) == tokens(undisturbed)
    assert column(run, "policy/loss") == pytest.approx(column(undisturbed, "policy/loss"), abs=1e-5)
    assert faults.scored == Counter(name for names in asked(undisturbed).values() for name in names)
    assert faults.left() == []


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_tensor_that_is_damaged_on_its_way_to_vllm_stops_the_run_which_goes_on_when_resumed(
    tmp_path, monkeypatch, damage
):
    options = (
        "rollout.engine=vllm",
        ONE_WORKER,
        "rollout.vllm={max_model_len: 64, kv_cache_gib: 0.1}",
        EVERY_STEP,
    )
    config, run, faults = recipe(tmp_path, *options), tmp_path / "run", Faults(monkeypatch)
    # A tensor that is not sent: tests/rollout/engine_contract.py, and above with the torch engine.
    for version, how in ((5, corrupted), (12, reordered)):
        damage(version, how)
        with pytest.raises(WeightTransferError, match=NAME):
            train(config, run, resume=version > 5)
        assert_the_run_stopped_at(run, version)
    assert faults.scored == Counter(name for names in asked(run).values() for name in names)
    assert len(faults.scored) == 12 * 16 and faults.left() == []
