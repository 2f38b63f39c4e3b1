"""Every recipe that ships can be looked at without a network, and needs what its first lines say."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rlpost.cli import app
from rlpost.cluster.placement import bundles
from rlpost.config import load_config
from rlpost.config.dependent import probe_tolerance
from rlpost.config.explain.runtime import accelerators
from rlpost.rollout.task import sampling_settings

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("arms"))
REAL_MODELS = [
    "qwen3_4b",
    "qwen2.5_math_7b",
    "qwen2.5_math_7b_hpt",
    "qwen2.5_32b",
    "qwen2.5_7b_search_st_ppo",
    "qwen3_30b_pivotrl",
    "qwen3_4b_pope",
]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a recipe was looked at, and something was connected to")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_passes_a_dry_run_and_explain(path, tmp_path):
    dry = CliRunner().invoke(app, ["train", str(path), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    plan = CliRunner().invoke(app, ["explain", str(path)])
    assert plan.exit_code == 0, plan.output
    assert plan.output.startswith(f"run `{yaml.safe_load(path.read_text())['name']}`")
    (tmp_path / "resolved.yaml").write_text(dry.output)
    assert load_config(tmp_path / "resolved.yaml") == load_config(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_as_its_file_and_says_how_it_is_started(path):
    text, place = path.read_text(), path.relative_to(CONFIGS)
    assert load_config(path).name == "-".join(place.with_suffix("").parts)
    assert text.startswith("# ")
    assert re.search(rf"^#   rlpost train configs/{re.escape(str(place))}", text, re.MULTILINE)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_plan_counts_the_accelerators_that_will_be_reserved(path):
    config = load_config(path)
    assert accelerators(config) == sum(bundle.size for bundle in bundles(config))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_in_bfloat16_does_not_ask_its_probes_for_the_precision_of_float32(path):
    config = load_config(path)
    assert probe_tolerance(config) == (1e-3 if config.model.dtype == "float32" else 0.5)


@pytest.mark.parametrize("name", [*REAL_MODELS, "qwen2.5_7b_lora"])
def test_a_real_models_recipe_counts_its_gpus_right(name):
    path = CONFIGS / f"{name}.yaml"
    head = " ".join(line[2:] for line in path.read_text().splitlines()[:2])
    machines = int(found[1]) if (found := re.search(r"on (\d+) machines", head)) else 1
    per_machine = int(re.search(r"with (\d+) GPUs", head)[1])
    assert accelerators(load_config(path)) == machines * per_machine


@pytest.mark.parametrize("name", REAL_MODELS)
def test_a_real_models_recipe_trains_in_bfloat16_and_saves_memory(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.model.dtype == "bfloat16" and config.model.gradient_checkpointing
    assert config.learner.backend == "deepspeed"
    assert config.stages[0].train.max_staleness == (0 if config.cluster.placement == "colocated" else 1)
    assert all(stage.rollout.engine == "vllm" for stage in config.stages)


def test_the_quickstart_on_a_cluster_is_the_quickstart():
    plain, cluster = (load_config(CONFIGS / f"{n}.yaml") for n in ("quickstart", "quickstart_cluster"))
    assert plain.model == cluster.model and plain.evaluation == cluster.evaluation
    for ours, theirs in zip(plain.stages, cluster.stages, strict=True):
        assert (ours.data, ours.rewards, ours.algorithm) == (theirs.data, theirs.rewards, theirs.algorithm)
        assert ours.train == theirs.train
        assert sampling_settings(ours.rollout) == sampling_settings(theirs.rollout)
    assert (cluster.cluster.mode, cluster.cluster.learner_ranks) == ("ray", 2)
    assert cluster.learner.backend == "deepspeed" and cluster.stages[1].rollout.engine == "vllm"
