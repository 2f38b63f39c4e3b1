"""Every recipe that ships can be looked at without a network, and needs what its first lines say."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rlpost.cli import app
from rlpost.cluster.placement import bundles
from rlpost.config import explain, load_config
from rlpost.config.dependent import probe_tolerance
from rlpost.config.explain.runtime import accelerators
from rlpost.rollout.task import sampling_settings
from rlpost.scoring.reference import resolve

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("arms"))
# Of each paper: recipe, row, prompts x samples in updates, steps, learning rate, prompt and response tokens.
PAPERS = {
    "ACE": ("qwen2.5_math_7b_ace", "grpo", (128, 16, 4), 400, 1e-6, (1024, 3072)),
    "D3S": ("qwen2.5_math_7b_d3s", "d3s", (128, 8, 4), 300, 1e-6, (1024, 3072)),
    "DAPO": ("qwen2.5_32b", "dapo", (512, 16, 16), 400, 1e-6, (2048, 20480)),
    "DCPO": ("qwen2.5_math_7b_dcpo", "dcpo", (512, 16, 16), 400, 1e-6, (1024, 3072)),
    "Dr. GRPO": ("qwen2.5_math_7b", "dr_grpo", (128, 8, 8), 1331, 1e-6, (1024, 3000)),
    "GSPO": ("qwen3_30b_gspo", "gspo", (256, 16, 4), 500, 1e-6, (2048, 8192)),
    "HPT": ("qwen2.5_math_7b_hpt", "hpt", (128, 8, 16), 500, 5e-6, (1024, 8192)),
    "OTR": ("qwen2.5_7b_otr", "otr", (128, 1, 1), 600, 1e-5, (1024, 8192)),
    "PivotRL": ("qwen3_30b_pivotrl", "pivotrl", (64, 16, 1), 360, 1e-6, (24576, 8192)),
    "ST-PPO": ("qwen2.5_7b_search_st_ppo", "st_ppo", (512, 1, 2), 500, 1e-6, (2048, 500)),
}
# What sets each algorithm apart, as `rlpost explain` writes it.
FORMULAS = {
    "ACE": ["A_i (1 + 1 (softplus(c_i))) where A_i < 0", "(A>0 and rho>1.2) or (A<0 and rho<0.8)"],
    "D3S": ["argmax Var(A) over 25 % -> 100 % of the batch; top 20 % -> 100 % of its tokens by |A| H"],
    "DAPO": [
        "(A>0 and rho>1.28) or (A<0 and rho<0.8)",
        "L = 20480, c = L/5",
        "groups with max(R) > min(R), refilled",
    ],
    "DCPO": ["min((1+sqrt(1+0.8/q))/2, 10)", "(1+sqrt(max(1-0.64/q, 0)))/2", "sum_i (1/n_i) sum_t L"],
    "Dr. GRPO": ["A_i = R_i - mean(R)", "C = 3000"],
    "GSPO": ["(A>0 and rho>1.0004) or (A<0 and rho<0.9997)", "rho_i = exp(mean_t log(pi_t / pi_den,t))"],
    "HPT": ["1 if P > 0", "1 if P <= 0", "C = 8192", "- 0.001 agg(H_t)"],
    "OTR": ["softmax(z/1.3), K = 256, R = 1 if a = x_t else -0.1"],
    "PivotRL": ["A_i = R_i - mean(R_j, j != i)", "(A>0 and rho>1.2) or (A<0 and rho<0.8)"],
    "ST-PPO": ["V_t+1 - V_t + A'_t+1", "over the tokens of turn k", "g / max(1, ||C||)", "+ 0.001 agg(k3"],
}
OTHERS = ["qwen3_4b", "qwen3_4b_pope"]
REAL_MODELS = [recipe for recipe, *_ in PAPERS.values()] + OTHERS


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


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_recipe_has_its_algorithm_at_its_sizes(paper):
    recipe, base, sizes, steps, rate, tokens = PAPERS[paper]
    config = load_config(CONFIGS / f"{recipe}.yaml")
    [stage] = config.stages
    train = stage.train
    assert stage.algorithm["base"] == base
    assert (train.prompts_per_step, train.samples_per_prompt, train.updates_per_step) == sizes
    assert (train.steps, train.learning_rate) == (steps, rate)
    assert (stage.data.max_prompt_tokens, stage.rollout.max_response_tokens) == tokens
    plan = " ".join(explain(config).split())
    assert [formula for formula in FORMULAS[paper] if formula not in plan] == []


@pytest.mark.parametrize("name", [*REAL_MODELS, "qwen2.5_7b_lora"])
def test_the_machines_of_a_real_models_recipe_have_the_accelerators_that_it_reserves(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    machines = config.machines
    assert accelerators(config) == machines.count * machines.accelerators
    assert machines.accelerator_gib == 80


def test_the_quickstart_on_a_cluster_is_the_quickstart():
    plain, cluster = (load_config(CONFIGS / f"{n}.yaml") for n in ("quickstart", "quickstart_cluster"))
    assert plain.model == cluster.model and plain.evaluation == cluster.evaluation
    for ours, theirs in zip(plain.stages, cluster.stages, strict=True):
        assert (ours.data, ours.rewards, ours.algorithm) == (theirs.data, theirs.rewards, theirs.algorithm)
        assert ours.train == theirs.train
        assert sampling_settings(ours.rollout) == sampling_settings(theirs.rollout)
    assert (cluster.cluster.mode, cluster.cluster.learner_ranks) == ("ray", 2)
    assert cluster.learner.backend == "deepspeed" and cluster.stages[1].rollout.engine == "vllm"


def test_the_reward_of_dcpo_is_minus_one_without_a_box():
    module, reward = resolve(str(CONFIGS / "rewards/boxed_math.py"))
    cases = module.selfcheck()
    assert [reward(**arguments)["score"] for arguments, _ in cases] == [1.0, 0.0, -1.0, -1.0, -1.0]
    assert [score for _, score in cases] == [1.0, 0.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("name", [*REAL_MODELS, "qwen2.5_7b_lora"])
def test_a_real_models_recipe_passes_the_check_without_a_hub_and_fits_its_machines(name, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    checked = CliRunner().invoke(app, ["check", f"configs/{name}.yaml", "--no-hub", "--json"])
    assert checked.exit_code == 0, checked.output
    report = json.loads(checked.output)
    assert report["ok"] and len(report["findings"]) >= 8 and report["memory"]
