"""`rlpost guide` on a tiny model, whole: what is hard and what helps, files, refusals, going on, training."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from rlpost.cli import app
from rlpost.config import load_config
from rlpost.data import load_prompts
from rlpost.errors import ConfigError, DataError, UserError
from rlpost.guidance import make_guidance
from rlpost.models import load_tokenizer

REWARD = """
def reward(completion, prompt, answer, need):
    return float(prompt.count("step") >= need)
"""
RECIPE = """
name: try
seed: 3
model: {{init: tiny, tiny: {{hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32}}}}
data: {{path: {folder}/out/train.jsonl, id_column: id, variant_column: variant, max_prompt_tokens: 256}}
rewards: {folder}/reward.py
rollout: {{max_response_tokens: 4}}
algorithm: grpo
train: {{steps: 2, prompts_per_step: 4, samples_per_prompt: 2}}
guidance:
  data: {{path: {folder}/problems.jsonl, demonstration_column: solution, id_column: id}}
  samples: 4
  first: 2
  samples_per_prefix: 2
  instruction: Go on.
evaluation:
  data: {{path: {folder}/out/hard.jsonl, id_column: id, max_prompt_tokens: 256}}
scoring: {{workers: 1, deadline_s: 60, canary: false}}
monitor: {{tensorboard: false}}
"""
STEPS = "step one, step two, step three, step four, so 7777"
"""A quarter shows 2 steps, three quarters 4; the whole holds the answer."""


def problem(id, need, solution=STEPS, **columns):
    return {
        "id": id,
        "prompt": f"problem {id}",
        "answer": "7777",
        "need": need,
        "solution": solution,
    } | columns


PROBLEMS = [
    problem("easy", 0),
    problem("first", 1, source="a"),
    problem("third", 4),
    problem("never", 99),
    problem("named", 1, solution="7777 it is, step by step"),
    problem("blank", 1, solution=""),
    problem("long", 1, solution="step " * 200 + "so 7777"),
]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def recipe(tmp_path):
    """A recipe over problems that are solved once the prompt shows so many steps."""
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))

    def recipe(*overrides, problems=PROBLEMS):
        (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
        return load_config(tmp_path / "recipe.yaml", overrides)

    return recipe


def made(config, output):
    console = Console(file=io.StringIO(), width=200)
    make_guidance(config, output, console)
    return console.file.getvalue()


@pytest.mark.slow
def test_hard_problems_get_the_shortest_beginning_that_helps(recipe, tmp_path):
    config, out = recipe(), tmp_path / "out"
    said = made(config, out)
    summary = json.loads((out / "guidance.json").read_text())
    assert summary["fates"] == {"hard": 5, "sometimes": 0, "always": 1, "failed": 0}
    assert summary["without_solution"] == {"empty": 1} and summary["problems"] == 7
    assert (summary["guided"], summary["helped"]) == (3, 2)
    assert summary["left_out"] == {"answer": 1, "too_long": 1}
    assert summary["responses"] == 2 + 5 * 4, "an easy problem was asked for more than the first look"

    train, hard, left = (lines(out / f"{name}.jsonl") for name in ("train", "hard", "left_out"))
    assert [(row["id"], row["variant"]) for row in train] == [
        (id + suffix, variant)
        for id in ("first", "third", "never")
        for suffix, variant in (("", "unguided"), ("+guided", "guided"))
    ]
    assert hard == train[::2] and [row["left_out"] for row in left] == ["answer", "too_long"]
    first, third, never = train[1::2]
    assert [round(row["prefix_share"], 2) for row in (first, third, never)] == [0.24, 0.72, 0.24]
    assert [row["guidance"]["helped"] for row in (first, third, never)] == [True, True, False]
    assert first["source"] == "a" and first["answer"] == "7777" and train[0]["prefix_share"] == 0.0
    assert train[0]["prompt"] == [{"role": "user", "content": "problem first"}]
    assert [m["role"] for m in first["prompt"]] == ["system", "user"]
    assert all("7777" not in json.dumps(row["prompt"]) for row in train)
    assert "5 of 6 problems are hard" in said and "hard: 5 (no response was right" in said
    assert "3 problems to train on" in said
    assert "a right response with it" in (out / "report.html").read_text()

    # The printed sections are the recipe's; both forms of a problem are prompts of their own.
    shown = yaml.safe_load(said[said.index("  data: {") :])
    ours = {"id_column": "id", "variant_column": "variant", "max_prompt_tokens": 256}
    assert shown["data"] == {"path": str(out / "train.jsonl"), **ours}
    del ours["variant_column"]
    assert shown["evaluation"]["data"] == {"path": str(out / "hard.jsonl"), **ours}
    prompts = load_prompts(config.stages[0].data, load_tokenizer(config.model))
    assert len({prompt.id for prompt in prompts}) == 6

    run = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run")])
    assert run.exit_code == 0, run.output[-2000:]
    metrics = lines(tmp_path / "run/metrics.jsonl")
    seen = {name: value for record in metrics for name, value in record.items()}
    assert seen["reward/variant/unguided/solved"] == 0.0 and seen["reward/variant/unguided/mean"] == 0.0
    assert seen["reward/variant/guided/solved"] == 2.0

    # A call that was interrupted goes on, and comes to the same.
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    rest = out / "profiles/unguided-rest.jsonl"
    rest.write_bytes(b"".join(rest.read_bytes().splitlines(keepends=True)[:2]) + b'{"id": "ne')
    (out / "profiles/guided-2.jsonl").unlink()
    assert "2 problems without a right response were profiled before" in made(config, out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    with pytest.raises(UserError, match="another evaluation"):
        made(recipe("guidance.parts=8"), out)


@pytest.mark.slow
def test_the_beginning_may_open_the_assistants_turn_and_a_first_look_changes_nothing(recipe, tmp_path):
    columns = ["data.prefill_column=prefill", "guidance.mode=assistant", "guidance.fallback=leave_out"]
    for name, first in (("some", 2), ("all", 4)):
        made(recipe(*columns, f"guidance.first={first}"), tmp_path / name)
    some, whole = ((tmp_path / name / "train.jsonl").read_text() for name in ("some", "all"))
    assert some == whole
    train = lines(tmp_path / "all/train.jsonl")
    assert [row["id"] for row in train] == ["first", "first+guided", "third", "third+guided"]
    assert train[1]["prompt"] == train[0]["prompt"] and train[0]["prefill"] is None
    assert STEPS.startswith(train[1]["prefill"]) and train[1]["prefill"]


def test_the_stages_own_data_may_hold_the_problems(recipe, tmp_path):
    columns = "demonstration_column: solution, id_column: id"
    own = f"data={{path: {tmp_path}/problems.jsonl, {columns}, system_prompt: S, max_prompt_tokens: 256}}"
    config = recipe("guidance.data=null", own, problems=PROBLEMS[1:3])
    said = made(config, tmp_path / "own")
    train = lines(tmp_path / "own/train.jsonl")
    assert [m["content"] for m in train[1]["prompt"] if m["role"] == "system"] == ["S\n\nGo on."]
    assert train[1]["id"] == train[0]["id"] + "+guided"
    section = yaml.safe_load(said[said.index("  data: {") :])["data"]
    load_config(tmp_path / "recipe.yaml", ["guidance=null", f"data={json.dumps(section)}"])


def test_what_leaves_nothing_to_train_on_is_told_after_the_report(recipe, tmp_path):
    with pytest.raises(DataError, match="no problem is hard") as caught:
        made(recipe(problems=PROBLEMS[:1]), tmp_path / "easy")
    assert "1 always" in str(caught.value) and (tmp_path / "easy/report.html").is_file()
    with pytest.raises(DataError, match="no hard problem can be guided") as caught:
        made(recipe(problems=[PROBLEMS[4]]), tmp_path / "named")
    assert "names the gold answer" in str(caught.value)
    assert len(lines(tmp_path / "named/left_out.jsonl")) == 1


def test_what_cannot_be_guided_is_refused_before_anything_is_sampled(recipe, tmp_path):
    out = tmp_path / "none"
    with pytest.raises(DataError, match="no problem has a solution"):
        made(recipe("guidance.data.demonstration_column=other"), out)
    with pytest.raises(DataError, match="'variant'"):
        made(recipe(problems=[problem("x", 1, variant="v")]), out)
    with pytest.raises(DataError, match="an id ends as those of guided problems do"):
        made(recipe(problems=[problem("x+guided", 1)]), out)
    with pytest.raises(UserError, match="no section `guidance`"):
        made(recipe("guidance=null"), out)
    assert not (out / "profiles").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guidance.data.demonstration_column=null", "no column holds them"),
        ("guidance.data.demonstration_column=prompt", "in a column of their own"),
        ("guidance.stage=tran", "no stage `tran` samples responses"),
        ("environment=lookup", "does not judge single responses"),
        ("data.instruction=Think.", "hold the instruction already"),
        ("guidance.data.task=addition", "one source"),
        ("guidance.data.prefill_column=begun", "cannot have a beginning already"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        recipe(override)


def test_a_beginning_that_leaves_no_room_for_a_response_is_not_tried(recipe, tmp_path):
    tight = ["model.tiny.max_positions=64", "data.max_prompt_tokens=60", "guidance.heading=B"]
    made(recipe(*tight, problems=[PROBLEMS[2]]), tmp_path / "tight")
    summary = json.loads((tmp_path / "tight/guidance.json").read_text())
    refused = [point["refused"] for point in summary["points"]]
    assert refused == [{}, {}, {"too_long": 1}, {"answer": 1}]
    assert [point["tried"] for point in summary["points"]] == [1, 1, 0, 0]
