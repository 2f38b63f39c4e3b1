"""The example on docs/algorithms/extending.md is short, and trains in the lab as it stands there."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from rlpost.cli import app


@pytest.fixture
def example(project_root, tmp_path):
    """The page's part and arms, written to a folder as a reader would."""
    page = (project_root / "docs/algorithms/extending.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "sign.py").write_text(blocks["python"])
    (tmp_path / "arms.yaml").write_text(blocks["yaml"])
    return blocks, tmp_path


def test_the_example_has_at_most_25_lines(example):
    blocks, _ = example
    lines = [line for block in blocks.values() for line in block.splitlines() if line.strip()]
    assert len(lines) <= 25


@pytest.mark.slow
def test_the_example_trains_in_the_lab(example, project_root):
    _, folder = example
    few = ["stages.warmup.train.steps=3", "stages.rl.train.steps=4", "stages.rl.train.prompts_per_step=8"]
    result = CliRunner().invoke(
        app,
        [
            "compare",
            str(project_root / "configs/lab/addition.yaml"),
            *("--arms", str(folder / "arms.yaml"), "--seeds", "1", "--jobs", "1"),
            *("--output", str(folder / "out")),
            *(*few, "evaluation.problems=10"),
        ],
    )
    assert result.exit_code == 0, result.output[-2000:]
    arms = {path.parent.name for path in (folder / "out/runs/addition").glob("*/seed-0")}
    assert arms == {"grpo", "sign"}
    assert json.loads((folder / "out/comparison.json").read_text())["tasks"]
