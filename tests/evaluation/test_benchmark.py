"""The library: what each benchmark asks of its file, and how a wrong name or folder is told."""

import json
import re
from pathlib import Path

import pytest

from rlpost.errors import DataError, UserError
from rlpost.evaluation import BENCHMARKS, find_benchmark


@pytest.mark.parametrize(
    ("name", "prompt", "reward", "id_column"),
    [
        ("gsm8k", "question", "gsm8k", None),
        ("math500", "problem", "math_answer", "unique_id"),
        ("aime24", "problem", "math_answer", "id"),
        ("aime25", "problem", "math_answer", "id"),
        ("amc23", "problem", "math_answer", "id"),
        ("minerva", "problem", "math_answer", None),
        ("olympiadbench", "problem", "math_answer", "id"),
        ("gpqa_diamond", "problem", "multiple_choice", "id"),
    ],
)
def test_each_benchmark_reads_its_own_file_and_columns(tmp_path, name, prompt, reward, id_column):
    path = tmp_path / name / "test.jsonl"
    path.parent.mkdir()
    path.write_text("{}\n")
    config = BENCHMARKS[name].data_config(tmp_path, limit=3)
    assert config.path == str(path)
    assert (config.prompt_column, config.answer_column, config.id_column) == (prompt, "answer", id_column)
    assert (config.limit, config.template, config.shuffle) == (3, "auto", False)
    assert config.max_prompt_tokens > 10**6  # what fits a model is the evaluation's to say
    assert config.overlong_prompts == "error"
    assert BENCHMARKS[name].reward_config().function == reward


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_each_benchmark_names_its_dataset_revision_licence_and_a_published_score(benchmark):
    assert re.fullmatch("[0-9a-f]{40}", benchmark.hub.revision)
    assert benchmark.hub.id.count("/") == 1 and benchmark.hub.licence and benchmark.hub.checked
    assert benchmark.problems and benchmark.source and benchmark.instruction
    for published in benchmark.published:
        assert 0 < published.score < 100 and published.model and published.settings and published.source
    assert json.loads(json.dumps(benchmark.record()))["dataset"]["revision"] == benchmark.hub.revision


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_each_benchmark_is_in_the_documentation_as_it_is_in_the_library(benchmark):
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{benchmark.name}` |")]
    assert f"{benchmark.problems:,}" in row and benchmark.hub.id in row and benchmark.hub.revision[:10] in row
    for published in benchmark.published:
        assert f"{published.model} {published.score}" in row


def test_an_unknown_benchmark_lists_those_there_are():
    with pytest.raises(
        UserError, match="gsm8k, math500, aime24, aime25, amc23, minerva, olympiadbench, gpqa_diamond"
    ) as caught:
        find_benchmark("gsm9k")
    assert "gsm9k" in str(caught.value) and caught.value.exit_status == 2


def test_a_missing_file_is_named_with_the_folder_option(tmp_path):
    with pytest.raises(DataError, match="--data-dir") as caught:
        find_benchmark("aime24").data_config(tmp_path, limit=None)
    assert str(tmp_path / "aime24" / "test.jsonl") in str(caught.value)
