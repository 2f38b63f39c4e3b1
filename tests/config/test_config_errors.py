"""Every mistake gets one message: which key, where it stands, what was found, what is needed."""

from __future__ import annotations

import pytest

from rlpost.config import load_config
from rlpost.config.problems import OTHER_NAMES, user_paths
from rlpost.errors import ConfigError

RECIPE = """\
model:
  init: tiny
data:
  task: addition
  demonstration_column: demonstration
  max_prompt_tokens: 16
rewards: exact_match
rollout:
  max_response_tokens: 8
stages:
  - name: warmup
    source: demonstrations
    algorithm: sft
    train: {steps: 5, samples_per_prompt: 1}
  - name: rl
    algorithm: grpo
    train: {steps: 9, prompts_per_step: 6, samples_per_prompt: 8}
"""


@pytest.fixture
def message(tmp_path, monkeypatch):
    """The text of the error that a recipe and overrides lead to."""
    monkeypatch.chdir(tmp_path)

    def load(*overrides: str, text: str = RECIPE) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config("recipe.yaml", overrides)
        return str(caught.value)

    return load


def test_a_mistyped_key_in_the_file_names_file_line_and_nearest_key(message):
    assert message(text=RECIPE.replace("max_prompt_tokens", "max_promt_tokens")) == (
        "unknown key `max_promt_tokens`\n"
        "  where:  data.max_promt_tokens, recipe.yaml, line 6\n"
        "  remedy: did you mean `max_prompt_tokens`?"
    )


def test_a_mistyped_key_in_an_override_names_the_override(message):
    assert message("stages.rl.train.step=3") == (
        "unknown key `step`\n"
        "  where:  stages.rl.train.step, command line: stages.rl.train.step=3\n"
        "  remedy: did you mean `steps`?"
    )


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one(message):
    assert "did you mean `rollout.slots`?" in message("train.slots=3")


def test_words_of_other_frameworks_are_translated(message):
    assert "that is `train.samples_per_prompt` here" in message("num_generations=8")
    assert set(OTHER_NAMES.values()) <= set(user_paths())


def test_a_wrong_type_says_what_was_found_and_what_is_needed(message):
    assert message("stages.rl.train.steps=many") == (
        "`steps` has a wrong type\n"
        "  where:  stages.rl.train.steps, command line: stages.rl.train.steps=many\n"
        "  found:  'many' (text)\n"
        "  needed: a whole number"
    )


@pytest.mark.parametrize(
    ("override", "found", "needed"),
    [
        ("seed=1.5", "1.5 (a number)", "a whole number"),
        ("seed=true", "true (true or false)", "a whole number"),
        ("seed='3'", "'3' (text)", "a whole number"),
        ("seed=-1", "-1 (a whole number)", "at least 0"),
        ("seed=null", "nothing (null)", "a whole number"),
        ("name=3", "3 (a whole number)", "text"),
        ("rollout.temperature=0", "0 (a whole number)", "more than 0"),
        ("rollout.temperature=.nan", "nan (a number)", "a finite number"),
        ("rollout.top_p=2", "2 (a whole number)", "at most 1"),
        ("rollout.stop=x", "'x' (text)", "a list"),
        ("model=tiny", "'tiny' (text)", "a section (key: value pairs)"),
        ("rollout=tiny", "'tiny' (text)", "a section"),
        ("stages=tiny", "'tiny' (text)", "a list of stages"),
        ("stages.rl=tiny", "'tiny' (text)", "`name` and more"),
        ("stages=[]", "a list of 0", "at least 1 entry"),
        ("cluster.mode=rya", "'rya' (text)", "one of inline or ray"),
        ("stages.rl.train.betas=[0.9, 1]", "1 (a whole number)", "less than 1"),
    ],
)
def test_each_wrong_value_is_described(message, override, found, needed):
    text = message(override)
    assert f"found:  {found}\n" in text
    assert f"needed: {needed}" in text


def test_several_mistakes_are_listed_together(message):
    text = message("seed=x", "modle.init=y", "scoring.workers=0")
    assert text.startswith("3 problems in recipe.yaml\n")
    assert [line[:3] for line in text.splitlines() if line[0].isdigit()] == ["3 p", "1. ", "2. ", "3. "]


def test_a_mistake_that_two_stages_share_is_reported_once(message):
    assert message("rollout.top_k=-1").count("where:") == 1


def test_an_override_that_no_stage_would_see_names_the_keys_to_use_instead(message):
    assert message("train.steps=3") == (
        "`train.steps` has no effect: every stage sets it itself\n"
        "  where:  train.steps, command line: train.steps=3\n"
        "  remedy: set `stages.warmup.train.steps` or `stages.rl.train.steps`"
    )


def test_an_override_of_an_algorithm_that_stages_replace_is_refused(message):
    assert "`algorithm.kl` has no effect" in message("algorithm.kl=0.1")


def test_a_stage_that_does_not_exist_is_refused(message):
    text = message("stages.rll.train.steps=3")
    assert "needed: one of warmup, rl\n" in text
    assert "did you mean `rl`?" in text


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", ".=1"])
def test_an_override_must_be_key_equals_value(message, override):
    assert "not of the form key=value" in message(override)


def test_an_override_below_a_plain_value_is_refused(message):
    assert "`model.init` has nothing below it" in message("model.init.size=3")


def test_an_override_with_an_open_bracket_is_refused(message):
    assert "is not valid YAML" in message("rollout.stop=[a")


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("model: {init: tiny\nseed: 1\n", "line 2", "while parsing a flow mapping"),
        (
            "seed: 1\nmodel: {init: tiny}\nseed: 2\n",
            "line 3, column 1",
            "key 'seed' is there twice, first in line 1",
        ),
        ("data: {path: a,\n  path: b}\n", "line 2", "key 'path' is there twice, first in line 1"),
        ("seed: 1\n\tname: x\n", "line 2", "cannot start any token"),
        ("seed: !!python/object/apply:os.getcwd []\n", "line 1", "could not determine a constructor"),
        ("seed: [*nobody]\n", "line 1", "undefined alias"),
    ],
)
def test_broken_yaml_names_the_line(message, text, where, found):
    text = message(text=text)
    assert where in text
    assert found in text


def test_an_empty_file_is_refused(message):
    assert "is empty" in message(text="# nothing\n")


def test_a_list_is_not_a_configuration(message):
    assert "found:  a list of 2" in message(text="- a\n- b\n")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "x.yaml")


def test_missing_keys_say_what_they_are(message):
    assert "`init` is missing" in message(text="algorithm: grpo\nrewards: x\ndata: {task: addition}\n")
    assert "row of `rlpost algorithms`" in message(
        text="model: {init: tiny}\nrewards: x\ndata: {task: addition}\n"
    )
