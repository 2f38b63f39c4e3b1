"""Ten things people get wrong: each ends in one message that says what to do, and nothing is trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlpost import cli
from rlpost.training.checkpoint import MANIFEST

ROWS = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(8)]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project that trains as it is: a recipe, data and a reward."""
    monkeypatch.chdir(tmp_path)
    write_rows(ROWS)
    write_reward("1.0 if completion == answer else 0.0")
    recipe = {
        "model": {"init": "tiny", "tiny": {"hidden_size": 16, "layers": 1, "heads": 1, "max_positions": 64}},
        "data": {"path": "rows.jsonl", "template": "none", "max_prompt_tokens": 8},
        "rewards": "reward.py",
        "algorithm": "grpo",
        "rollout": {"max_response_tokens": 4},
        "train": {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2, "tokens_per_microbatch": 64},
        "scoring": {"workers": 1},
        "monitor": {"tensorboard": False},
        "checkpoint": {"every": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def write_rows(rows):
    lines = [row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows]
    Path("rows.jsonl").write_text("".join(lines))


def write_reward(expression):
    Path("reward.py").write_text(f"def reward(completion, answer):\n    return {expression}\n")


def fails(monkeypatch, capfd, *arguments):
    """The exit status and the message of a command that must fail without a traceback."""
    monkeypatch.setattr(sys, "argv", ["rlpost", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert sum(line.startswith("error:") for line in error.splitlines()) == 1
    return exit.value.code, error


def train(*more):
    return ("train", "recipe.yaml", "--output", "run", *more)


def test_an_unknown_key_names_the_nearest_one(project, monkeypatch, capfd):
    status, error = fails(monkeypatch, capfd, *train("train.learning_rat=0.1"))
    assert status == 2
    assert "train.learning_rat" in error
    assert "learning_rate" in error


def test_a_missing_file_is_named(project, monkeypatch, capfd):
    status, error = fails(monkeypatch, capfd, *train("data.path=absent.jsonl"))
    assert status == 2
    assert "absent.jsonl" in error


def test_a_malformed_row_is_named_by_file_and_line(project, monkeypatch, capfd):
    write_rows([*ROWS[:2], '{"prompt": "3+1=", \n', *ROWS[3:]])
    status, error = fails(monkeypatch, capfd, *train())
    assert status == 2
    assert "rows.jsonl" in error
    assert "line 3" in error or "rows.jsonl:3" in error


def test_a_missing_column_is_named_beside_those_that_are_there(project, monkeypatch, capfd):
    status, error = fails(monkeypatch, capfd, *train("data.prompt_column=promt"))
    assert status == 2
    assert "promt" in error
    assert "prompt" in error.replace("promt", "")


def test_an_empty_dataset_is_an_error(project, monkeypatch, capfd):
    write_rows([])
    status, error = fails(monkeypatch, capfd, *train())
    assert status == 2
    assert "rows.jsonl" in error


def test_an_overlong_prompt_is_an_error_that_says_which_and_how_long(project, monkeypatch, capfd):
    write_rows([*ROWS, {"prompt": "100000000+1=", "answer": "100000001"}])
    status, error = fails(monkeypatch, capfd, *train())
    assert status == 2
    assert "12" in error
    assert "max_prompt_tokens" in error
    assert "overlong_prompts" in error


def test_a_reward_that_raises_is_found_before_training(project, monkeypatch, capfd):
    write_reward("1 / 0")
    status, error = fails(monkeypatch, capfd, *train())
    assert status == 2
    assert "ZeroDivisionError" in error
    assert "reward.py" in error


def test_a_reward_that_returns_text_is_found_before_training(project, monkeypatch, capfd):
    write_reward("'correct'")
    status, error = fails(monkeypatch, capfd, *train())
    assert status == 2
    assert "str" in error
    assert "'correct'" in error


def test_samples_that_do_not_divide_into_updates_are_refused_with_the_nearest_sizes(
    project, monkeypatch, capfd
):
    status, error = fails(
        monkeypatch, capfd, *train("train.samples_per_prompt=3", "train.updates_per_step=8")
    )
    assert status == 2
    assert "4 prompts_per_step x 3 samples_per_prompt = 12 sequences" in error
    assert "samples_per_prompt to 2 or 4" in error


@pytest.mark.slow
def test_an_unreadable_checkpoint_is_refused_with_the_reason(project, monkeypatch, capfd):
    subprocess.run(
        [sys.executable, "-m", "rlpost.cli", *train()], check=True, stdout=subprocess.DEVNULL, timeout=120
    )
    for checkpoint in (project / "run" / "checkpoints").glob("step-*"):
        (checkpoint / MANIFEST).write_text("{")
    status, error = fails(monkeypatch, capfd, *train("--resume"))
    assert status == 1
    assert "step-000002: its manifest cannot be read" in error
    assert "--output" in error
