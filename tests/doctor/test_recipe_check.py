"""`rlpost check`: what is wrong with a recipe's data and rewards is known before anything is trained."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rlpost.cli import app

RECIPE = """
name: mine
model: {init: tiny}
data: {path: DATA, prompt_column: question, max_prompt_tokens: 64}
rewards: gsm8k
algorithm: grpo
train: {steps: 5, prompts_per_step: 2, samples_per_prompt: 2}
"""


@pytest.fixture
def check(tmp_path):
    rows = [{"question": f"{n} + 1?", "answer": f"so #### {n + 1}"} for n in range(40)]

    def run(*arguments, change=lambda rows: rows):
        data = tmp_path / "train.jsonl"
        data.write_text("\n".join(map(json.dumps, change([dict(row) for row in rows]))))
        (tmp_path / "recipe.yaml").write_text(RECIPE.replace("DATA", str(data)))
        output = f"output={tmp_path / 'runs'}"
        runner = CliRunner(env={"COLUMNS": "300"})
        result = runner.invoke(app, ["check", str(tmp_path / "recipe.yaml"), output, *arguments])
        return result.exit_code, result.output

    return run


def test_a_sound_recipe_passes_with_its_sizes_and_all_gold_answers(check):
    status, output = check()
    assert status == 0, output
    assert "2 prompts x 2 samples = 4 sequences" in output
    for text in ("40 rows, 40 prompts", "40 of 40 score 1.0", "13 of 13 checks ok"):
        assert text in output
    status, output = check("--limit", "3")
    assert (status, "3 of 3" in output, "on the first 3 rows" in output) == (0, True, True)


def test_every_gold_answer_is_tried_and_a_failure_is_shown_with_its_row(check):
    def change(rows):
        rows[37]["answer"] = "#### many"
        return rows

    status, output = check(change=change)
    assert status == 1
    said = (
        "39 of 40",
        "line 38",
        "#### many",
        "the gold answer holds no",
        "2 errors (reward gsm8k, gold answers; reward gsm8k, garbage)",
    )
    for text in said:
        assert text in output, text


def test_each_thing_that_cannot_be_loaded_is_one_failed_check(check, tmp_path):
    status, output = check("data.max_prompt_tokens=5")
    assert (status, "40 of 40 prompts have more than" in " ".join(output.split())) == (1, True)
    status, output = check("model.init=./no/such/model")
    assert (status, "there is nothing at" in output, "not tried" in output) == (1, True, True)
    status, output = check("rewards=nowhere.py", "--no-hub")
    assert (status, "file does not exist" in output) == (1, True)
    (tmp_path / "level.py").write_text("def reward(completion, level): return 1.0")
    status, output = check(f"rewards={tmp_path / 'level.py'}")
    assert (status, "needs the column 'level'" in output) == (1, True)


def test_demonstrations_are_measured_against_the_model(check):
    stages = "stages=[{name: learn, source: demonstrations}]"
    supervised = [stages, "algorithm=sft", "data.demonstration_column=answer", "rewards=[]"]
    sizes = ["data.max_prompt_tokens=10", "rollout.max_response_tokens=8", "train.samples_per_prompt=1"]
    status, output = check(*supervised, *sizes, "model.tiny.max_positions=18")
    assert status == 1, output
    assert "31 of 40 demonstrations are longer than the model reads" in output
    assert "line 10: 19 tokens with the prompt" in output
    assert check(*supervised, *sizes, "model.tiny.max_positions=20")[0] == 0


@pytest.mark.slow
def test_the_shipped_recipes_pass_on_the_real_data(project_root, shared_data):
    gsm8k = f"data.path={shared_data / 'gsm8k/train.jsonl'}"
    math = f"data.path={shared_data / 'math500/test.jsonl'}"
    for recipe, *overrides in (
        ("quickstart",),
        ("gsm8k", gsm8k, "model.init=tiny"),
        (
            "math",
            math,
            f"evaluation.{math}",
            "model.init=tiny",
            "data.max_prompt_tokens=4096",
            "evaluation.data.max_prompt_tokens=4096",
            "rollout.max_response_tokens=512",
            "model.tiny.max_positions=8192",
        ),
    ):
        path = str(project_root / f"configs/{recipe}.yaml")
        result = CliRunner().invoke(app, ["check", path, *overrides])
        assert result.exit_code == 0, result.output[-2000:]


def test_json_has_every_finding_with_its_remedy_and_the_rows_that_failed(check):
    def change(rows):
        rows[2]["answer"] = "#### many"
        return rows

    status, output = check("--json", "train.warmup_steps=9", change=change)
    report = json.loads(output)
    assert (status, report["recipe"], report["ok"]) == (1, "mine", False)
    by_name = {entry["name"]: entry for entry in report["findings"]}
    assert by_name["learning rate, stage train"]["remedy"] == "set train.warmup_steps below 5"
    [failure] = by_name["reward gsm8k, gold answers"]["failures"]
    assert (failure["row"], failure["answer"]) == ("line 3", "#### many")


def test_the_fast_part_alone_loads_no_data(check):
    status, output = check("--fast", "data.path=absent.jsonl", "rewards=nowhere.py")
    assert (status, "absent.jsonl" in output, "checks ok" in output) == (0, False, True)
