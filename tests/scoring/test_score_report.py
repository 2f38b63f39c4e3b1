import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rlpost.cli import app
from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.errors import DataError, RewardError
from rlpost.scoring import render, score_file

SCORING = ScoringConfig(workers=1, deadline_s=1.0)
SLOW = """
import time
def reward(completion, answer):
    if completion == "slow": time.sleep(0.2)
    if completion == "hang": time.sleep(1000)
    return float(completion == answer)
"""


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_file_is_scored_row_by_row_and_written_with_verdicts(tmp_path):
    (tmp_path / "mine.py").write_text(SLOW)
    rows = [
        {"completion": "4", "answer": "4", "expected": 1},
        {"completion": "slow", "answer": "4", "expected": 1},
        {"completion": "hang", "answer": "4", "expected": 0},
        {"completion": "5", "answer": "4", "prompt": [{"role": "user", "content": "2 + 2?"}]},
    ]
    output = tmp_path / "new" / "out.jsonl"
    config = RewardConfig(function=str(tmp_path / "mine.py"))
    report = score_file([config], write(tmp_path / "in.jsonl", rows), output, SCORING)
    assert report.counts == {"scored": 3, "unparseable": 0, "timeout": 1, "error": 0}
    assert report.mean == pytest.approx(1 / 3)
    assert [row.place.number for row in report.slowest[:2]] == [3, 2]
    assert [row.place.number for row in report.disagreements] == [2, 3]
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["score"] for row in written] == [1.0, 0.0, None, 0.0]
    assert [row["outcome"] for row in written] == ["scored", "scored", "timeout", "scored"]
    assert written[0]["parts"] == {"mine": 1.0}
    assert written[3]["prompt"] == rows[3]["prompt"]
    screen = io.StringIO()
    render(report, Console(file=screen, width=120))
    said = ("mine: 4 completions", "0.3333", "not as expected: 2", "no score within 1 s", "out.jsonl")
    said += ("as expected: 1 of 3 rows", "without a score: 1", "slowest of 4", "line 2")
    for text in said:
        assert text in screen.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ('{"completion": "4", "answer": "4"}\n{oops\n', r"(?s)1 of 2 rows.*in.jsonl.*line 2: malformed JSON"),
        (
            '{"complete": "4"}\n',
            r"line 1: no column 'completion' \(did you mean 'complete'\?\); columns: complete",
        ),
        ("[1]\n", r"(?s)in.jsonl.*line 1.*list"),
        (
            '{"completion": "4", "expected": "yes", "answer": "4"}\n',
            r"line 1: 'expected' is text 'yes', not a score",
        ),
        ('{"completion": 4, "answer": "4"}\n', r"line 1: 'completion' is a number 4, not text"),
    ],
)
def test_a_malformed_file_is_one_error_that_names_the_line(tmp_path, content, says):
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(DataError, match=says):
        score_file([RewardConfig(function="gsm8k")], tmp_path / "in.jsonl", None, SCORING)


def test_a_missing_file_and_a_missing_column_are_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        score_file([RewardConfig(function="gsm8k")], tmp_path / "none.jsonl", None, SCORING)
    rows = [{"completion": "4", "answer": "4"}, {"completion": "4"}]
    with pytest.raises(RewardError, match=r"(?s)needs the column 'answer'.*columns: completion"):
        score_file([RewardConfig(function="gsm8k")], write(tmp_path / "in.jsonl", rows), None, SCORING)


def test_a_file_on_which_everything_fails_has_no_mean(tmp_path):
    (tmp_path / "mine.py").write_text("def reward(completion): raise ValueError('no')")
    path = write(tmp_path / "in.jsonl", [{"completion": "[bold]4"}])
    report = score_file([RewardConfig(function=str(tmp_path / "mine.py"))], path, None, SCORING)
    assert report.mean is None
    render(report, Console(file=io.StringIO()))


def test_the_command_scores_by_several_rewards_a_recipe_and_chosen_columns_and_is_strict_on_request(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"text": "#### 4", "answer": "#### 4", "label": 1.5},
        {"text": "5", "answer": "#### 4", "label": 1.5},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    (tmp_path / "half.py").write_text("def reward(completion): return {'score': 0.5, 'words': 1}")
    (tmp_path / "run.yaml").write_text(
        "model: {init: tiny}\ndata: {task: addition}\nalgorithm: grpo\n"
        f"rewards: [gsm8k, {{function: {tmp_path / 'half.py'}, weight: 2}}]\n"
    )

    def run(reward, *more):
        columns = ("--completion", "text", "--expected", "label", "--workers", "1")
        return CliRunner().invoke(app, ["score", reward, str(tmp_path / "in.parquet"), *columns, *more])

    several = run(f"gsm8k,{tmp_path / 'half.py'}", "--limit", "1", "--strict")
    assert several.exit_code == 0, several.output
    for text in ("gsm8k + half: 1 completions", "half/words", "as expected: 1 of 1", "mean score: 1.5000"):
        assert text in several.output
    lenient, strict = run(str(tmp_path / "run.yaml")), run(str(tmp_path / "run.yaml"), "--strict")
    assert (lenient.exit_code, strict.exit_code) == (0, 1)
    assert "mean score: 1.5000" in lenient.output and "not as expected: 2" in lenient.output
    unclear = run(f"gsm8k,{tmp_path / 'half.py'}", "--option", "scale=2")
    assert "unclear whose option" in str(unclear.exception)
