"""Benchmarks of one's own: the documented file works, mistakes in it are named."""

import json
from pathlib import Path

import pytest

from rlpost.benchmarking import evaluate_model
from rlpost.config.schema import ScoringConfig
from rlpost.errors import ConfigError, DataError, UserError
from rlpost.evaluation import load_benchmark

DOCUMENTED = (
    (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text().split("```yaml\n")[1].split("```")[0]
)

VERIFIER = """
def reward(completion, answer, digits=1):
    return float(answer[:digits] in completion)
"""


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "id": i} for i in range(3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "same_start.py").write_text(VERIFIER)
    return tmp_path


def write(folder, text):
    path = folder / "sums.yaml"
    path.write_text(text)
    return path


def test_the_documented_file_has_at_most_fifteen_lines_and_is_evaluated_like_a_shipped_benchmark(
    folder, capsys
):
    assert len(DOCUMENTED.strip().splitlines()) <= 15
    path = write(folder, DOCUMENTED)
    output = evaluate_model(
        "tiny",
        [str(path)],
        output=folder / "out",
        max_response_tokens=4,
        slots=4,
        scoring=ScoringConfig(workers=1),
    )
    record = json.loads((output / "sums" / "results.json").read_text())
    assert record["problems"] == 3
    assert record["manifest"]["benchmark"]["name"] == "sums"
    assert record["manifest"]["data"]["id_column"] == "id"
    assert "instead of 120" in capsys.readouterr().out


def test_a_verifier_beside_the_file_is_found_with_its_options(folder):
    path = write(
        folder,
        "name: sums\nfile: sums.jsonl\nprompt_column: question\n"
        "reward: same_start.py:reward\noptions: {digits: 2}\n",
    )
    config = load_benchmark(path).reward_config()
    assert config.function == f"{folder / 'same_start.py'}:reward" and config.options == {"digits": 2}


def test_a_shipped_verifier_stays_a_name(folder):
    path = write(folder, "name: sums\nfile: sums.jsonl\nreward: math_answer\n")
    assert load_benchmark(path).reward == "math_answer"
    assert load_benchmark(path).path == str(folder / "sums.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: sums\nfile: sums.jsonl\n", "reward: missing"),
        ("name: a/b\nfile: x\nreward: gsm8k\n", "name: "),
        ("name: sums\nfile: x\nreward: gsm8k\nprompt_colum: q\n", "did you mean 'prompt_column'"),
        ("name: sums\nfile: x\nreward: gsm8k\ndataset: {id: a/b}\n", "dataset.revision: missing"),
        ("name: sums\nfile: x\nreward: gsm8k\nproblems: many\n", "problems: "),
        ("- name\n", "not a mapping"),
    ],
)
def test_mistakes_in_the_file_are_named(folder, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_benchmark(write(folder, text))
    assert "sums.yaml" in str(caught.value)


def test_a_missing_yaml_or_data_file_and_a_name_taken_twice_are_refused(folder):
    with pytest.raises(ConfigError, match="does not exist"):
        evaluate_model("tiny", [str(folder / "other.yaml")], output=folder / "out")
    path = write(folder, "name: sums\nfile: gone.jsonl\nreward: gsm8k\n")
    with pytest.raises(DataError, match="no problems for sums"):
        evaluate_model("tiny", [str(path)], output=folder / "out")
    path = write(folder, "name: gsm8k\nfile: sums.jsonl\nreward: gsm8k\n")
    with pytest.raises(UserError, match="same name"):
        evaluate_model("tiny", [str(path), "gsm8k"], output=folder / "out")
