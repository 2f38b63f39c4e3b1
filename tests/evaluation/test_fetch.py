"""Published data sets as local files: rows converted, counted, pinned."""

import json
from dataclasses import replace

import pytest

import rewards.multiple_choice as multiple_choice
from rlpost.errors import DataError
from rlpost.evaluation.benchmark import Benchmark, HubDataset
from rlpost.evaluation.conversions import gpqa, olympiadbench, question_as_problem
from rlpost.evaluation.fetch import fetch

QUESTION = {
    "Question": "Which of these is a noble gas? ",
    "Correct Answer": "Neon\n",
    "Incorrect Answer 1": "Iron",
    "Incorrect Answer 2": "Chlorine",
    "Incorrect Answer 3": "Sodium",
    "Record ID": "rec1",
}
OLYMPIAD = {
    "id": 7,
    "question": "Find all $x$.",
    "context": None,
    "final_answer": ["$2$", " $-2$"],
    "answer_type": "Numerical",
    "language": "English",
    "modality": "Text-only",
    "question_type": "Open-ended",
}


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(3)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Benchmark(
        name="sums",
        path="sums/test.jsonl",
        prompt_column="problem",
        answer_column="answer",
        reward="exact_match",
        problems=3,
        hub=HubDataset(id=str(folder), revision="0" * 40, split="test"),
        convert=question_as_problem,
    )


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_local_file_holds_the_converted_rows_and_loads_as_the_benchmark(published, tmp_path):
    path = fetch(published, tmp_path / "data")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"problem": f"What is {i}?", "answer": str(i)} for i in range(3)
    ]
    config = published.data_config(tmp_path / "data", limit=None)
    assert config.path == str(path) == str(tmp_path / "data" / "sums" / "test.jsonl")


def test_another_number_of_problems_than_the_benchmark_has_is_refused(published, tmp_path):
    with pytest.raises(DataError, match="number of problems"):
        fetch(replace(published, problems=4), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_rows_without_the_expected_columns_are_refused(published, tmp_path):
    with pytest.raises(DataError, match="columns question, answer"):
        fetch(replace(published, convert=gpqa), tmp_path / "data")


def test_a_data_set_that_cannot_be_reached_names_the_file_to_bring(published, tmp_path):
    gone = replace(published, hub=replace(published.hub, id=str(tmp_path / "gone")))
    with pytest.raises(DataError, match="cannot be fetched") as caught:
        fetch(gone, tmp_path / "data")
    assert "sums/test.jsonl as --data-dir" in str(caught.value)


def test_options_of_a_question_stand_in_an_order_of_its_own_and_the_right_letter_is_the_gold_answer():
    row = gpqa(QUESTION)
    assert row == gpqa(dict(QUESTION)) and row["id"] == "rec1"
    assert sorted(row["choices"]) == ["Chlorine", "Iron", "Neon", "Sodium"]
    assert row["choices"]["ABCD".index(row["answer"])] == "Neon"
    assert f"({row['answer']}) Neon" in row["problem"]
    verdict = multiple_choice.reward(rf"\boxed{{{row['answer']}}}", row["answer"], row["choices"])
    assert verdict["score"] == 1.0
    letters = {gpqa(QUESTION | {"Question": f"Question {i}?"})["answer"] for i in range(40)}
    assert letters == set("ABCD")


def test_an_olympiad_problem_keeps_all_its_answers_and_other_kinds_are_left_out():
    row = olympiadbench(OLYMPIAD)
    assert (row["problem"], row["answer"], row["answer_type"]) == ("Find all $x$.", "2, -2", "Numerical")
    assert olympiadbench(OLYMPIAD | {"context": "Let $a=1$. "})["problem"] == "Let $a=1$.\n\nFind all $x$."
    for other in ({"language": "Chinese"}, {"modality": "Multimodal"}, {"question_type": "Theorem proof"}):
        assert olympiadbench(OLYMPIAD | other) is None
