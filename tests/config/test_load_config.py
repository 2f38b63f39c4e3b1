"""From YAML and overrides to a RunConfig, and back."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.config import dump_config, load_config
from rlpost.config.schema import RunConfig
from rlpost.config.yaml_text import dump, parse_value, read_document
from rlpost.errors import ConfigError

ONE_STAGE = """
model: {init: tiny}
data: {task: addition}
rewards: exact_match
algorithm: grpo
train: {steps: 7, learning_rate: 2e-4}
"""

TWO_STAGES = """
model: {init: tiny}
data:
  task: addition
  demonstration_column: demonstration
  task_options: {digits: 3}
rewards: exact_match
train:
  steps: 7
stages:
  - name: warmup
    source: demonstrations
    algorithm: sft
    train: {samples_per_prompt: 1}
  - name: rl
    algorithm: {base: grpo, mask: {clip: {low: 0.1}}}
    train: {steps: 9}
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_short_forms_and_top_level_sections_make_one_stage_named_train(recipe):
    config = load_config(recipe(ONE_STAGE))
    (stage,) = config.stages
    assert stage.name == "train"
    assert stage.algorithm == {"base": "grpo"}
    assert [(r.function, r.weight) for r in stage.rewards] == [("exact_match", 1.0)]
    assert (stage.train.steps, stage.train.learning_rate) == (7, 0.0002)


def test_stages_take_the_top_level_where_they_are_silent(recipe):
    warmup, rl = load_config(recipe(TWO_STAGES)).stages
    assert (warmup.train.steps, warmup.train.samples_per_prompt) == (7, 1)
    assert (rl.train.steps, rl.train.samples_per_prompt) == (9, 8)
    assert warmup.data == rl.data
    assert rl.data.task_options == {"digits": 3}


def test_a_stage_with_its_own_base_takes_nothing_of_the_top_level_algorithm(recipe):
    text = ONE_STAGE.replace("algorithm: grpo", "algorithm: {base: dapo, kl: 0.01}") + (
        "stages: [{name: a, algorithm: grpo}, {name: b, algorithm: {entropy: 0.02}}]"
    )
    first, second = load_config(recipe(text)).stages
    assert first.algorithm == {"base": "grpo"}
    assert second.algorithm == {"base": "dapo", "kl": 0.01, "entropy": 0.02}


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=3", lambda c: c.seed == 3),
        ("train.steps=3", lambda c: [s.train.steps for s in c.stages] == [3, 9]),
        ("stages.rl.train.steps=3", lambda c: c.stages[1].train.steps == 3),
        ("stages.1.train.learning_rate=1e-4", lambda c: c.stages[1].train.learning_rate == 0.0001),
        ("stages.rl.algorithm=dr_grpo", lambda c: c.stages[1].algorithm == {"base": "dr_grpo"}),
        (
            "stages.rl.algorithm.mask.clip.low=0.3",
            lambda c: c.stages[1].algorithm["mask"] == {"clip": {"low": 0.3}},
        ),
        ("rewards=[exact_match, format_tags]", lambda c: len(c.stages[0].rewards) == 2),
        ("rewards.0.weight=0.5", lambda c: c.stages[1].rewards[0].weight == 0.5),
        ("rollout.stop=['###', \"\\n\"]", lambda c: c.stages[0].rollout.stop == ["###", "\n"]),
        (
            "data.instruction=The answer: after #### please",
            lambda c: c.stages[1].data.instruction == "The answer: after #### please",
        ),
        ("data.limit=null", lambda c: c.stages[1].data.limit is None),
        ("evaluation.data.path=test.jsonl", lambda c: c.evaluation.data.path == "test.jsonl"),
        ("name=a=b", lambda c: c.name == "a=b"),
    ],
)
def test_an_override_reaches_its_key(recipe, override, read):
    assert read(load_config(recipe(TWO_STAGES), [override]))


def test_overrides_apply_in_order(recipe):
    config = load_config(recipe(ONE_STAGE), ["train.steps=3", "train={steps: 5}", "train.prompts_per_step=4"])
    train = config.stages[0].train
    assert (train.steps, train.prompts_per_step, train.learning_rate) == (5, 4, 1e-6)


def test_numbers_and_truth_values_are_read_as_yaml_1_2_reads_them():
    assert parse_value("1e-6") == 0.000001
    assert parse_value("0123") == 123
    assert parse_value("yes") == "yes"
    assert parse_value("1:30") == "1:30"
    assert parse_value("2024-01-01") == "2024-01-01"
    assert [parse_value(v) for v in ("true", "null", "~", "", "-7", "1.", ".5")] == [
        True,
        None,
        None,
        None,
        -7,
        1.0,
        0.5,
    ]


def test_the_resolved_configuration_loads_as_an_equal_one(recipe):
    config = load_config(recipe(TWO_STAGES), ["name='1e-6'", "data.system_prompt='null'", "seed=5"])
    assert config.name == "1e-6"
    assert load_config(recipe(dump_config(config))) == config


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(data=st.dictionaries(st.text(), plain, max_size=4))
def test_plain_data_survives_being_written_and_read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "plain.yaml"
    path.write_text(dump(data), encoding="utf-8")
    assert read_document(path).data == data


@settings(max_examples=15, deadline=None)
@given(text=st.text(min_size=1), rate=st.floats(1e-12, 1e3))
def test_any_text_and_number_survives_in_a_resolved_configuration(tmp_path_factory, text, rate):
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    stage = {
        "name": "train",
        "data": {"task": text, "task_options": {text: text}},
        "rewards": [{"function": "exact_match"}],
        "algorithm": {"base": "grpo"},
        "train": {"learning_rate": rate},
    }
    config = RunConfig.model_validate({"name": text, "model": {"init": text}, "stages": [stage]})
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


def test_the_dump_quotes_whatever_would_read_back_as_something_else():
    assert yaml.safe_load(dump({"a": "1e-6"})) == {"a": "1e-6"}
    assert dump({"a": "1e-6"}) == "a: '1e-6'\n"


def test_shipped_recipes_load_and_stay_short(project_root):
    recipes = sorted((project_root / "configs").glob("*.yaml"))
    assert len(recipes) >= 4
    for path in recipes:
        limit = 40 if load_config(path).cluster.mode == "inline" else 75
        assert len(path.read_text().splitlines()) < limit, path


def test_the_gsm8k_recipe_takes_a_file_a_tiny_model_and_three_steps(project_root):
    overrides = ["data.path=elsewhere.jsonl", "model.init=tiny", "train.steps=3"]
    config = load_config(project_root / "configs/gsm8k.yaml", overrides)
    (stage,) = config.stages
    assert (stage.data.path, config.model.init, stage.train.steps) == ("elsewhere.jsonl", "tiny", 3)


def test_a_file_that_is_not_there_names_its_neighbours(recipe):
    path = recipe(ONE_STAGE)
    with pytest.raises(ConfigError, match=r"does not exist\n.*missing.yaml\n.*holds recipe.yaml"):
        load_config(path.with_name("missing.yaml"))
