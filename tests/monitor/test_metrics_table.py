"""The table of metrics: unique, current on its page, complete for what a run emits."""

from pathlib import Path

import pytest

from rlpost.monitor import METRICS, describe, undocumented
from rlpost.monitor.metrics import render

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_what_the_table_renders_to():
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m rlpost.monitor.metrics > docs/metrics.md"
    )


def test_every_metric_is_described_once_and_completely():
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(metric.unit and metric.formula and metric.healthy for metric in METRICS)


def test_every_row_of_the_page_has_four_cells():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(METRICS)
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def test_a_family_covers_its_members_and_an_exact_name_goes_first():
    assert describe("reward/part/format").name == "reward/part/*"
    assert describe("eval/pass@8").name == "eval/pass@*"
    assert describe("eval/accuracy").name == "eval/accuracy"


def test_a_name_outside_the_table_is_reported():
    assert undocumented({"reward/mean", "policy/los", "rewards/mean"}) == {"policy/los", "rewards/mean"}
    with pytest.raises(KeyError, match="policy/los"):
        describe("policy/los")


def test_a_value_outside_the_healthy_range_is_worded_and_one_inside_is_not():
    assert describe("mismatch/ess").warning(0.5) == "below 0.8"
    assert describe("mismatch/k3").warning(0.5) == "above 0.01"
    assert describe("mismatch/ess").warning(0.99) is None
    assert describe("reward/mean").warning(-1e9) is None
