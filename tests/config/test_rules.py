"""Each rule over several keys, broken once: the arithmetic and the way out are in the message."""

from __future__ import annotations

import pytest

from rlpost.config import load_config
from rlpost.config.rules import RULES
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
    algorithm: grpo
    train: {prompts_per_step: 6, samples_per_prompt: 8}
"""


SURPRISED = """\
from dataclasses import dataclass

from rlpost.estimator import Reward


@dataclass(frozen=True)
class Surprised(Reward):
    signals = frozenset({"surprise"})
"""


@pytest.fixture
def message(tmp_path):
    def load(*overrides: str) -> str:
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / "recipe.yaml", overrides)
        return str(caught.value)

    return load


def test_the_recipe_itself_breaks_no_rule(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    load_config(tmp_path / "recipe.yaml")


def test_samples_that_do_not_divide_into_updates_show_the_division_and_the_nearest_values(message):
    text = message("stages.rl.train.updates_per_step=5")
    assert "6 prompts_per_step x 8 samples_per_prompt = 48 sequences, 48 / 5 updates_per_step = 9.6" in text
    assert "set samples_per_prompt to 5 or 10, or updates_per_step to 4 or 6" in text


def test_the_nearest_values_take_the_prompts_into_account(message):
    # 6 x n divides by 4 when n is even
    text = message("stages.rl.train.updates_per_step=4", "stages.rl.train.samples_per_prompt=7")
    assert "set samples_per_prompt to 6 or 8, or updates_per_step to 3 or 6" in text


def test_an_update_needs_a_sequence_for_each_rank(message):
    text = message("cluster={mode: ray, learner_ranks: 4}", "stages.rl.train.updates_per_step=24")
    assert "6 prompts x 8 samples / 24 updates = 2 sequences, 4 ranks" in text
    assert "set prompts_per_step to 12 or more, or cluster.learner_ranks to 2 or less" in text


def test_the_longest_sequence_must_fit_a_microbatch(message):
    text = message("stages.rl.train.tokens_per_microbatch=23")
    assert "but 16 max_prompt_tokens + 8 max_response_tokens = 24" in text
    assert "needed: at least 24" in text


@pytest.mark.parametrize(
    ("override", "found"),
    [("data.path=x.jsonl", "path: x.jsonl and task: addition"), ("data.task=null", "none of them")],
)
def test_prompts_have_exactly_one_source(message, override, found):
    text = message(override)
    assert "prompts need one source" in text
    assert found in text


def test_the_source_of_held_out_problems_is_checked_too(message):
    assert "where:  evaluation.data, command line" in message("evaluation.data.limit=3")


def test_an_evaluation_takes_no_broken_row(message):
    text = message("evaluation.data.path=x.jsonl", "evaluation.data.max_broken_share=0.01")
    assert "evaluation.data.max_broken_share" in text and "an evaluation takes no broken row" in text


def test_options_of_another_source_are_refused(message):
    assert "`subset` is read only with `dataset`" in message("data.subset=main")
    options = ("data={path: a.jsonl, demonstration_column: b, task: null, task_options: {digits: 2}}",)
    assert "`task_options` are read only with `task`" in message(*options)


def test_sampling_without_a_reward_is_refused(message):
    assert "stage `rl` learns from sampled responses, but nothing rewards them" in message("rewards=[]")


def test_the_best_of_k_needs_k_samples(message):
    text = message("stages.rl.algorithm={base: pass_at_k, advantage: {pass_at_k: {k: 9}}}")
    assert "`pass_at_k` trains the best of 9 samples, and a prompt has fewer" in text
    assert "needed: at least 9" in text


def test_group_algorithms_need_a_group(message):
    text = message("stages.rl.train.samples_per_prompt=1")
    assert "`grpo` compares the samples of a prompt with each other" in text
    assert "needed: at least 2" in text


def test_one_sample_is_enough_without_a_group(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    load_config(
        tmp_path / "recipe.yaml", ["stages.rl.train.samples_per_prompt=1", "stages.rl.algorithm=reinforce"]
    )


def test_an_algorithm_must_fit_what_its_stage_learns_from(message):
    assert "`sft` learns from demonstrations" in message("stages.rl.algorithm=sft")
    assert "`grpo` learns from rollouts" in message("stages.warmup.algorithm=grpo")


def test_an_unknown_algorithm_names_the_nearest(message):
    text = message("stages.rl.algorithm=grop")
    assert "no algorithm 'grop' (nearest: 'grpo')" in text
    assert "where:  stages.rl.algorithm, command line: stages.rl.algorithm=grop" in text


def test_an_invalid_composition_gives_the_reason(message):
    assert "a clip never acts with denominator `current`" in message(
        "stages.rl.algorithm.denominator=current"
    )


def test_an_algorithm_needs_a_base(message):
    assert "the algorithm has no `base`" in message("stages.rl.algorithm={kl: 0.1}")


def test_demonstrations_come_one_for_each_prompt(message):
    assert "a prompt has one demonstration" in message("stages.warmup.train.samples_per_prompt=2")


def test_demonstrations_need_a_column(message):
    text = message("data.demonstration_column=null")
    assert "stage `warmup` learns from demonstrations, but no column holds them" in text
    assert "needed: `demonstration_column: demonstration`" in text  # what tasks call it
    text = message("data={task: null, path: a.jsonl, demonstration_column: null}")
    assert "needed: `demonstration_column: NAME`" in text


@pytest.mark.parametrize("override", ["rollout.workers=2", "cluster.learner_ranks=2"])
def test_more_processes_need_ray(message, override):
    assert "needed: cluster.mode: ray" in message(override)


def test_stage_names_are_unique_words(message):
    assert "2 stages have the name `rl`" in message("stages.0.name=rl")
    assert "a stage's name is not a plain word" in message("stages.0.name=a.b")


def test_stages_that_sample_share_rewards_and_workers(message):
    second = "{name: more, algorithm: rloo, rewards: gsm8k, rollout: {workers: 2}}"
    text = message(f"stages=[{{name: rl, algorithm: grpo}}, {second}]", "cluster.mode=ray")
    assert "stages `rl` and `more` have different rewards" in text
    assert "stages `rl` and `more` have different numbers of rollout workers" in text


def test_a_supervised_run_that_evaluates_needs_something_to_score_with(message):
    stage = "stages=[{name: a, source: demonstrations, algorithm: sft, train: {samples_per_prompt: 1}}]"
    held_out = "evaluation.data={task: addition, split: test}"
    text = message(stage, "rewards=[]", held_out)
    assert "nothing scores the answers" in text and "evaluation.data without rewards" in text


def test_stages_whose_algorithms_read_no_reward_need_none(message, tmp_path):
    cloned = "stages.rl.algorithm={base: grpo, advantage: constant}"
    supervised = "stages=[{name: a, source: demonstrations, algorithm: sft, train: {samples_per_prompt: 1}}]"
    message("rewards=[]")
    for stages in (cloned, supervised):
        assert load_config(tmp_path / "recipe.yaml", ["rewards=[]", stages]).stages[-1].rewards == []


def test_further_held_out_sets_obey_the_rules_of_the_main_one_under_plain_names(message):
    text = message("evaluation.others={a.b: {task: addition}, hard: {task: addition, max_broken_share: 0.5}}")
    assert "the name of a held-out set is not a plain word" in text and "'a.b'" in text
    assert "evaluation.others.hard.max_broken_share" in text and "takes no broken row" in text
    assert "unknown key `spilt`" in message("evaluation.others={hard: {task: addition, spilt: test}}")
    assert "did you mean `split`?" in message("evaluation.others={hard: {task: addition, spilt: test}}")
    assert "prompts need one source" in message("evaluation.others={hard: {}}")


def test_reward_names_are_unique(message):
    assert "2 reward functions share the metric name `mine`" in message(
        "rewards=[a/mine.py, b/mine.py:reward]"
    )


def test_the_tiny_model_has_heads_of_an_even_size(message):
    assert "100 / 4 heads = 25\n  needed: 96 or 104" in message("model.tiny.hidden_size=100")


def test_sequences_fit_the_tiny_model(message):
    text = message("model.tiny.max_positions=20")
    assert "16 max_prompt_tokens + 8 max_response_tokens = 24, but 20 max_positions" in text


def test_every_rule_says_what_it_demands():
    assert all(rule.__doc__ for rule in RULES)


def test_a_part_cannot_read_a_signal_that_no_run_computes(message, tmp_path):
    (tmp_path / "my_parts.py").write_text(SURPRISED)
    text = message("stages.rl.algorithm={base: grpo, advantage: {my_parts.py:Surprised: {}}}")
    assert "a part of the algorithm reads a token signal that no run computes" in text
    assert "found:  surprise\n" in text


def test_stale_samples_need_a_correction_or_the_samplers_own_log_probs(message, tmp_path):
    text = message("stages.rl.train.max_staleness=1")
    assert "samples older than the weights need a correction" in text
    assert "found:  max_staleness: 1 with `grpo`" in text
    for way_out in ("correction: [{truncated: {}}]", "denominator: behaviour"):
        algorithm = f"stages.rl.algorithm={{base: grpo, {way_out}}}"
        load_config(tmp_path / "recipe.yaml", ["stages.rl.train.max_staleness=1", algorithm])


def test_demonstrations_have_no_age(message):
    assert "`max_staleness` is read only where responses are sampled" in message(
        "stages.warmup.train.max_staleness=1"
    )


def test_colocated_workers_take_turns_with_the_learner_and_need_ray(message):
    assert "needed: cluster.mode: ray" in message("cluster.placement=colocated")
    text = message(
        "cluster={mode: ray, placement: colocated}",
        "stages.rl.train.max_staleness=1",
        "stages.rl.algorithm={base: grpo, denominator: behaviour}",
    )
    assert "colocated workers cannot sample while the learner works" in text


def test_weights_have_a_way_to_choose_only_between_processes_that_share_no_accelerator(message, tmp_path):
    text = message("weights.transport=broadcast")
    assert "`weights.transport` is read only with `cluster.mode: ray`" in text
    colocated = "cluster={mode: ray, placement: colocated}"
    text = message(colocated, "weights.transport=broadcast")
    assert "processes that share an accelerator" in text and "weights.transport: auto" in text
    for way in ("auto", "shared_memory", "object_store"):
        load_config(tmp_path / "recipe.yaml", [colocated, f"weights.transport={way}"])
