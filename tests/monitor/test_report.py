"""report.html: self-contained, safe against what models write, useful on half a run."""

import json
import re
from html.parser import HTMLParser

import pytest

from rlpost.errors import DataError, UserError
from rlpost.monitor import MetricsWriter, write_report
from rlpost.monitor.report import find_warnings

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&amp;"


class Page(HTMLParser):
    """Collects the tags, the external addresses and the text outside scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.text, self._skip = [], [], "", None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href") and value]
        if tag in ("script", "style"):
            self._skip = tag

    def handle_endtag(self, tag):
        if tag == self._skip:
            self._skip = None

    def handle_data(self, data):
        if self._skip is None:
            self.text += data


def page_of(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def write_run(run, *, steps=40, name="demo", text="46", finished=True):
    run.mkdir()
    (run / "config.yaml").write_text(json.dumps({"name": name, "seed": 0}))
    with MetricsWriter(run, tensorboard=False) as writer:
        for step in range(1, steps + 1):
            writer.write(
                step,
                "warm-start" if step <= 10 else "grpo",
                {
                    "reward/mean": step / steps,
                    "policy/loss": 1 / step,
                    "time/step_s": 2.0,
                    "rollout/samples": 64,
                },
            )
    (run / "rollouts").mkdir()
    for step in (1, 20, 30, 40):
        record = {
            "prompt": f"12+34= at {step};",
            "text": text,
            "reward": 1.0,
            "outcome": "scored",
            "note": "",
        }
        (run / "rollouts" / f"step-{step:06d}.jsonl").write_text((json.dumps(record) + "\n") * 8)
    if finished:
        evaluations = {
            "before": {"accuracy": 0.41, "low": 0.367, "high": 0.454, "step": 10},
            "after": {"accuracy": 0.902, "low": 0.873, "high": 0.925, "step": 40},
        }
        summary = {"eval": evaluations, "steps": 40, "wall_s": 65.0, "samples": 2560, "trained_tokens": 12345}
        (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_the_headline_says_what_the_run_came_to(tmp_path):
    text = page_of(write_run(tmp_path / "run")).text
    for part in ("demo", "finished", "41.0%", "36.7 to 45.4 %", "90.2%", "1 min 05 s", "2,560", "12,345"):
        assert part in text


def test_the_page_loads_nothing_and_holds_its_chart_library_once(tmp_path):
    html = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    page = Page(html)
    assert page.addresses == []
    assert "link" not in page.tags and "iframe" not in page.tags
    assert not re.search(r"@import|url\(http", html[: html.index("<body>")])
    assert html.count("plotly.js v") == 1
    assert html.count("Plotly.newPlot") == 3  # accuracy, reward, loss


def test_what_a_model_writes_stays_text(tmp_path):
    run = write_run(tmp_path / "run", name=HOSTILE, text=HOSTILE)
    ordinary = page_of(write_run(tmp_path / "other"))
    page = page_of(run)
    assert "img" not in page.tags
    assert page.tags.count("script") == ordinary.tags.count("script")
    assert HOSTILE in page.text


def test_hostile_stage_names_and_configurations_stay_text(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"# {HOSTILE}\n")
    with MetricsWriter(run, tensorboard=False) as writer:
        for step in (1, 2):
            writer.write(step, HOSTILE, {"reward/mean": 0.5})
    page = page_of(run)
    assert "img" not in page.tags and HOSTILE in page.text


def test_first_middle_and_last_rollouts_are_shown(tmp_path):
    text = page_of(write_run(tmp_path / "run")).text
    assert [int(n) for n in re.findall(r"12\+34= at (\d+);", text)] == [1] * 5 + [30] * 5 + [40] * 5


def test_a_run_that_is_not_finished_is_reported_as_such(tmp_path):
    text = page_of(write_run(tmp_path / "run", finished=False)).text
    assert "not finished: step 40 was the last one written" in text
    assert "1 min 20 s" in text and "2,560" in text  # summed from the metrics


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("name: fresh\n")
    page = page_of(tmp_path)
    assert "fresh" in page.text and "No step was written yet" in page.text


def test_evaluations_on_disk_give_the_accuracy_of_a_run_without_summary(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    for step, value in ((0, 0.25), (20, 0.5)):
        folder = run / "evaluations" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        metrics = {"avg@2": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        (folder / "results.json").write_text(json.dumps({"samples_per_problem": 2, "metrics": metrics}))
    text = page_of(run).text
    assert "accuracy at step 0" in text and "25.0%" in text
    assert "accuracy at step 20" in text and "40.0 to 60.0 %" in text


def test_a_directory_without_a_run_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="there is no run"):
        write_report(tmp_path / "nothing")


def test_a_damaged_rollout_line_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "rollouts" / "step-000001.jsonl").write_text('{"text": "a"}\n{"tex\n')
    with pytest.raises(DataError, match=r"step-000001\.jsonl:2"):
        write_report(run)


def test_a_metric_outside_its_healthy_range_is_named_with_its_steps():
    records = [{"step": s, "stage": "s", "mismatch/k3": 0.5 if s in (3, 4) else 1e-5} for s in range(1, 11)]
    records[7]["policy/loss"] = None
    warnings = dict(find_warnings(records))
    assert set(warnings) == {"mismatch/k3", "policy/loss"}
    assert warnings["mismatch/k3"].startswith(
        "above 0.01 in 2 of 10 steps, first at step 3; furthest 0.5 at step 3"
    )
    assert warnings["policy/loss"] == "not a finite number in 1 of 1 steps, first at step 8"


def test_a_healthy_run_has_no_warnings():
    assert find_warnings([{"step": 1, "stage": "s", "mismatch/k3": 1e-6, "scoring/error": 0.0}]) == []
