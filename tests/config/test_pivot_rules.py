"""The section `pivots` of a recipe: for which stage, and what it refuses."""

import pytest

from rlpost.config import dump_config, explain, load_config
from rlpost.config.dependent import evaluation_environment
from rlpost.config.rules.pivot_rules import pivot_stage
from rlpost.errors import ConfigError

RECIPE = """
name: pivots
model: {init: tiny}
data: {path: train.jsonl, prompt_column: messages, answer_column: null}
rewards: functional_action
algorithm: grpo
pivots: {trajectories: expert.jsonl}
"""


@pytest.fixture
def load(tmp_path):
    def load(text=RECIPE, *overrides):
        (tmp_path / "recipe.yaml").write_text(text)
        return load_config(tmp_path / "recipe.yaml", overrides)

    return load


def test_one_file_is_a_list_of_one_and_survives_being_written_out(load, tmp_path):
    config = load()
    assert config.pivots.trajectories == ["expert.jsonl"]
    assert pivot_stage(config).name == "train"
    assert load(dump_config(config)) == config
    assert load(RECIPE, "pivots=null").pivots is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pivots.stage=tran"], "no stage `tran` samples responses"),
        (["environment=lookup"], "cannot judge a single turn"),
        (['pivots.error_pattern="("'], "not a regular expression"),
        (["pivots.samples=1"], "pivots.samples"),
        (["pivots.trajectories=[]"], "pivots.trajectories"),
    ],
)
def test_what_makes_no_sense_is_refused(load, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(RECIPE, *overrides)


def test_with_two_stages_that_sample_one_has_to_be_named(load):
    two = RECIPE + "stages: [{name: first}, {name: second}]\n"
    with pytest.raises(ConfigError, match="not clear which stage"):
        load(two)
    assert pivot_stage(load(two, "pivots.stage=second")).name == "second"


def test_an_evaluation_may_play_whole_episodes_where_single_turns_are_trained(load):
    config = load(RECIPE, "evaluation.environment=lookup", "evaluation.data={task: lookup, split: test}")
    assert evaluation_environment(config).name == "lookup"
    assert "through the environment lookup" in explain(config)
    assert evaluation_environment(load()) is None
    assert evaluation_environment(load(RECIPE, "environment=lookup", "pivots=null")).name == "lookup"
