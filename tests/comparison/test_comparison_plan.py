"""What is compared, and what is refused before anything runs."""

from __future__ import annotations

import pytest
import yaml

from rlpost.comparison.plan import make_plan
from rlpost.errors import UserError


def algorithms(arm):
    return {stage.name: stage.algorithm for stage in arm.config.stages}


def test_without_a_file_of_arms_every_recipe_is_an_arm_named_after_its_file(recipe):
    plan = make_plan([recipe("one"), recipe("two", "rloo")], seeds=2)
    (task,) = plan.tasks
    assert task.name == "addition"
    assert plan.arm_names == ("one", "two")
    assert [algorithms(arm)["rl"] for arm in task.arms] == [{"base": "grpo"}, {"base": "rloo"}]
    assert plan.seeds == (0, 1)


def test_files_of_the_same_stem_go_by_the_name_in_them(recipe, tmp_path):
    paths = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        paths.append(recipe(name).rename(folder / "recipe.yaml"))
    assert make_plan(paths).arm_names == ("one-run", "two-run")
    text = paths[0].read_text().replace("one-run", "two-run")
    paths[0].write_text(text)
    with pytest.raises(UserError, match="two recipes have the same name"):
        make_plan(paths)


def test_with_a_file_of_arms_every_recipe_is_a_task_and_seeds_count_from_its_own(recipe, arms_file):
    plan = make_plan([recipe("sums"), recipe("more")], ["seed=5"], arms_file=arms_file(), seeds=3)
    assert [task.name for task in plan.tasks] == ["sums", "more"]
    assert plan.arm_names == ("grpo", "rloo")
    assert plan.seeds == (5, 6, 7)


def test_an_arm_replaces_the_algorithm_of_the_stages_that_sample_and_of_no_other(recipe, arms_file):
    arms = arms_file(wide={"base": "grpo", "mask": {"clip": {"low": 0.3, "high": 0.4}}})
    (task,) = make_plan([recipe(algorithm="rloo")], arms_file=arms).tasks
    clip = {"clip": {"low": 0.3, "high": 0.4}}
    assert algorithms(task.arms[0]) == {"warmup": {"base": "sft"}, "rl": {"base": "grpo", "mask": clip}}


def test_an_algorithm_at_the_top_level_is_replaced_too(recipe, arms_file):
    path = recipe()
    tree = yaml.safe_load(path.read_text())
    rl = tree.pop("stages")[1]
    path.write_text(yaml.safe_dump(tree | {"algorithm": "grpo", "rewards": rl["rewards"]}))
    (task,) = make_plan([path], arms_file=arms_file()).tasks
    assert [algorithms(arm) for arm in task.arms] == [
        {"train": {"base": "grpo"}},
        {"train": {"base": "rloo"}},
    ]


def test_equal_leading_stages_are_shared_and_one_stage_is_always_left(recipe):
    different = make_plan([recipe("one"), recipe("two", "rloo")]).tasks[0]
    same = make_plan([recipe("one"), recipe("two")]).tasks[0]
    assert (different.shared, same.shared) == (1, 1)


def test_leading_stages_that_differ_anywhere_are_not_shared(recipe):
    one, two = recipe("one"), recipe("two", "rloo")
    two.write_text(two.read_text().replace("steps: 2", "learning_rate: 0.5\n    steps: 2"))
    task = make_plan([one, two]).tasks[0]
    assert task.shared == 0
    assert task.varied == ("stages.0.train.learning_rate: 1e-06 in one; 0.5 in two",)


def test_other_models_share_no_stage(recipe):
    one, two = recipe("one"), recipe("two")
    two.write_text(two.read_text().replace("hidden_size: 16", "hidden_size: 32"))
    assert make_plan([one, two], different_budgets=True).tasks[0].shared == 0


def test_every_difference_of_the_budget_is_named_with_its_values(recipe):
    paths = [recipe("one"), recipe("two", steps=8), recipe("three", "rloo", learning_rate=0.5, steps=8)]
    paths[1].write_text(paths[1].read_text().replace("max_response_tokens: 4", "max_response_tokens: 3"))
    with pytest.raises(UserError) as refused:
        make_plan(paths)
    message = str(refused.value)
    assert "stages.1.rollout.max_response_tokens: 4 in one, three; 3 in two" in message
    assert "stages.1.train.steps: 4 in one; 8 in two, three" in message
    assert "--different-budgets" in message
    assert "learning_rate" not in message
    assert "algorithm" not in message
    assert refused.value.exit_status == 2


def test_different_budgets_can_be_asked_for_and_are_noted(recipe):
    (task,) = make_plan([recipe("one"), recipe("two", steps=8)], different_budgets=True).tasks
    assert task.differences == ("stages.1.train.steps: 4 in one; 8 in two",)


def test_arms_of_another_number_of_stages_have_another_budget(recipe):
    one, two = recipe("one"), recipe("two")
    tree = yaml.safe_load(two.read_text())
    tree["stages"] = tree["stages"][1:]
    two.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as refused:
        make_plan([one, two])
    assert "number of stages: 2 in one; 1 in two" in str(refused.value)
    assert 'stages.0.source: "demonstrations" in one; "rollouts" in two' in str(refused.value)
    assert "stages.1" not in str(refused.value)


@pytest.mark.parametrize("key", ["stages.rl.algorithm.base", "stages.1.algorithm", "algorithm"])
def test_an_override_that_the_arms_replace_is_refused(recipe, arms_file, key):
    path = recipe()
    if key == "algorithm":
        tree = yaml.safe_load(path.read_text())
        del tree["stages"][1]["algorithm"]
        path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match="the arms replace this key"):
        make_plan([path], [f"{key}=rloo"], arms_file=arms_file())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grpo, rloo]", "the arms are not a mapping"),
        ("grpo: {mask: keep}", "an arm is neither an algorithm nor stages"),
        ("grpo: 3", "an arm is neither an algorithm nor stages"),
        ("no/slash: grpo", "a name cannot be that of a directory"),
        ("typo: grop", "no algorithm 'grop'"),
        ("list: []", "an arm is neither an algorithm nor stages"),
        ("sft: {source: demonstrations, algorithm: sft}", "a prompt has one demonstration"),
        ("typo: {algorithm: grpo, trian: {}}", "unknown key `trian`"),
        ("word: {algorithm: grpo, train: {steps: few}}", "stages.1.train.steps"),
        ("keep: {base: rloo, mask: {clip: {low: 0.2}}}", "rloo"),
    ],
)
def test_a_wrong_arm_is_refused_before_anything_runs(recipe, tmp_path, text, message):
    arms = tmp_path / "wrong.yaml"
    arms.write_text(text)
    with pytest.raises(UserError) as refused:
        make_plan([recipe()], arms_file=arms)
    assert message in str(refused.value)
    assert "wrong.yaml" in str(refused.value)


def test_where_no_stage_samples_an_arm_replaces_the_algorithm_of_the_last_one(recipe, arms_file):
    path = recipe()
    tree = yaml.safe_load(path.read_text())
    first = tree["stages"][0]
    tree["stages"] = [first, {**first, "name": "more"}]
    path.write_text(yaml.safe_dump(tree | {"rewards": "exact_match"}))
    (task,) = make_plan([path], arms_file=arms_file(sft="sft", dft="dft")).tasks
    assert algorithms(task.arms[1]) == {"warmup": {"base": "sft"}, "more": {"base": "dft"}}
    assert task.shared == 1


def test_an_arm_may_give_stages_in_the_place_of_the_last_one(recipe, arms_file, tmp_path):
    supervised = {"name": "more", "source": "demonstrations", "algorithm": "sft"}
    supervised["train"] = {"samples_per_prompt": 1, "learning_rate": 0.5}
    other_data = {"data": {"path": str(tmp_path / "guided.jsonl")}}
    arms = arms_file(rl="grpo", both=[supervised, {"algorithm": "rloo"}], guided=other_data)
    (task,) = make_plan([recipe()], arms_file=arms, different_budgets=True).tasks
    rl, both, guided = (arm.config.stages for arm in task.arms)
    assert [stage.name for stage in both] == ["warmup", "more", "rl"]
    assert (both[1].source, both[1].train.learning_rate, both[1].train.steps) == ("demonstrations", 0.5, 4)
    assert both[1].rewards == rl[1].rewards and both[2] == rl[1].model_copy(
        update={"algorithm": {"base": "rloo"}}
    )
    assert (guided[1].data.path, guided[1].data.task) == (str(tmp_path / "guided.jsonl"), None)
    assert guided[1].data.max_prompt_tokens == 16 and guided[1].algorithm == {"base": "grpo"}
    assert task.shared == 1
    assert "number of stages: 2 in rl, guided; 3 in both" in task.differences


def test_one_recipe_without_arms_is_nothing_to_compare(recipe):
    with pytest.raises(UserError, match="nothing to compare it with"):
        make_plan([recipe()])
