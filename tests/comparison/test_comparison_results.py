"""From run directories to the numbers, curves and files of a comparison."""

from __future__ import annotations

import csv
import io
import json

import pytest

from rlpost.comparison.gather import RunRecord, chosen_k, gather
from rlpost.comparison.page import write_page
from rlpost.comparison.plan import make_plan
from rlpost.comparison.results import as_csv, as_json, band, summarise
from rlpost.comparison.runs import runs_of
from rlpost.comparison.terminal import closing_tables

CLIPPED = {"policy/clip_share_low": 0.02, "policy/clip_share_high": 0.04}


def step(tokens, nonzero, entropy, **more):
    return {
        "learner/trained_tokens": tokens,
        "signal/nonzero_response_share": nonzero,
        "policy/entropy": entropy,
        "rollout/samples": 16.0,
        "rollout/response_tokens_mean": 2.5,
        "learner/skipped_updates": 0.0,
        **more,
    }


@pytest.fixture
def runs(recipe, arms_file, tmp_path):
    """The runs of two arms under three seeds; nothing is trained."""
    plan = make_plan([recipe()], arms_file=arms_file(), seeds=3)
    return plan, [run for run in runs_of(plan, tmp_path / "out", 1) if run.arm is not None]


@pytest.fixture
def compared(runs, write_run):
    """Results of runs that left known numbers; rloo's last seed failed, and rloo has no clip."""
    plan, arms = runs
    final = {"grpo": (0.5, 0.25, 0.5), "rloo": (0.75, 0.75, None)}
    records = []
    for run in arms:
        accuracy = final[run.arm][run.seed]
        if accuracy is None:
            records.append(gather(run, "exit status 1\nerror: <b>out</b> of memory"))
            continue
        more = {"policy/clip_share_low": 0.25, "policy/clip_share_high": 0.125} if run.arm == "grpo" else {}
        steps = [(n, "rl", step(40.0, 0.5, 1.0, **more)) for n in (1, 2, 3, 4)]
        evaluations = {0: (0.125, {1: 0.125, 8: 0.25}), 4: (accuracy, {1: accuracy, 8: 0.875})}
        write_run(run.directory, steps, evaluations)
        records.append(gather(run))
    return summarise(plan, records)


def test_a_record_has_totals_means_over_the_steps_that_have_a_metric_and_the_last_evaluation(runs, write_run):
    run = runs[1][0]
    steps = [
        (1, "rl", step(40.0, 0.5, 1.0, **CLIPPED)),
        (2, "rl", step(60.0, 1.0, 0.5, **{"learner/skipped_updates": 2.0})),
    ]
    write_run(run.directory, steps, {0: (0.1, {1: 0.1, 2: 0.2}), 2: (0.3, {1: 0.3, 2: 0.4})}, wall_s=7.5)
    record = gather(run)
    assert record.values == {
        "trained_tokens": 100.0,
        "generated_tokens": 80.0,
        "generated_samples": 32.0,
        "nonzero_response_share": 0.75,
        "informative_group_share": None,
        "clip_share": pytest.approx(0.06),
        "entropy_end": 0.5,
        "skipped_updates": 2.0,
        "accuracy": 0.3,
        "pass@1": 0.3,
        "pass@2": 0.4,
        "wall_s": 7.5,
    }
    assert record.curves["accuracy"] == [(0, 0.1), (2, 0.3)]
    assert record.curves["clip_share"] == [(1, pytest.approx(0.06))]
    assert list(record.tokens) == [(0, 0.0), (1, 40.0), (2, 100.0)]


def test_supervised_steps_of_a_run_count_in_its_totals_and_in_no_mean(recipe, write_run, tmp_path):
    paths = [recipe("one"), recipe("two", "rloo", warmup_steps=3)]
    plan = make_plan(paths, seeds=1, different_budgets=True)
    run = next(run for run in runs_of(plan, tmp_path / "out", 1) if run.arm == "one")
    steps = [(n, "warmup", {"learner/trained_tokens": 100.0, "policy/entropy": 3.0}) for n in (1, 2)]
    steps += [(3, "rl", step(40.0, 0.5, 1.0)), (4, "rl", step(40.0, 0.5, 1.0))]
    write_run(run.directory, steps, {0: (0.0, {1: 0.0}), 2: (0.1, {1: 0.1}), 4: (0.2, {1: 0.2})})
    record = gather(run)
    assert record.values["trained_tokens"] == 280.0
    assert record.values["generated_samples"] == 32.0
    assert (record.values["nonzero_response_share"], record.values["entropy_end"]) == (0.5, 1.0)
    assert record.curves["accuracy"] == [(0, 0.0), (2, 0.1), (4, 0.2)]
    assert list(record.tokens) == [(0, 0.0), (1, 100.0), (2, 200.0), (3, 240.0), (4, 280.0)]


def test_every_held_out_set_has_its_columns_differences_and_curves(recipe, arms_file, write_run, tmp_path):
    from rich.console import Console

    hard = {"task": "addition", "split": "test", "template": "none", "max_prompt_tokens": 16}
    plan = make_plan([recipe()], [f"evaluation.others={{hard: {hard}}}"], arms_file=arms_file(), seeds=2)
    records = []
    for run in (run for run in runs_of(plan, tmp_path / "out", 1) if run.arm is not None):
        write_run(run.directory, [(1, "rl", step(40.0, 0.5, 1.0))], {1: (0.5, {1: 0.5, 2: 0.75})})
        folder = run.directory / "evaluations" / "step-000001" / "hard"
        folder.mkdir()
        reached = 0.25 if run.arm == "grpo" else 0.5 + 0.25 * run.seed
        numbers = {"avg@2": {"value": reached}, "pass@2": {"value": 1.0}}
        (folder / "results.json").write_text(json.dumps({"samples_per_problem": 2, "metrics": numbers}))
        records.append(gather(run))
    results = summarise(plan, records)
    (task,) = results.tasks
    compared = [m.key for m in task.measures if m.is_compared]
    assert compared == ["accuracy", "pass@2", "accuracy/hard", "pass@2/hard"]
    rloo = task.arms[1]
    assert (rloo.measures["accuracy/hard"].value, rloo.differences["accuracy/hard"].value) == (0.625, 0.375)
    assert [point.mean for point in rloo.curves["accuracy/hard"]] == [0.625]
    console = Console(width=160, record=True, file=io.StringIO())
    closing_tables(results, console)
    assert "hard: accuracy" in console.export_text().replace("\N{NO-BREAK SPACE}", " ")
    write_page(results, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "hard: accuracy minus grpo&#x27;s" in page and "hard: Accuracy over trained tokens" in page
    assert "stage rl: 4 steps x 4 prompts x 4 = 64 samples, 4 updates" in page


def test_entropy_at_the_end_is_the_mean_of_the_last_tenth_of_the_steps(runs, write_run):
    run = runs[1][0]
    write_run(run.directory, [(n, "rl", step(1.0, 0.5, float(n))) for n in range(1, 41)], {})
    assert gather(run).values["entropy_end"] == (37 + 38 + 39 + 40) / 4


def test_pass_at_8_is_shown_or_else_the_largest_k_that_all_runs_have():
    def record(*ks, failure=None):
        return RunRecord("t", "a", 0, curves={f"pass@{k}": [(0, 0.5)] for k in ks}, failure=failure)

    assert chosen_k([record(1, 2, 4, 8, 16), record(1, 8)]) == 8
    assert chosen_k([record(1, 2, 4), record(1, 2), record(failure="died")]) == 2
    assert chosen_k([record(1), record(1, 2)]) is None
    assert chosen_k([]) is None


def test_an_arm_has_means_over_its_seeds_and_differences_over_common_ones(compared):
    from scipy import stats

    grpo, rloo = compared.tasks[0].arms
    accuracy = grpo.measures["accuracy"]
    low, _ = stats.t.interval(0.95, 2, 5 / 12, stats.sem([0.5, 0.25, 0.5]))
    assert (accuracy.value, accuracy.n) == (pytest.approx(5 / 12), 3)
    assert accuracy.value - accuracy.half_width == pytest.approx(low)
    assert grpo.differences == {}
    paired = stats.ttest_rel([0.75, 0.75], [0.5, 0.25]).confidence_interval(0.95)
    difference = rloo.differences["accuracy"]
    assert (difference.value, difference.n) == (0.375, 2)
    assert difference.value + difference.half_width == pytest.approx(paired.high)
    assert set(rloo.differences) == {"accuracy", "pass@8"}
    assert list(rloo.failures) == [2]


def test_what_an_arm_does_not_emit_is_none_never_zero(compared):
    grpo, rloo = compared.tasks[0].arms
    assert grpo.measures["clip_share"].value == 0.375
    assert rloo.measures["clip_share"] is None
    assert "clip_share" not in rloo.curves
    rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
    assert [row["clip_share"] for row in rows] == ["0.375", ""] * 3


def test_a_band_goes_from_the_lowest_seed_to_the_highest_at_the_mean_of_their_tokens():
    records = [
        RunRecord("t", "a", seed, {}, {"accuracy": [(0, 0.0), (2, final)]}, [(0, 0.0), (1, 9.0), (2, tokens)])
        for seed, final, tokens in ((0, 0.25, 10.0), (1, 0.5, 30.0))
    ]
    start, end = band(records, "accuracy", 1)
    assert (start.tokens, start.mean, start.n) == (0.0, 0.0, 2)
    assert (end.step, end.tokens, end.mean, end.low, end.high) == (2, 20.0, 0.375, 0.25, 0.5)


def test_long_curves_are_averaged_in_bins_within_a_seed_first():
    tokens = [(n, 10.0 * n) for n in range(5)]
    full = RunRecord("t", "a", 0, {}, {"entropy": [(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0)]}, tokens)
    gap = RunRecord("t", "a", 1, {}, {"entropy": [(2, 4.0)]}, tokens)
    first, second = band([full, gap], "entropy", 2)
    assert (first.step, first.mean, first.low, first.high, first.n) == (1.5, 3.0, 2.0, 4.0, 2)
    assert (second.step, second.mean, second.n) == (3.5, 6.0, 1)


def test_json_and_csv_hold_every_run_failed_ones_included(compared):
    tree = json.loads(as_json(compared))
    assert [(run["arm"], run["seed"], run["status"]) for run in tree["runs"]][-1] == ("rloo", 2, "failed")
    assert tree["tasks"][0]["arms"][0]["measures"]["accuracy"]["n"] == 3
    rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
    assert len(rows) == 6
    assert rows[-1]["failure"] == "exit status 1"
    assert rows[-1]["accuracy"] == ""
    assert float(rows[0]["accuracy"]) == 0.5


def test_the_page_stands_alone_and_shows_failures_dashes_and_n(compared, tmp_path):
    path = tmp_path / "report.html"
    write_page(compared, path)
    text = path.read_text()
    assert "src=" not in text.split("<script")[0]
    assert '<link rel="stylesheet"' not in text
    assert "1 of 6 runs failed" in text
    assert "&lt;b&gt;out&lt;/b&gt; of memory" in text
    assert "75.0 ± 0.0 % (n = 2)" in text
    assert "<td>–</td>" in text
    assert "(rloo: not emitted)" in text
    assert "accuracy (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}3)" in text
    assert text.count('<div id="chart-') == 8


def test_the_closing_tables_say_n_and_mark_what_failed(compared):
    from rich.console import Console

    console = Console(width=110, record=True, file=io.StringIO())
    closing_tables(compared, console)
    text = console.export_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "sums: mean over seeds ± 95 % interval, n = 3" in text
    rloo = [line for line in text.splitlines() if line.strip().startswith("rloo")]
    assert "75.0 ± 0.0 % (n = 2)" in rloo[0]
    assert "1 of 3" in rloo[0]
    assert " – " in rloo[1]


def test_an_arm_without_any_finished_run_says_failed(runs, tmp_path):
    plan, arms = runs
    results = summarise(plan, [gather(run, "killed") for run in arms])
    write_page(results, tmp_path / "report.html")
    assert '<span class="failed">failed</span>' in (tmp_path / "report.html").read_text()
    assert json.loads(as_json(results))["tasks"][0]["k"] is None
