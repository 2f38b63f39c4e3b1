"""Which problems a run asks by default, and who judges them."""

from __future__ import annotations

import pytest

from rlpost.config import load_config
from rlpost.config.held_out import held_out_sets, is_judged, run_rewards
from rlpost.training.evaluating import before_and_after

RECIPE = """\
model: {init: tiny}
data: {task: addition, demonstration_column: demonstration, max_prompt_tokens: 16}
rollout: {max_response_tokens: 8}
stages:
  - {name: rl, algorithm: grpo, rewards: exact_match, train: {steps: 4, samples_per_prompt: 4}}
  - name: polish
    source: demonstrations
    algorithm: sft
    data: {task: countdown, max_broken_share: 0.5}
    train: {steps: 2, samples_per_prompt: 1}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *overrides: load_config(tmp_path / "recipe.yaml", overrides)


def test_a_run_that_ends_with_a_supervised_stage_is_judged_on_its_task_by_the_rewards_of_the_run(config):
    (main,) = held_out_sets(config()).values()
    assert (main.task, main.split, main.max_broken_share) == ("countdown", "test", None)
    assert [reward.function for reward in run_rewards(config())] == ["exact_match"]
    summaries = [{"step": step} for step in (0, 4, 6)]
    assert before_and_after(summaries, config())["before"] == {"step": 0}


def test_further_sets_stand_beside_the_main_one_and_take_as_many_problems(config):
    others = "evaluation.others={sums: {task: addition, split: test}}"
    sets = held_out_sets(config(others, "evaluation.problems=7"))
    assert list(sets) == ["", "sums"] and {data.limit for data in sets.values()} == {7}


def test_where_nothing_judges_answers_a_tasks_own_problems_are_not_asked(config):
    supervised = "stages=[{name: a, source: demonstrations, algorithm: sft, train: {samples_per_prompt: 1}}]"
    unjudged = config(supervised)
    assert not is_judged(unjudged) and held_out_sets(unjudged) == {}
    assert held_out_sets(config(supervised, "rewards=exact_match"))[""].task == "addition"
