"""The `critic` section: who reads it, what is refused, and the plan in words."""

from __future__ import annotations

import pytest

from rlpost.config import dump_config, explain, load_config, stage_objective
from rlpost.config.rules.critic_rules import stage_critic
from rlpost.config.schema import CriticConfig
from rlpost.errors import ConfigError

RECIPE = """\
model: {init: tiny}
data: {task: addition, demonstration_column: demonstration, max_prompt_tokens: 16}
rewards: exact_match
rollout: {max_response_tokens: 8}
stages:
  - name: warmup
    source: demonstrations
    algorithm: sft
    train: {samples_per_prompt: 1}
  - name: rl
    algorithm: {base: grpo, advantage: gae}
    train: {prompts_per_step: 6, samples_per_prompt: 8}
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *overrides: load_config(tmp_path / "recipe.yaml", overrides)


def critic_of(stage):
    return stage_critic(stage, stage_objective(stage))


def test_an_algorithm_that_reads_values_has_a_critic_with_the_defaults(load, tmp_path):
    config = load()
    warmup, rl = config.stages
    assert critic_of(warmup) is None
    assert critic_of(rl) == CriticConfig()
    assert [stage.critic for stage in config.stages] == [None, CriticConfig()]
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_a_section_at_the_top_level_is_that_of_the_stages_that_read_values(load):
    warmup, rl = load("critic={learning_rate: 0.001, value_clip: 0.5}").stages
    assert critic_of(warmup) is None
    assert critic_of(rl) == CriticConfig(learning_rate=0.001, value_clip=0.5)
    assert critic_of(load("stages.rl.critic.shared=true").stages[1]).shared


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (
            ["stages.rl.algorithm=oreal", "stages.rl.critic={value_clip: 0.2}"],
            "a token reward model learns outcomes, and has no values to clip",
        ),
        (
            ["stages.rl.algorithm=grpo", "critic={learning_rate: 0.001}"],
            "nothing reads the critic's values: stage `rl` trains with `grpo`",
        ),
        (["critic={shared: true, init: some/model}"], "found:  init: some/model, shared: true"),
        (["critic={coefficient: 0.5}"], "`critic.coefficient` is read only with `shared: true`"),
        (
            ["critic.warmup_steps=9", "stages.rl.train.steps=9"],
            "9 critic.warmup_steps of 9 train.steps",
        ),
        (["critic.value_clip=0"], "more than 0"),
    ],
)
def test_what_has_no_effect_or_no_sense_is_refused(overrides, needed, load):
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    assert needed in str(caught.value)


def test_the_plan_says_what_the_critic_is_and_costs(load):
    text = explain(load("critic={warmup_steps: 10, value_clip: 0.2}", "stages.rl.train.updates_per_step=2"))
    assert text.count("  critic      ") == 1
    for line in (
        "1 value for each state, from a backbone of its own, a copy of the policy when the stage begins",
        "AdamW, learning rate 1e-05; gradient norm clipped at 1; values clipped at 0.2",
        "the critic alone learns in the first 10 steps, the policy in the 90 after them",
        "costs a second model: 16 bytes a parameter on every rank",
        "one of the policy for old_logprob, one of the critic for its values",
    ):
        assert line in text, text
    shared = explain(load("critic={shared: true}"))
    assert "a head on the policy's hidden states; 0.1 x its loss joins the policy's" in shared
    assert "costs no further model" in shared
    divided = ["learner={backend: deepspeed, zero_stage: 3}", "cluster={mode: ray, learner_ranks: 2}"]
    assert "16 bytes a parameter, divided as `zero_stage: 3` says" in explain(load(*divided))


def test_the_plan_of_a_token_reward_model_says_what_it_learns_and_that_it_begins_at_zero(load):
    text = explain(load("stages.rl.algorithm=oreal", "critic={warmup_steps: 10}"))
    for line in (
        "one logit for each token, from a backbone of its own, a copy of the policy when the stage begins",
        "learns which responses are right: cross-entropy of their mean logits",
        "the critic alone learns in the first 10 steps, the policy in the 90 after them",
        "one of the reference for ref_logprob, one of the token reward model",
    ):
        assert line in text, text
    assert "every token's weight" in explain(load("stages.rl.algorithm=oreal"))
    uniform = {"shaping": [{"outcome_credit": {"credit": "uniform"}}]}
    without = {"base": "oreal", "terms": {"right": uniform, "wrong": uniform}}
    assert "critic" not in explain(load(f"stages.rl.algorithm={without}"))
