"""metrics.jsonl: exact, valid, cut back, tolerant of a killed writer."""

import json
import math

import pytest

from rlpost.errors import DataError
from rlpost.monitor import MetricsWriter, read_metrics


def test_a_line_starts_with_step_and_stage_and_then_names_in_order(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(3, "grpo", {"reward/std": 0.5, "policy/loss": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 3, "stage": "grpo", "policy/loss": 1.0, "reward/std": 0.5}\n'
    )


def test_floats_come_back_bit_for_bit(tmp_path):
    values = [0.1, 1 / 3, math.pi * 1e-300, -0.0, 5e-324, 1.7976931348623157e308, 2**53 + 1.0]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step, value in enumerate(values, start=1):
            writer.write(step, "s", {"reward/mean": value})
    read = [record["reward/mean"] for record in read_metrics(tmp_path)]
    assert [v.hex() for v in read] == [v.hex() for v in values]


def test_numbers_that_are_not_finite_become_null_in_valid_json(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, "s", {"policy/loss": math.nan, "policy/ratio_max": math.inf, "reward/mean": 1.0})
    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (record["policy/loss"], record["policy/ratio_max"], record["reward/mean"]) == (None, None, 1.0)


def test_a_metric_that_is_not_documented_is_refused_and_nothing_is_written(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        with pytest.raises(ValueError, match="policy/los"):
            writer.write(1, "s", {"policy/los": 1.0})
        with pytest.raises(ValueError, match="step"):
            writer.write(1, "s", {"step": 1.0})
    assert read_metrics(tmp_path) == []


def test_each_line_is_on_disk_before_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, "s", {"reward/mean": 0.5})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]
    writer.close()


def test_truncating_forgets_later_steps_and_writing_goes_on(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in range(1, 6):
            writer.write(step, "s", {"reward/mean": step / 3})
        kept = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3]
        writer.truncate_after(3)
        assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(kept)
        writer.write(4, "s", {"reward/mean": 9.0})
    assert [(r["step"], r["reward/mean"]) for r in read_metrics(tmp_path)][2:] == [(3, 1.0), (4, 9.0)]


def test_a_half_written_last_line_is_ignored_and_a_new_writer_does_not_join_it(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, "s", {"reward/mean": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "stage": "s", "rew')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.truncate_after(1)
        writer.write(2, "s", {"reward/mean": 0.25})
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]


def test_a_new_writer_without_truncation_keeps_what_is_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "stage": "s"}\n{"step": 2, "st')
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, "s", {})
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]


def test_a_damaged_line_in_the_middle_is_named_by_file_and_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)


def test_a_run_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_gets_the_finite_numbers_and_forgets_steps_that_are_repeated(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        for step in (1, 2, 3):
            writer.write(step, "s", {"reward/mean": float(step), "policy/loss": math.nan})
    with MetricsWriter(tmp_path, tensorboard=True) as writer:  # resumed from step 1
        writer.truncate_after(1)
        writer.write(2, "s", {"reward/mean": 20.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 1.0), (2, 20.0)]
