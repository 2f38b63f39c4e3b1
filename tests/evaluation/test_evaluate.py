"""evaluate: right numbers, nothing lost, nothing done twice, nothing silently wrong."""

import datetime
import json
import math
from dataclasses import replace

import pytest
from evaluation_parts import SeededEngine, make_prompts, read_files

from rlpost.data.trajectory import Prompt
from rlpost.errors import DataError, RolloutError, UserError
from rlpost.evaluation import load_result, regrade
from rlpost.evaluation.evaluate import sample_seed


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_numbers_are_those_of_the_stored_generations(run, tmp_path):
    result = run()
    stored = lines_of(tmp_path / "out" / "generations.jsonl")
    right = [
        [g["text"] == f"It is \\boxed{{{p % 3}}}." for g in stored if g["problem"] == p] for p in range(6)
    ]
    share = [sum(r) / 4 for r in right]
    assert 0 < sum(share) < 6
    assert result.accuracy.value == pytest.approx(sum(share) / 6)
    assert result.metrics["pass@1"].value == pytest.approx(sum(share) / 6)
    pass_at_2 = [1 - math.comb(4 - sum(r), 2) / 6 for r in right]
    assert result.metrics["pass@2"].value == pytest.approx(sum(pass_at_2) / 6)
    assert result.metrics["pass@4"].value == sum(any(r) for r in right) / 6
    assert result.truncated_share == sum(g["seed"] % 5 == 0 for g in stored) / 24
    assert result.response_tokens_mean == sum(len(g["token_ids"]) for g in stored) / 24
    assert result.score_mean == pytest.approx(sum(share) / 6)
    assert (result.problems, result.samples_per_problem, result.complete) == (6, 4, True)


def test_a_stored_generation_holds_what_grading_it_again_needs(run, tmp_path):
    run()
    stored = lines_of(tmp_path / "out" / "generations.jsonl")
    assert [(g["problem"], g["sample"]) for g in stored] == [(p, s) for p in range(6) for s in range(4)]
    first = stored[0]
    assert first["prompt"] == "problem 0" and first["columns"] == {"answer": "0", "level": 0}
    assert bytes(first["token_ids"]).decode() == first["text"]
    assert first["outcome"] == "scored" and first["score"] in (0.0, 1.0)


def test_results_json_holds_the_metrics_and_the_manifest_and_problems_one_line_each(run, tmp_path):
    result = run()
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["metrics"]["avg@4"]["value"] == result.accuracy.value
    assert set(record["metrics"]) == {"avg@4", "pass@1", "pass@2", "pass@4", "maj@1", "maj@2", "maj@4"}
    assert record["manifest"]["settings"]["sampling"]["temperature"] == 1.0
    assert record["manifest"]["model"] == {"init": "seeded", "version": 7}
    table = lines_of(tmp_path / "out" / "problems.jsonl")
    assert [row["prompt_id"] for row in table] == [f"p{i}" for i in range(6)]
    assert sum(row["correct"] for row in table) / 24 == pytest.approx(result.accuracy.value)


def test_pass_at_k_is_kept_for_every_k_and_truncated_answers_are_counted_apart(run, tmp_path):
    result = run(SeededEngine(words={0: "\\boxed{0}", 1: "\\boxed{1}", 2: "\\boxed{2}", 3: "\\boxed{0}"}))
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [e["value"] for e in record["pass_at_k"]] == [e.value for e in result.pass_at_k]
    assert len(result.pass_at_k) == 4 and result.pass_at_k[1] == result.metrics["pass@2"]
    assert all(e["low"] <= e["value"] <= e["high"] for e in record["pass_at_k"])
    cut = [g for g in lines_of(tmp_path / "out" / "generations.jsonl") if g["finish_reason"] == "length"]
    assert 0 < record["truncated_correct"] == sum(g["score"] for g in cut) <= len(cut)


def test_a_verifier_that_changed_meanwhile_does_not_continue_an_evaluation(run, tmp_path):
    verifier = tmp_path / "boxed_digit.py"
    verifier.write_text("def reward(completion, answer):\n    return 1.0\n")
    run(reward=verifier)
    verifier.write_text("def reward(completion, answer):\n    return 0.0\n")
    with pytest.raises(UserError, match=r"grading\.source_sha256"):
        run(reward=verifier)


def test_the_summary_and_the_metrics_of_a_run_hold_every_pass_at_k(run):
    result = run()
    expected = {f"pass@{k}": result.metrics[f"pass@{k}"].value for k in (1, 2, 4)}
    assert 0 < expected["pass@1"] < expected["pass@2"] < expected["pass@4"]
    summary, scalars = result.summary(), result.scalars()
    assert {name: summary[name] for name in summary if name.startswith("pass@")} == expected
    assert {name: scalars[f"eval/{name}"] for name in expected} == expected
    assert summary["accuracy"] == scalars["eval/accuracy"] == pytest.approx(expected["pass@1"])
    assert json.loads(json.dumps(summary)) == summary


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_bytes(run, tmp_path):
    run(output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(SeededEngine(stop_after=9), output=tmp_path / "cut")
    lines = (tmp_path / "whole" / "generations.jsonl").read_text().splitlines(keepends=True)
    stored = lines_of(tmp_path / "cut" / "generations.jsonl")
    # Answers come from the end, in threes: problems 5 and 4 are complete, one sample of problem 3 is there.
    assert [(g["problem"], g["sample"]) for g in stored] == [(p, s) for p in (5, 4) for s in range(4)]
    with (tmp_path / "cut" / "generations.jsonl").open("a") as file:
        file.write(lines[8])
        file.write('{"problem": 2, "prompt_id": "p2", "sam')  # killed while writing
    told, again = [], SeededEngine()
    run(again, output=tmp_path / "cut", on_progress=lambda p: told.append((p.done, p.ignored_lines)))
    assert told[0] == (2, 2) and told[-1] == (6, 2)
    assert sorted(again.asked) == [f"{p:06d}-{s:03d}" for p in range(4) for s in range(4)]
    assert read_files(tmp_path / "cut") == read_files(tmp_path / "whole")
    timing = json.loads((tmp_path / "cut" / "timing.json").read_text())
    assert (timing["generated_samples"], timing["reused_samples"], timing["ignored_lines"]) == (16, 8, 2)


def test_a_finished_evaluation_is_not_sampled_again(run, tmp_path):
    first = run()
    before, engine = read_files(tmp_path / "out"), SeededEngine()
    assert run(engine) == first
    assert engine.asked == [] and read_files(tmp_path / "out") == before


def test_progress_tells_the_running_score_of_what_is_done(run):
    told = []
    words = {0: "\\boxed{0}", 1: "crash", 2: "\\boxed{0}", 3: "\\boxed{0}", 4: "\\boxed{1}", 5: "no"}
    result = run(SeededEngine(words=words), on_progress=lambda p: told.append(replace(p)))
    assert (told[0].done, told[0].accuracy) == (0, None)
    assert [p.done for p in told] == sorted(p.done for p in told) and all(p.problems == 6 for p in told)
    last = told[-1]
    assert (last.done, last.accuracy, last.failed, last.samples) == (6, 0.5, 4, 24)
    assert last.cut == 24 * result.truncated_share
    assert last.tokens == sum(4 * len(word) for word in words.values())


def test_neither_what_is_asked_at_once_nor_the_order_of_the_answers_changes_a_byte(run, tmp_path):
    for capacity, at_once in ((None, 3), (1, 1), (2, 100), (100, 5)):
        output = tmp_path / f"{capacity}-{at_once}"
        run(SeededEngine(capacity=capacity, at_once=at_once), output=output)
        assert read_files(output) == read_files(tmp_path / "None-3")


def test_no_more_is_on_the_way_than_keeps_the_source_busy(run):
    class Counting(SeededEngine):
        most = 0

        def submit(self, groups):
            super().submit(groups)
            self.most = max(self.most, len(self.waiting))

    engine = Counting(capacity=2, at_once=1)
    run(engine, prompts=make_prompts(12), samples=2)
    assert engine.most <= 6 and len(engine.asked) == 24


def test_a_request_that_failed_is_a_failed_sample_and_is_asked_again_by_the_next_call(run, tmp_path):
    run(output=tmp_path / "whole")
    result = run(SeededEngine(words={1: "lost", 4: "lost"}))
    assert (result.unanswered, result.failed_share, result.complete) == (8, 8 / 24, False)
    assert result.outcomes["error"] == 8
    lost = [g for g in lines_of(tmp_path / "out" / "generations.jsonl") if g["problem"] in (1, 4)]
    assert {(g["score"], g["outcome"], g["note"], g["finish_reason"]) for g in lost} == {
        (None, "error", "the line was cut", "unanswered")
    }
    again = SeededEngine()
    assert run(again).complete
    assert sorted(again.asked) == [f"{p:06d}-{s:03d}" for p in (1, 4) for s in range(4)]
    assert read_files(tmp_path / "out") == read_files(tmp_path / "whole")


def test_a_problem_whose_prompt_does_not_fit_is_not_asked_and_counts_as_wrong_apart(run, tmp_path):
    prompts = make_prompts()
    prompts[2] = replace(prompts[2], token_ids=(2, 99, 99, 99))
    engine = SeededEngine(words={i: f"\\boxed{{{i % 3}}}" for i in range(6)})
    told = []
    result = run(engine, prompts, max_prompt_tokens=3, on_progress=told.append)
    assert (result.too_long, result.accuracy.value, result.failed_share) == (1, 5 / 6, 0.0)
    assert told[-1].too_long == 1 and not [id for id in engine.asked if id.startswith("000002")]
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["too_long"] == 1 and record["manifest"]["settings"]["max_prompt_tokens"] == 3
    stored = lines_of(tmp_path / "out" / "generations.jsonl")[8]
    assert (stored["finish_reason"], stored["score"]) == ("too_long", 0.0)
    assert stored["note"] == "not asked: 4 prompt tokens, 3 fit"
    assert [row["too_long"] for row in lines_of(tmp_path / "out" / "problems.jsonl")] == [
        i == 2 for i in range(6)
    ]
    before = read_files(tmp_path / "out")
    assert not regrade(tmp_path / "out", workers=1).changes and read_files(tmp_path / "out") == before
    assert run(SeededEngine(), prompts, max_prompt_tokens=3) == result == load_result(tmp_path / "out")


def test_another_evaluation_in_the_same_directory_is_refused_by_the_differing_key(run):
    run()
    with pytest.raises(UserError, match=r"settings\.sampling\.temperature was 1\.0, now 0\.5"):
        run(temperature=0.5)
    with pytest.raises(UserError, match=r"settings\.samples_per_problem"):
        run(samples=2)


def test_stored_generations_of_other_problems_are_refused(run, tmp_path):
    run()
    with pytest.raises(DataError, match=r"generations\.jsonl:1\b"):
        run(prompts=[replace(p, id=f"q{p.id}") for p in make_prompts()])


def test_failures_to_score_count_as_wrong_and_make_the_result_incomplete(run, tmp_path):
    engine = SeededEngine(words={0: "crash", 1: "\\boxed{1}", 2: "\\boxed{2}", 3: "I do not know"})
    result = run(engine, prompts=make_prompts(4))
    assert result.accuracy.value == 0.5
    assert dict(result.outcomes) == {"scored": 8, "unparseable": 4, "timeout": 0, "error": 4}
    assert (result.failed_share, result.complete) == (0.25, False)
    assert result.score_mean == pytest.approx(8 / 12)  # of the samples that were scored
    assert run(engine, make_prompts(4), tmp_path / "lenient", max_failure_share=0.25).complete
    stored = lines_of(tmp_path / "out" / "generations.jsonl")
    assert stored[0]["score"] is None and "cannot judge this" in stored[0]["note"]


def test_without_any_answer_there_is_no_majority(run):
    result = run(SeededEngine(words=dict.fromkeys(range(6), "no idea")))
    assert result.answer_share == 0.0
    assert not any(name.startswith("maj@") for name in result.metrics)


def test_an_empty_response_is_a_response(run):
    result = run(SeededEngine(words=dict.fromkeys(range(6), "")))
    assert result.response_tokens_mean == 0.0 and result.outcomes["unparseable"] == 24


def test_responses_of_another_policy_version_are_refused_before_they_are_stored(run, tmp_path):
    with pytest.raises(RolloutError, match="version 7"):
        run(SeededEngine(version=6))
    assert not (tmp_path / "out" / "generations.jsonl").exists()


def test_an_answer_to_nothing_that_was_asked_is_refused(run):
    class Repeating(SeededEngine):
        def poll(self, wait_s):
            samples = super().poll(wait_s)
            return samples + samples[:1]

    with pytest.raises(RolloutError, match="not asked"):
        run(Repeating())


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no problem"),
        (make_prompts(1) * 2, "same id"),
        ([Prompt("a", "t", (1,), {"when": datetime.date(2024, 1, 1)})], "column 'when'"),
        ([Prompt("a", "t", (1,), {"level": math.nan})], "column 'level'"),
    ],
)
def test_problems_that_cannot_be_evaluated_are_refused_before_sampling(run, prompts, message):
    engine = SeededEngine()
    with pytest.raises(DataError, match=message):
        run(engine, prompts=prompts)
    assert engine.asked == []


def test_a_problem_keeps_its_seeds_whatever_surrounds_it():
    assert sample_seed(0, "p1", 2) == sample_seed(0, "p1", 2)
    seeds = {sample_seed(s, p, i) for s in range(4) for p in ("a", "b", "1/a") for i in range(8)}
    assert len(seeds) == 96 and all(0 <= seed < 2**63 for seed in seeds)


def test_a_limit_changes_no_sample_of_the_problems_that_stay(run, tmp_path):
    run(output=tmp_path / "all")
    run(output=tmp_path / "some", prompts=make_prompts()[2:4])
    texts = {
        (g["prompt_id"], g["sample"]): g["text"] for g in lines_of(tmp_path / "all" / "generations.jsonl")
    }
    some = lines_of(tmp_path / "some" / "generations.jsonl")
    assert all(texts[g["prompt_id"], g["sample"]] == g["text"] for g in some)


def test_the_scalars_of_a_result_are_documented_metrics(run):
    from rlpost.monitor import undocumented

    scalars = run().scalars()
    assert undocumented(scalars) == set()
    assert {"eval/accuracy", "eval/accuracy_low", "eval/pass@4", "eval/maj@4"} <= scalars.keys()
