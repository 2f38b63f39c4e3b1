"""A stage's teacher: where it may be written, and what needs it."""

import pytest

from rlpost.config import explain, load_config
from rlpost.errors import ConfigError

RECIPE = """
model:
  init: tiny
data: {task: addition, demonstration_column: demonstration, max_prompt_tokens: 16, template: none}
rollout: {max_response_tokens: 8}
stages:
  - {name: copy, source: demonstrations, algorithm: sft, train: {samples_per_prompt: 1}}
  - {name: learn, algorithm: distil}
train: {steps: 3, prompts_per_step: 4, samples_per_prompt: 1}
"""


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return lambda *overrides: load_config(path, overrides)


def test_a_teacher_may_be_a_name_at_the_top_and_no_reward_is_asked_for(load):
    config = load("teacher=runs/able/policy")
    assert config.stages[1].teacher.init == "runs/able/policy"
    plan = explain(config)
    assert "one of the teacher for teacher_logprob" in plan
    assert "A_t = log pi_T,t - log pi_old,t" in plan
    pinned = load("stages.learn.teacher={init: org/able, revision: abc}")
    assert (pinned.stages[0].teacher, pinned.stages[1].teacher.revision) == (None, "abc")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "`distil` learns from a teacher, and stage `learn` has none"),
        (("teacher=tiny",), "the tiny model's weights are random, so it has nothing to teach"),
        (
            (
                "teacher=able",
                "stages.learn.algorithm=reinforce",
                "rewards=exact_match",
            ),
            "nothing reads the teacher's log-probs: stage `learn` trains with `reinforce`",
        ),
    ],
)
def test_a_teacher_that_is_missing_idle_or_empty_is_refused(load, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    assert message in str(caught.value)
