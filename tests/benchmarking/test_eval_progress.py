"""What is shown while an evaluation runs."""

import io

from rich.console import Console

from rlpost.benchmarking.progress import EvaluationDisplay
from rlpost.evaluation import EvaluationProgress


def shown(terminal, steps):
    """The lines printed for (seconds, progress) steps."""
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with EvaluationDisplay("sums", 4, console, clock=lambda: now[0]) as display:
        for seconds, progress in steps:
            now[0] = seconds
            display.update(progress)
    return console.file.getvalue()


def progress(done, **counts):
    return EvaluationProgress(1200, done, samples=4 * done, correct=done / 2, tokens=500 * done, **counts)


def test_a_log_has_the_start_a_line_about_every_ten_seconds_and_the_end():
    steps = [(0, progress(0))] + [(float(s), progress(40 * s, cut=16 * s)) for s in range(1, 31)]
    assert shown(False, steps).splitlines() == [
        "sums: 1,200 problems x 4",
        "sums: 400/1,200, avg@4 50.0 %, cut 10.0 %, 20,000 tokens/s, 20 s left",
        "sums: 800/1,200, avg@4 50.0 %, cut 10.0 %, 20,000 tokens/s, 10 s left",
        "sums: 1,200/1,200, avg@4 50.0 %, cut 10.0 %, 20,000 tokens/s, in 30 s",
    ]


def test_what_an_earlier_call_did_is_told_and_does_not_count_for_the_speed():
    steps = [(5, progress(600, reused=600, ignored_lines=3)), (25, progress(700, reused=600))]
    text = shown(False, steps).splitlines()
    assert text[0] == "sums: 600 problems were done before; 3 lines of unfinished problems are ignored"
    assert text[1].endswith("1:40 min left") or text[1].endswith("1 min 40 s left")


def test_a_terminal_has_a_bar_with_the_running_score_and_what_failed():
    text = shown(True, [(0, progress(0)), (6, progress(300, failed=12, too_long=2))])
    assert "sums" in text and "300/1,200" in text and "avg@4 50.0 %" in text
    assert "failed 12" in text and "too long 2" in text
