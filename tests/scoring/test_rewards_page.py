"""docs/rewards.md: its files and its commands, taken from the page and run as a reader would."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from typer.testing import CliRunner

from rlpost.cli import app

BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)


@pytest.fixture
def reader(project_root, tmp_path, monkeypatch):
    """The page's commands in their order; its files are in the current folder, parts of one file joined."""
    monkeypatch.chdir(tmp_path)
    commands = []
    for language, title, text in BLOCK.findall((project_root / "docs/rewards.md").read_text()):
        if title:
            with (tmp_path / title).open("a") as file:
                file.write(f"{text}\n\n" if language == "python" else text)
        elif language == "sh":
            commands += [shlex.split(line)[1:] for line in text.splitlines()]
    return commands


def run(arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def test_the_pages_score_and_check_commands_do_what_it_says(reader, tmp_path):
    chosen = [command for command in reader if command[0] in ("score", "check")]
    assert [command[0] for command in chosen] == ["score", "check", "score"]
    scored, checked, judged = map(run, chosen)
    assert (scored.exit_code, checked.exit_code, judged.exit_code) == (0, 0, 0), (
        scored.output + checked.output
    )
    assert "as expected: 4 of 4" in scored.output and "my_reward/short" in scored.output
    assert "all" in checked.output and "3 of 3" in checked.output
    broken = (tmp_path / "my_reward.py").read_text().replace("numbers[-1]", "numbers[0]")
    (tmp_path / "my_reward.py").write_text(broken)
    scored = run(chosen[0])
    assert scored.exit_code == 1 and "not as expected" in scored.output


@pytest.mark.slow
def test_the_page_trains_and_its_metrics_are_there(reader, tmp_path):
    [train] = [command for command in reader if command[0] == "train"]
    result = run(train)
    assert result.exit_code == 0, result.output[-2000:]
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    step = next(s for s in steps if "reward/mean" in s)
    assert {"reward/part/my_reward", "reward/part/my_reward/short"} <= set(step)
    assert step["scoring/repeated"] == 0
    assert step["scoring/scored"] + step["scoring/unparseable"] == 12
