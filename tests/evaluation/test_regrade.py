"""regrade: the same bytes from the same verifier, a report from another one, no model at all."""

import json
import subprocess
import sys

import pytest
from evaluation_parts import VERIFIER, SeededEngine, read_files

from rlpost.errors import DataError
from rlpost.evaluation import regrade

LENIENT = VERIFIER.replace("== answer", "in (answer, '0')")


@pytest.fixture
def own_verifier(tmp_path):
    path = tmp_path / "boxed_digit.py"
    path.write_text(VERIFIER)
    return path


def test_the_same_verifier_gives_the_same_bytes(run, tmp_path):
    run(SeededEngine(words={3: "crash"}), max_failure_share=0.5)
    before = read_files(tmp_path / "out")
    (evaluation,) = regrade(tmp_path / "out", workers=1).evaluations
    assert evaluation.changes == () and evaluation.samples == 24
    assert read_files(tmp_path / "out") == before


def test_another_verifier_renews_the_results_and_names_the_samples(run, own_verifier, tmp_path):
    before = run(reward=own_verifier)
    own_verifier.write_text(LENIENT)
    (evaluation,) = regrade(tmp_path / "out", workers=1).evaluations
    stored = [json.loads(line) for line in (tmp_path / "out" / "generations.jsonl").read_text().splitlines()]
    zeros = {
        (g["prompt_id"], g["sample"]) for g in stored if "{0}" in g["text"] and g["columns"]["answer"] != "0"
    }
    assert zeros
    assert {(c.prompt_id, c.sample) for c in evaluation.changes} == zeros
    assert all((c.before.score, c.after.score) == (0.0, 1.0) for c in evaluation.changes)
    assert evaluation.accuracy_before == before.accuracy.value
    assert evaluation.result.accuracy.value == pytest.approx(before.accuracy.value + len(zeros) / 24)
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["metrics"]["avg@4"]["value"] == evaluation.result.accuracy.value


def test_changing_the_verifier_back_restores_every_byte(run, own_verifier, tmp_path):
    run(reward=own_verifier)
    before = read_files(tmp_path / "out")
    own_verifier.write_text(LENIENT)
    regrade(tmp_path / "out", workers=1)
    assert read_files(tmp_path / "out") != before
    own_verifier.write_text(VERIFIER)
    regrade(tmp_path / "out", workers=1)
    assert read_files(tmp_path / "out") == before


def test_a_verifier_named_on_the_command_line_replaces_the_one_of_the_results(run, tmp_path):
    run()
    other = tmp_path / "lenient.py"
    other.write_text(LENIENT)
    assert regrade(tmp_path / "out", reward=str(other), workers=1).changes
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [reward["function"] for reward in manifest["grading"]["rewards"]] == [str(other)]
    assert regrade(tmp_path / "out", workers=1).changes == ()


def as_the_first_format(folder):
    """The files as they were before they named a format."""
    for name in ("results.json", "manifest.json"):
        record = json.loads((folder / name).read_text())
        for key in ("format", "pass_at_k", "truncated_correct"):
            record.pop(key, None)
        manifest = record.get("manifest", record)
        manifest.pop("format", None)
        del manifest["grading"]["source_sha256"]
        (folder / name).write_text(json.dumps(record, indent=2) + "\n")


def test_results_of_the_first_format_are_graded_again_and_brought_to_this_one(run, tmp_path):
    run()
    before = read_files(tmp_path / "out")
    as_the_first_format(tmp_path / "out")
    assert regrade(tmp_path / "out", workers=1).changes == ()
    after = read_files(tmp_path / "out")
    assert json.loads(after["results.json"]) == json.loads(before["results.json"])
    assert after["generations.jsonl"] == before["generations.jsonl"]


def test_results_of_a_later_format_are_refused(run, tmp_path):
    run()
    path = tmp_path / "out" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DataError, match="a later version of rlpost") as caught:
        regrade(tmp_path / "out")
    assert "format 99" in str(caught.value)


def test_all_benchmarks_below_a_directory_are_graded(run, tmp_path):
    run(output=tmp_path / "all" / "one")
    run(output=tmp_path / "all" / "two", samples=1)
    report = regrade(tmp_path / "all", workers=1)
    assert [e.directory.name for e in report.evaluations] == ["one", "two"]
    assert report.changes == ()


def test_an_evaluation_that_is_not_finished_is_not_graded(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(SeededEngine(stop_after=8))
    with pytest.raises(DataError, match="no finished evaluation"):
        regrade(tmp_path / "out")


def test_missing_and_damaged_generations_are_named(run, tmp_path):
    run()
    path = tmp_path / "out" / "generations.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="23 samples"):
        regrade(tmp_path / "out")
    path.write_text("".join([*lines[:2], "{}\n", *lines[3:]]))
    with pytest.raises(DataError, match=r"generations\.jsonl:3"):
        regrade(tmp_path / "out")


@pytest.mark.slow
def test_grading_again_loads_no_model_library(run, tmp_path):
    run()
    code = (
        "import sys, rlpost.evaluation as e\n"
        "heavy = {'transformers', 'datasets', 'ray', 'vllm', 'deepspeed', 'math_verify', 'plotly'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"assert e.regrade({str(tmp_path / 'out')!r}, workers=1).changes == ()\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
