"""The registry: what each benchmark asks of its file, and how a wrong name or folder is told."""

import pytest

from rlpost.errors import DataError, UserError
from rlpost.evaluation import BENCHMARKS, find_benchmark


@pytest.mark.parametrize(
    ("name", "prompt", "reward", "id_column"),
    [
        ("gsm8k", "question", "gsm8k", None),
        ("math500", "problem", "math_answer", "unique_id"),
        ("aime24", "problem", "math_answer", "id"),
        ("amc23", "problem", "math_answer", "id"),
    ],
)
def test_each_benchmark_reads_its_own_file_and_columns(tmp_path, name, prompt, reward, id_column):
    path = tmp_path / name / "test.jsonl"
    path.parent.mkdir()
    path.write_text("{}\n")
    config = BENCHMARKS[name].data_config(tmp_path, limit=3, max_prompt_tokens=77)
    assert config.path == str(path)
    assert (config.prompt_column, config.answer_column, config.id_column) == (prompt, "answer", id_column)
    assert (config.limit, config.max_prompt_tokens, config.shuffle) == (3, 77, False)
    assert config.overlong_prompts == "error"
    assert BENCHMARKS[name].reward_config().function == reward


def test_an_unknown_benchmark_lists_those_there_are():
    with pytest.raises(UserError, match="gsm8k, math500, aime24, amc23") as caught:
        find_benchmark("gsm9k")
    assert "gsm9k" in str(caught.value) and caught.value.exit_status == 2


def test_a_missing_file_is_named_with_the_folder_option(tmp_path):
    with pytest.raises(DataError, match="--data-dir") as caught:
        find_benchmark("aime24").data_config(tmp_path, limit=None, max_prompt_tokens=10)
    assert str(tmp_path / "aime24" / "test.jsonl") in str(caught.value)
