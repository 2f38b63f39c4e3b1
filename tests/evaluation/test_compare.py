"""Two stored results side by side: same problems, same verifier, or a refusal that says what to do."""

import io
import json
from dataclasses import replace

import pytest
from evaluation_parts import VERIFIER, SeededEngine, make_prompts
from rich.console import Console

from rlpost.errors import DataError, UserError
from rlpost.evaluation import compare_results, comparison_table, regrade

GOOD = SeededEngine(words={i: f"\\boxed{{{i % 3}}}" for i in range(6)})


def test_a_comparison_pairs_the_problems_and_is_stored_beside_the_first_result(run, tmp_path):
    base = run(output=tmp_path / "base")
    better = run(GOOD, output=tmp_path / "better", samples=2)
    (comparison,) = compare_results(tmp_path / "better", tmp_path / "base")
    assert (comparison.accuracy, comparison.accuracy_against) == (1.0, base.accuracy.value)
    assert comparison.test.difference == pytest.approx(better.accuracy.value - base.accuracy.value)
    assert comparison.test.worse == 0 and comparison.test.low > 0
    assert any("samples_per_problem was 4, now 2" in line for line in comparison.unlike)
    record = json.loads((tmp_path / "better" / "comparison.json").read_text())
    assert [row["prompt_id"] for row in record["problems"]] == [f"p{i}" for i in range(6)]
    assert record["test"]["p_value"] == comparison.test.p_value
    console = Console(width=80, file=io.StringIO())
    console.print(comparison_table([replace(comparison, directory=tmp_path / "olympiadbench")]))
    assert "…" not in console.file.getvalue() and "olympiadbench" in console.file.getvalue()


def test_several_benchmarks_are_paired_by_name(run, tmp_path):
    for model in ("a", "b"):
        run(output=tmp_path / model / "one")
        run(output=tmp_path / model / "two", samples=1)
    run(output=tmp_path / "b" / "three")
    found = compare_results(tmp_path / "a", tmp_path / "b")
    assert [c.directory.name for c in found] == ["one", "two"]
    assert all((c.test.difference, c.test.p_value) == (0.0, 1.0) for c in found)


def test_results_without_a_common_benchmark_or_problem_are_refused(run, tmp_path):
    run(output=tmp_path / "a" / "one")
    run(output=tmp_path / "b" / "two")
    run(output=tmp_path / "b" / "three")
    with pytest.raises(UserError, match="no benchmark in common"):
        compare_results(tmp_path / "a", tmp_path / "b")
    run(output=tmp_path / "less", prompts=make_prompts(5))
    with pytest.raises(UserError, match=r"1 problems in the first alone, 0 in the second alone, such as p5"):
        compare_results(tmp_path / "a", tmp_path / "less")
    with pytest.raises(DataError, match="no finished evaluation"):
        compare_results(tmp_path / "a", tmp_path / "nothing")


def test_another_gold_answer_is_refused(run, tmp_path):
    run(output=tmp_path / "a")
    changed = [
        replace(prompt, columns=prompt.columns | {"answer": "9"}) if prompt.id == "p2" else prompt
        for prompt in make_prompts()
    ]
    run(output=tmp_path / "b", prompts=changed)
    with pytest.raises(UserError, match="another gold answer") as caught:
        compare_results(tmp_path / "a", tmp_path / "b")
    assert "p2: '2' and '9'" in str(caught.value)


def test_results_of_different_verifiers_are_comparable_after_grading_both_again(run, tmp_path):
    verifier = tmp_path / "boxed_digit.py"
    verifier.write_text(VERIFIER)
    run(output=tmp_path / "a", reward=verifier)
    verifier.write_text(VERIFIER + "\n# mended\n")
    run(output=tmp_path / "b", reward=verifier)
    with pytest.raises(UserError, match="same verifier") as caught:
        compare_results(tmp_path / "a", tmp_path / "b")
    assert "rlpost regrade" in str(caught.value)
    for name in ("a", "b"):
        regrade(tmp_path / name, workers=1)
    (comparison,) = compare_results(tmp_path / "a", tmp_path / "b")
    assert comparison.test.difference == 0.0
