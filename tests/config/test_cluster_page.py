"""docs/cluster.md says of keys, defaults, metrics and recipes what the code says."""

from __future__ import annotations

import re

import pytest

from rlpost.config.schema import RunConfig, StageConfig
from rlpost.config.yaml_text import parse_value
from rlpost.estimator import build_objective
from rlpost.monitor import METRICS
from rlpost.monitor.catalogue import undocumented

SECTIONS = {**RunConfig.model_fields, **StageConfig.model_fields}
GROUPS = {metric.name.partition("/")[0] for metric in METRICS if "/" in metric.name}


@pytest.fixture(scope="module")
def page(project_root):
    return (project_root / "docs/cluster.md").read_text()


def field(path):
    """The schema's field at a dotted path of a recipe."""
    first, *rest = path.split(".")
    info = SECTIONS[first]
    for name in rest:
        info = info.annotation.model_fields[name]
    return info


def test_every_key_on_the_page_is_a_key_of_a_recipe(page):
    keys = {
        name
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", page)
        if name.split(".")[0] in SECTIONS
    }
    assert {"cluster.hang_deadline_s", "rollout.vllm.tensor_parallel", "train.max_staleness"} <= keys
    for key in keys:
        assert field(key)


def test_every_deadline_in_the_table_has_the_schemas_default(page):
    rows = re.findall(r"^\| `([\w.]+)` \| (\d+) s \|", page, re.MULTILINE)
    assert len(rows) >= 7
    for key, seconds in rows:
        assert field(key).default == float(seconds), key


def test_every_metric_on_the_page_is_one_that_runs_emit(page):
    named = {n for n in re.findall(r"`([a-z]+/[\w*/]+)`", page) if n.partition("/")[0] in GROUPS}
    assert {"rollout/version_lag_max", "mismatch/ess", "weights/probe_gap"} <= named
    assert not undocumented(named)


def test_the_corrections_on_the_page_can_be_built_and_read_the_samplers_log_probs(page):
    parts = [parse_value(text) for text in re.findall(r"`correction: (\{.*?\})`", page)]
    algorithms = [parse_value(text) for text in re.findall(r"`algorithm: (\{.*?\})`", page)]
    assert parts and algorithms
    for algorithm in [*algorithms, *({"base": "grpo", "correction": part} for part in parts)]:
        objective = build_objective(algorithm, max_response_tokens=8)
        assert "behaviour_logprob" in objective.signals


def test_every_recipe_on_the_page_is_there(page, project_root):
    recipes = set(re.findall(r"configs/[\w./]+\.yaml", page))
    assert len(recipes) >= 4
    assert all((project_root / recipe).is_file() for recipe in recipes)
