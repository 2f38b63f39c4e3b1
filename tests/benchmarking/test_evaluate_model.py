"""The body of `rlpost eval`, from files to the table, with the tiny model and real verifiers."""

import hashlib
import json

import pytest

from rlpost.benchmarking import EvalOptions, evaluate_model, evaluate_models, renew_pages
from rlpost.config.schema import ScoringConfig
from rlpost.errors import DataError, RewardError, UserError
from rlpost.evaluation import regrade

ONE_WORKER = ScoringConfig(workers=1)


@pytest.fixture
def folder(tmp_path):
    rows = {
        "gsm8k": [
            {"question": f"What is {i} + {i}?", "answer": f"{i}+{i}={2 * i}\n#### {2 * i}"} for i in range(3)
        ],
        "amc23": [{"id": i, "problem": f"What is ${i}^2$?", "answer": float(i * i)} for i in range(3)],
    }
    for name, problems in rows.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in problems)
        (tmp_path / "data" / name / "test.jsonl").write_text(text)
    return tmp_path


def evaluate_tiny(folder, *benchmarks, **options):
    settings = {
        "data_dir": folder / "data",
        "output": folder / "out",
        "max_response_tokens": 6,
        "slots": 4,
        "scoring": ONE_WORKER,
    }
    return evaluate_model("tiny", benchmarks, **settings | options)


@pytest.mark.slow
def test_benchmarks_and_a_file_of_ones_own_end_in_one_table_and_one_folder_each(folder, capsys):
    mine = folder / "mine.jsonl"
    mine.write_text('{"q": "1+1=", "a": "2"}\n{"q": "2+2=", "a": "4"}\n')
    output = evaluate_tiny(
        folder,
        "gsm8k",
        "amc23",
        data=mine,
        prompt_column="q",
        answer_column="a",
        reward="exact_match",
        samples=2,
        limit=2,
    )
    printed = capsys.readouterr().out
    for name in ("gsm8k", "amc23", "mine"):
        record = json.loads((output / name / "results.json").read_text())
        assert (record["problems"], record["samples_per_problem"], record["complete"]) == (2, 2, True)
        assert record["manifest"]["data"]["fingerprint"] and record["manifest"]["model"]["weights_checksum"]
        assert record["manifest"]["settings"]["sampling"]["temperature"] == 1.0
        assert name in printed
    assert "0.0 to 65.8 %" in printed  # Wilson, none of 2 problems
    assert regrade(output, workers=1).changes == ()
    before = (output / "gsm8k" / "results.json").read_bytes()
    evaluate_tiny(folder, "gsm8k", samples=2, limit=2)  # goes on with what is there
    timing = json.loads((output / "gsm8k" / "timing.json").read_text())
    assert (timing["generated_samples"], timing["reused_samples"]) == (0, 4)
    assert (output / "gsm8k" / "results.json").read_bytes() == before


@pytest.mark.slow
def test_several_models_end_in_one_table_with_paired_differences_and_two_pages(
    folder, capsys, tiny_model, tiny_tokenizer
):
    for name in ("base", "runs/sums-1/policy"):
        tiny_model.save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    models = [str(folder / "base"), str(folder / "runs" / "sums-1")]  # a run directory is its policy
    options = {"data_dir": folder / "data", "max_response_tokens": 6, "scoring": ONE_WORKER}
    output = evaluate_models(
        models, ["gsm8k", "amc23"], EvalOptions(output=folder / "out", samples=2, limit=2, **options)
    )
    printed = capsys.readouterr().out
    for model in ("base", "sums-1"):
        for benchmark in ("gsm8k", "amc23"):
            assert (output / model / benchmark / "results.json").is_file()
    assert "sums-1 - base" in printed and "0.0 (0.0 to 65.8)" in printed
    table, page = (output / "table.md").read_text(), (output / "report.html").read_text()
    assert "| model | gsm8k | amc23 |" in table and "| sums-1 | 0.0 (0.0 to 65.8) |" in table
    assert "| gsm8k | sums-1 - base | +0.0 |" in table and "temperature 1, at most 6 tokens" in table
    assert "<svg" in page and "sums-1 - base" in page and "src=" not in page and "http" not in page
    assert len(regrade(output, workers=1).evaluations) == 4
    (output / "table.md").write_text("old")
    renew_pages(output)
    assert (output / "table.md").read_text() == table


def test_a_result_holds_the_templates_text_the_files_checksum_and_the_benchmarks_dataset(folder):
    output = evaluate_tiny(folder, "gsm8k", limit=1)
    manifest = json.loads((output / "gsm8k" / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "data" / "gsm8k" / "test.jsonl").read_bytes()).hexdigest()
    assert manifest["data"]["file_sha256"] == digest
    assert manifest["benchmark"]["dataset"]["id"] == "openai/gsm8k"
    assert "chat_template" in manifest and len(manifest["grading"]["source_sha256"]["gsm8k"]) == 64


def test_a_second_evaluation_is_compared_with_an_earlier_one(folder, capsys):
    evaluate_tiny(folder, "gsm8k", output=folder / "base")
    evaluate_tiny(folder, "gsm8k", "amc23", output=folder / "next", seed=1, against=folder / "base")
    printed = capsys.readouterr().out
    assert "paired by problem" in printed and (folder / "next" / "gsm8k" / "comparison.json").is_file()
    with pytest.raises(DataError, match="no finished evaluation"):
        evaluate_tiny(folder, "gsm8k", output=folder / "third", against=folder / "nothing")
    assert not (folder / "third").exists()


def test_fewer_problems_than_the_benchmark_has_are_pointed_out(folder, capsys):
    evaluate_tiny(folder, "amc23", limit=2)
    assert "2 problems instead of 40 (--limit 2)" in " ".join(capsys.readouterr().out.split())


def test_one_sample_per_problem_is_greedy(folder):
    output = evaluate_tiny(folder, "gsm8k", limit=1)
    record = json.loads((output / "gsm8k" / "results.json").read_text())
    assert record["manifest"]["settings"]["sampling"]["temperature"] == 0.0
    assert set(record["metrics"]) >= {"avg@1", "pass@1"}


@pytest.mark.parametrize(
    ("benchmarks", "options", "error", "message"),
    [
        ((), {}, UserError, "nothing to evaluate on"),
        (("gsm9k",), {}, UserError, "unknown benchmark 'gsm9k'"),
        (("math500",), {}, DataError, "no problems for math500"),
        (("gsm8k",), {"samples": 0}, UserError, "--samples is out of range"),
        (("gsm8k",), {"samples": 4, "temperature": 0.0}, UserError, "same response every time"),
        (("gsm8k",), {"top_p": 0.0}, UserError, "--top-p"),
        (("gsm8k",), {"limit": 0}, UserError, "--limit"),
        (("gsm8k",), {"max_response_tokens": 0}, UserError, "--max-response-tokens"),
        (("gsm8k",), {"max_response_tokens": 4096}, UserError, "no room for a prompt"),
        (("gsm8k",), {"max_response_tokens": 4090}, UserError, "no prompt of gsm8k fits"),
        (("gsm8k",), {"engine": "jax"}, UserError, "--engine"),
        (("gsm8k",), {"workers": 0}, UserError, "--workers"),
        (("gsm8k",), {"devices_per_worker": 2}, UserError, "--engine vllm"),
        (("gsm8k",), {"chat": True}, UserError, "--endpoint URL"),
        (("gsm8k",), {"endpoint": "http://x", "workers": 2, "slots": 8}, UserError, "--workers, --slots"),
        (("gsm8k",), {"reward": "gsm8k"}, UserError, "--data FILE"),
        ((), {"data": "mine.jsonl"}, UserError, "--reward FUNCTION"),
        ((), {"data": "missing.jsonl", "reward": "exact_match"}, DataError, "missing.jsonl"),
        ((), {"data": "data/gsm8k/test.jsonl", "reward": "no_such_reward"}, UserError, "no_such_reward"),
        ((), {"data": "data/gsm8k/test.jsonl", "reward": "exact_match"}, DataError, "no column 'prompt'"),
    ],
)
def test_bad_input_is_one_clear_user_error(folder, monkeypatch, benchmarks, options, error, message):
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=message):
        evaluate_tiny(folder, *benchmarks, **options)
    assert not (folder / "out").exists()


def test_a_gold_answer_that_its_verifier_refuses_stops_before_sampling(folder):
    path = folder / "data" / "gsm8k" / "test.jsonl"
    path.write_text(path.read_text() + json.dumps({"question": "What?", "answer": "no number"}) + "\n")
    with pytest.raises(RewardError, match="no number"):
        evaluate_tiny(folder, "gsm8k")


def test_a_model_that_is_not_there_is_the_users_mistake(folder):
    with pytest.raises(UserError, match="cannot be loaded"):
        evaluate_model("no/such/model", ["gsm8k"], data_dir=folder / "data", output=folder / "out")
