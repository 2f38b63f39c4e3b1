"""The terminal: what a newcomer reads, on a screen and in a log."""

import io

import pytest
from rich.console import Console

from rlpost.monitor import Progress
from rlpost.monitor.progress import accuracy_text, duration, sparkline

SUMMARY = {"accuracy": 0.712, "low": 0.671, "high": 0.75, "problems": 500}


class Clock:
    """Seconds that a test moves by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def log_of(run):
    out, clock = io.StringIO(), Clock()
    with Progress("quickstart", console=Console(file=out, width=80), clock=clock) as progress:
        run(progress, clock)
    return out.getvalue().splitlines()


def test_a_log_has_about_twenty_lines_a_stage_with_step_reward_speed_and_time_left():
    metrics = {
        "reward/mean": 0.25,
        "rollout/samples": 64,
        "rollout/response_tokens_mean": 10.0,
        "time/step_s": 0.5,
    }

    def run(progress, clock):
        progress.stage("grpo", 100)
        for step in range(1, 101):
            clock.now += 2.0
            progress.step(step, metrics)

    lines = log_of(run)
    assert lines[0] == "stage grpo: 100 steps"
    assert lines[1] == "grpo 1/100  reward 0.250  1,280 tokens/s  3 min 18 s left"
    assert lines[2] == "grpo 5/100  reward 0.250  1,280 tokens/s  3 min 10 s left"
    assert lines[-1] == "grpo 100/100  reward 0.250  1,280 tokens/s"
    assert len(lines) == 22


def test_a_stage_without_rewards_shows_its_loss_and_the_tokens_it_trains_on():
    def run(progress, clock):
        progress.stage("warm-start", 2)
        clock.now += 1.0
        progress.step(1, {"policy/loss": 2.5, "learner/trained_tokens": 300, "time/step_s": 0.1})

    assert log_of(run)[1] == "warm-start 1/2  loss 2.500  3,000 tokens/s  1 s left"


def test_a_resumed_stage_counts_on_and_estimates_from_its_own_pace():
    def run(progress, clock):
        progress.stage("grpo", 20, done=17)
        clock.now += 10.0
        progress.step(318, {"reward/mean": 1.0})

    assert log_of(run) == [
        "stage grpo: 20 steps, 17 of them done before",
        "grpo 18/20  reward 1.000  20 s left",
    ]


def test_evaluations_messages_and_last_words_are_printed_as_they_are():
    def run(progress, clock):
        progress.evaluation("before", SUMMARY)
        progress.message("resuming [bold]after[/bold] step 3 " + "x" * 100)
        progress.finish(["run     runs/a", "report  runs/a/report.html"])

    assert log_of(run) == [
        "accuracy before: 71.2% (67.1 to 75.0), 500 held-out problems",
        "resuming [bold]after[/bold] step 3 " + "x" * 100,
        "run     runs/a",
        "report  runs/a/report.html",
    ]


def test_a_terminal_shows_stage_step_reward_accuracy_and_speed_on_one_screen(tmp_path):
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=100, height=30, color_system=None)
    with Progress("quickstart", tmp_path, console=console, clock=clock) as progress:
        progress.evaluation("step 0", SUMMARY)
        progress.stage("grpo", 4)
        for step in (1, 2):
            clock.now += 30.0
            progress.step(step, {"reward/mean": step / 4, "learner/trained_tokens": 10, "time/step_s": 1.0})
        progress.finish(["done"])
    text = out.getvalue()
    last_screen = text[text.rindex("quickstart") :]
    for part in ("grpo", "2 of 4", "0.500", "71.2% (67.1 to 75.0)  step 0", "10 tokens/s", "1 min 00 s"):
        assert part in last_screen
    assert text.rstrip().endswith("done")


def test_the_display_ends_when_the_run_fails():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with pytest.raises(RuntimeError, match="boom"), Progress("r", console=console):
        raise RuntimeError("boom")
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_a_step_outside_a_stage_is_a_mistake():
    with Progress("r", console=Console(file=io.StringIO())) as progress, pytest.raises(RuntimeError):
        progress.step(1, {})


def test_a_sparkline_spans_its_own_range_and_averages_long_series():
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([]) == "" and sparkline([float("nan"), float("inf")]) == ""
    assert sparkline([0.0, 0.0, 1.0, 1.0], width=2) == "▁█"
    assert len(sparkline([float(i) for i in range(1000)], width=40)) == 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_an_accuracy_names_its_interval():
    assert accuracy_text(SUMMARY) == "71.2% (67.1 to 75.0)"
