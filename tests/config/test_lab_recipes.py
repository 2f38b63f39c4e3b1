"""The lab's recipes load, and have what a comparison of algorithms needs."""

from pathlib import Path

import pytest

from rlpost.comparison.plan import make_plan
from rlpost.config import load_config
from rlpost.data.conversation import Conversation
from rlpost.data.tasks import build_task
from rlpost.environments import load_environment

LAB = Path(__file__).parents[2] / "configs" / "lab"
TASKS = ["addition", "countdown", "ragged"]
ALGORITHMS = ["grpo", "dapo", "dr_grpo"]


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_measures_pass_at_8_and_moves_ratios_between_updates(task):
    config = load_config(LAB / f"{task}.yaml")
    warmup, rl = config.stages
    assert (warmup.source, rl.source) == ("demonstrations", "rollouts")
    assert (warmup.name, rl.name, rl.algorithm) == ("warmup", "rl", {"base": "grpo"})
    assert config.evaluation.samples_per_problem >= 8 and config.evaluation.temperature == 1.0
    assert rl.train.updates_per_step > 1, "with one update per step every ratio is 1 and nothing is clipped"
    assert rl.train.prompts_per_step % rl.train.updates_per_step == 0
    assert rl.train.steps % config.evaluation.every == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_right_answer_fits_into_a_recipes_limits(task):
    config = load_config(LAB / f"{task}.yaml")
    data = config.stages[1].data
    assert data.task == task
    built = build_task(task, data.task_options)
    for row in built.rows("train", config.seed) + built.rows("test", config.seed):
        assert len(row["prompt"]) <= data.max_prompt_tokens
        assert len(row["demonstration"]) + 1 <= config.stages[1].rollout.max_response_tokens
        length = data.max_prompt_tokens + config.stages[1].rollout.max_response_tokens
        assert length <= config.model.tiny.max_positions
    assert config.evaluation.problems <= len(built.rows("test", config.seed))


@pytest.mark.parametrize("base", ALGORITHMS)
@pytest.mark.parametrize("task", TASKS)
def test_the_algorithm_of_the_rl_stage_can_be_changed_alone(task, base):
    config = load_config(LAB / f"{task}.yaml", [f"stages.rl.algorithm.base={base}"])
    assert config.stages[1].algorithm["base"] == base
    assert config.stages[0] == load_config(LAB / f"{task}.yaml").stages[0]


def test_an_experts_episode_fits_into_the_limits_of_the_lookup_recipe(tiny_tokenizer):
    config = load_config(LAB / "lookup.yaml")
    warmup, rl = config.stages
    tools = load_environment(rl.environment).tools
    talk = Conversation(tiny_tokenizer, tools=tools, tool_format=rl.environment.tool_format)
    rows = build_task("lookup", rl.data.task_options).rows("test", 0)
    assert len(rows) == config.evaluation.problems
    for row in rows:
        opening = talk.opening([{"role": "user", "content": row["prompt"]}])
        turns = talk.demonstration(row["demonstration"])
        said = [turn for turn in turns if turn.by_policy]
        assert len(opening) <= rl.data.max_prompt_tokens
        assert max(len(turn.token_ids) for turn in said) <= rl.rollout.max_response_tokens
        assert len(said) < rl.environment.max_turns, "one turn more than needed, for a call that fails"
        longest = (
            len(opening) + sum(len(turn.token_ids) for turn in turns) + 2 * rl.rollout.max_response_tokens
        )
        assert longest <= config.model.tiny.max_positions
    assert warmup.data.task_options["mistakes"] == 0.3 and "mistakes" not in rl.data.task_options


def test_every_arm_with_a_critic_starts_where_the_others_and_grpo_do():
    grpo, ppo = (load_config(LAB / f"{name}.yaml") for name in ("lookup", "lookup_ppo"))
    assert grpo.stages[0] == ppo.stages[0] and grpo.model == ppo.model and grpo.evaluation == ppo.evaluation
    for part in ("data", "environment", "rollout", "train"):
        assert getattr(grpo.stages[1], part) == getattr(ppo.stages[1], part)
    plan = make_plan([LAB / "lookup_ppo.yaml"], arms_file=LAB / "arms_turns.yaml")
    (task,) = plan.tasks
    assert [arm.name for arm in task.arms] == ["ppo", "turn-ppo", "s-ppo", "st-ppo"]


@pytest.mark.parametrize(
    ("recipe", "start", "arms", "names"),
    [
        ("shift_sums", "shift_start", "supervised", ("sft", "dft", "otr")),
        ("hard_mixed", "hard_start", "hybrid", ("hpt", "sft", "grpo", "sft-then-grpo", "luffy", "srft")),
        ("hard_only", "hard_start", "hard", ("grpo", "grpo+pope", "oreal")),
    ],
)
def test_arms_with_demonstrations_start_from_one_policy_and_are_judged_on_the_same_sets(
    recipe, start, arms, names
):
    different = arms != "supervised"
    arms_file = LAB / f"arms_{arms}.yaml"
    (task,) = make_plan([LAB / f"{recipe}.yaml"], arms_file=arms_file, different_budgets=different).tasks
    assert tuple(arm.name for arm in task.arms) == names
    limit = load_config(LAB / f"{start}.yaml").model.tiny.max_positions
    for arm in task.arms:
        assert arm.config.model.init == f"runs/{start}/policy"
        assert arm.config.evaluation == task.arms[0].config.evaluation and arm.config.evaluation.others
        updates = sum(stage.train.steps * stage.train.updates_per_step for stage in arm.config.stages)
        first = task.arms[0].config.stages[0].train
        assert updates == first.steps * first.updates_per_step
        for stage in arm.config.stages:
            assert stage.data.max_prompt_tokens + stage.rollout.max_response_tokens <= limit
            if stage.data.task == "chain":
                rows = build_task("chain", stage.data.task_options).rows("train", 0)
                assert max(len(row["prompt"]) for row in rows) <= stage.data.max_prompt_tokens
                assert max(len(row["answer"]) for row in rows) < stage.rollout.max_response_tokens
