"""What a stage may learn from, and what its algorithm needs for that."""

import pytest

from rlpost.config import explain, load_config
from rlpost.errors import ConfigError

RECIPE = """
model:
  init: tiny
data: {path: rows.jsonl, max_prompt_tokens: 100, demonstration_column: chosen}
rewards: exact_match
rollout: {max_response_tokens: 50}
source: both
algorithm:
  base: grpo
  terms:
    demonstrations: {rows: demonstrations, advantage: constant, denominator: current, aggregation: token_mean}
train: {prompts_per_step: 4, samples_per_prompt: 2}
"""
PAIRS = ("source=demonstrations", "algorithm=dpo", "data.rejected_column=bad", "train.samples_per_prompt=1")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    lines = RECIPE.strip().splitlines()
    source = lines.index("source: both")
    shared = lines[:source] + lines[source + 1 :]
    path.write_text("\n".join([*shared, "stages:", "  - {name: train, source: both}"]) + "\n")
    return path


def load(recipe, *overrides):
    return load_config(recipe, [o.replace("source=", "stages.train.source=") for o in overrides])


def refusal(recipe, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(recipe, *overrides)
    return str(caught.value)


def test_a_step_of_samples_and_demonstrations_is_explained_with_its_arithmetic(recipe):
    plan = explain(load(recipe))
    assert "and the demonstration of each prompt that has one, worth a reward of 1" in plan
    assert "4 prompts x (2 samples + 1 demonstration) = 12 sequences" in plan
    assert "1 update of 12 sequences" in plan
    assert "100 steps, 400 prompts, 800 samples, 400 demonstrations, 100 updates" in plan
    assert "4 prompts x 2 responses = 8 sequences" in explain(load(recipe, *PAIRS))
    assert "demonstrations, each preferred to the response in `bad`" in explain(load(recipe, *PAIRS))
    limit = "data.max_demonstration_tokens=70"
    assert "demonstrations above 70 tokens are an error" in explain(load(recipe, limit))
    assert "a sequence has at most 100 + 70 = 170 tokens" in explain(load(recipe, limit))
    shorter = explain(load(recipe, "data.max_demonstration_tokens=30"))
    assert "a sequence has at most 100 + 50 = 150 tokens" in shorter


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["algorithm=grpo"],
            ["`grpo` learns from rollouts", "needed: source: rollouts"],
        ),
        (
            ["source=rollouts"],
            ["`grpo` learns from demonstrations and rollouts", "found:  source: rollouts", "source: both"],
        ),
        (["algorithm=sft"], ["`sft` learns from demonstrations", "found:  source: both"]),
        (["rollout.temperature=0.7"], ["temperature: 0.7 with source: both", "rollout.temperature: 1.0"]),
        (["data.demonstration_column=null"], ["no column holds them"]),
        (["data.overlong_demonstrations=drop"], ["max_demonstration_tokens: TOKENS"]),
        (["pivots={trajectories: [a.jsonl]}"], ["pivots have none", "found:  source: both"]),
        (["rewards=[]"], ["nothing rewards them"]),
        (["train.samples_per_prompt=1"], ["at least 2"]),
        (
            ["train.updates_per_step=8"],
            [
                "4 prompts_per_step / 8 updates_per_step = 0.5",
                "prompts_per_step to 8, or updates_per_step to 4",
            ],
        ),
        (
            ["algorithm={base: grpo, terms: {rollouts: {rows: all}}}"],
            ["term `all` trains all rows by ratios", "pi_den = pi_old with rows: all"],
        ),
        (["data.rejected_column=bad"], ["rejected_column: bad with source: both", "source: demonstrations"]),
        ([*PAIRS, "data.rejected_column=null"], ["`dpo` compares two responses", "rejected_column: NAME"]),
        ([*PAIRS, "algorithm=sft"], ["`sft` would imitate the rejected responses too", "such as dpo"]),
        ([*PAIRS, "data.demonstration_column=null"], ["without `demonstration_column`"]),
        ([*PAIRS, "train.updates_per_step=8"], ["each with all its responses"]),
        (
            [*PAIRS, "algorithm={base: dpo, kl: {coefficient: 0.1, target: 0.1}}"],
            ["the coefficient of kl follows what is measured on samples", "a fixed coefficient"],
        ),
        ([*PAIRS, "train.max_staleness=1"], ["max_staleness: 1 with source: demonstrations"]),
    ],
)
def test_what_does_not_fit_a_source_is_refused_with_what_would(recipe, overrides, words):
    text = refusal(recipe, *overrides)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.updates_per_step=2"],
        ["train.max_staleness=1", "algorithm.terms.rollouts={correction: [{truncated: {}}]}"],
        ["algorithm.terms.rollouts={compared_with: all}"],
        ["environment={name: 'game.py:Game'}", "data.template=chat"],
        [*PAIRS, "train.updates_per_step=4"],
    ],
)
def test_what_fits_is_accepted(recipe, overrides):
    load(recipe, *overrides)
