import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from marked_processes import processes, wait_until_gone

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.errors import RewardError, ScoringError
from rlpost.scoring import ScoreItem, Scorer
from rlpost.scoring.executor import Executor

ROOT = Path(__file__).parents[2]

MISBEHAVING = """
import asyncio, ctypes, os, signal, socket, subprocess, sys, threading, time

class Odd(BaseException):
    pass

def reward(completion, note_pid=None):
    if completion == "hang":
        while True: pass
    if completion == "sleep":
        time.sleep(1000)
    if completion == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if completion == "exit":
        print("last words", flush=True)
        os._exit(3)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "kill the supervisor":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)
    if completion == "sys.exit":
        sys.exit()
    if completion == "interrupt":
        raise KeyboardInterrupt
    if completion == "base exception":
        raise Odd("odd")
    if completion == "recursion":
        return reward(completion)
    if completion == "memory":
        return len(bytearray(8 << 30))
    if completion == "object":
        return object()
    if completion == "close files":
        os.closerange(0, 256)
    if completion == "write to the sockets":
        for fd in range(3, 64):
            try: os.write(fd, b"garbage\\n")
            except OSError: pass
    if completion == "fork":
        os.fork()
    if completion == "fork and hang":
        if os.fork() == 0: time.sleep(1000)
    if completion == "thread":
        threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()
    if completion == "alarm":
        signal.signal(signal.SIGALRM, lambda *_: os._exit(4))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    if completion == "print":
        print("x" * 300_000); print("y" * 300_000, file=sys.stderr); os.write(1, b"{}\\n" * 1000)
    if completion == "close stdout":
        sys.stdout.close()
    if completion == "fine slowly":
        time.sleep(0.3)
    print(completion)
    return 1.0
"""

SCORED = ["fork", "fork and hang", "thread", "alarm", "print", "fine slowly"]
LEFT = {
    "fork": "child processes",
    "fork and hang": "child",
    "thread": "threads",
    "alarm": "an alarm, signal h",
}
TIMEOUT = ["hang", "sleep", "stop"]
ERROR = {
    "exit": "ended with exit code 3; the process's last output:",
    "segfault": "the worker process was killed by SIGSEGV; the process's last output: ",
    "kill the supervisor": "supervisor process ended",
    "sys.exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "base exception": "Odd: odd",
    "recursion": "RecursionError",
    "memory": "; a worker may take 4 GiB (scoring.memory_gib)",
    "object": "needed a finite number",
    "close files": "the worker process ",
    "close stdout": "ValueError: I/O operation on closed file",
    "write to the sockets": "the worker process ",
}


def reward_in(tmp_path, text, name="mine.py", **more):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return RewardConfig(function=str(path), **more)


def items(*completions):
    return [ScoreItem("", completion) for completion in completions]


@pytest.mark.slow
def test_a_misbehaving_reward_costs_its_own_sample_and_no_other(tmp_path):
    odd = [*SCORED, *TIMEOUT, *ERROR]
    mixed = [text for behaviour in odd for text in ("fine", behaviour, "fine")]
    with Scorer([reward_in(tmp_path, MISBEHAVING)], ScoringConfig(workers=2, deadline_s=1.0)) as scorer:
        results = dict(zip(enumerate(mixed), scorer.score_items(items(*mixed)), strict=True))
    for (_, text), result in results.items():
        if text in TIMEOUT:
            assert (result.outcome, result.score) == ("timeout", None), text
            assert result.note.startswith("no score within 1 s")
        elif text in ERROR:
            assert (result.outcome, result.score) == ("error", None), text
            assert ERROR[text] in result.note
        else:
            assert (result.outcome, result.score) == ("scored", 1.0), (text, result)
            assert LEFT.get(text, "") in result.note and bool(result.note) == (text in LEFT)
    assert Counter(r.outcome for r in results.values())["timeout"] == len(TIMEOUT)


def test_samples_sent_ahead_to_a_server_that_ended_are_never_lost(tmp_path):
    mixed = ["fine", "fine", "exit", "fine", "fine", "fine", "thread"] * 40
    with Scorer([reward_in(tmp_path, MISBEHAVING)], ScoringConfig(workers=2, deadline_s=5.0)) as scorer:
        results = scorer.score_items(items(*mixed))
    assert Counter(r.outcome for r in results) == {"scored": 240, "error": 40}


def test_the_deadline_is_each_samples_own_however_many_wait_behind_it(tmp_path):
    config = reward_in(tmp_path, MISBEHAVING)
    with Scorer([config], ScoringConfig(workers=1, deadline_s=1.0)) as scorer:
        scorer.score_items(items(*["fine"] * 64))
        results = scorer.score_items(items(*["fine slowly"] * 5))
    assert [r.score for r in results] == [1.0] * 5


def test_memory_that_earlier_samples_kept_costs_one_sample_and_no_more(tmp_path):
    text = """
        kept = []

        def reward(completion):
            kept.append(bytearray(150 << 20))
            return len(kept)
    """
    scoring = ScoringConfig(workers=1, deadline_s=30, memory_gib=0.25)
    with Scorer([reward_in(tmp_path, text)], scoring) as scorer:
        results = scorer.score_items(items(*"abcd"))
    assert [r.score for r in results] == [1.0, None, 1.0, None]
    assert "MemoryError" in results[1].note


def test_results_come_in_the_order_of_the_items(tmp_path):
    config = reward_in(tmp_path, "def reward(completion): return float(completion)")
    with Scorer([config], ScoringConfig(workers=3)) as scorer:
        assert [r.score for r in scorer.score_items(items(*map(str, range(500))))] == list(range(500))
        assert scorer.score_items([]) == []


def test_large_and_unusual_columns_arrive_whole(tmp_path):
    config = reward_in(tmp_path, "def reward(completion, blob): return len(completion) + len(blob['a'])")
    with Scorer([config], ScoringConfig(workers=1)) as scorer:
        item = ScoreItem("", "x" * 3_000_000, {"blob": {"a": {1, 2, 3}}})
        assert [r.score for r in scorer.score_items([item] * 3)] == [3_000_003] * 3


def test_threads_may_score_at_the_same_time(tmp_path):
    config = reward_in(tmp_path, "def reward(completion): return float(completion)")
    with Scorer([config], ScoringConfig(workers=2)) as scorer:
        scores = {}

        def score(start):
            results = scorer.score_items(items(*map(str, range(start, start + 50))))
            scores[start] = [r.score for r in results]

        threads = [threading.Thread(target=score, args=(start,)) for start in (0, 100, 200, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert scores == {start: list(range(start, start + 50)) for start in (0, 100, 200, 300)}


def test_a_scorer_outlives_the_thread_that_made_it(tmp_path):
    made = []
    config = reward_in(tmp_path, "def reward(completion): return 1")
    thread = threading.Thread(target=lambda: made.append(Scorer([config], ScoringConfig(workers=1))))
    thread.start()
    thread.join(timeout=60)
    with made[0] as scorer:
        supervisor = scorer._executor._slots[0]._process
        time.sleep(0.3)
        assert scorer.score_items(items("a"))[0].score == 1.0
        assert scorer._executor._slots[0]._process is supervisor


def test_a_worker_process_imports_neither_torch_nor_pydantic(tmp_path):
    text = "import sys\ndef reward(completion): return sum(m in sys.modules for m in completion.split())"
    with Scorer([reward_in(tmp_path, text)], ScoringConfig(workers=1)) as scorer:
        [result] = scorer.score_items(items("torch transformers pydantic datasets ray yaml"))
        assert result.score == 0.0


def test_warm_up_runs_before_the_first_deadline_begins(tmp_path):
    text = """
        import time

        def warm_up():
            global ready
            time.sleep(0.7)
            ready = 1.0

        def reward(completion):
            return ready
    """
    with Scorer([reward_in(tmp_path, text)], ScoringConfig(workers=1, deadline_s=0.6)) as scorer:
        assert scorer.score_items(items("a"))[0].score == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('no licence')", r"RuntimeError: no licence\n.*mine.py:1"),
        (
            "def warm_up(): return 1 / 0\ndef reward(completion): return 1",
            r"`warm_up` failed.*\n(.*\n)*.*division",
        ),
        ("def reward(text): return 1", "does not take the response"),
    ],
)
def test_a_reward_that_cannot_be_loaded_stops_the_start_with_the_users_line(tmp_path, text, says):
    with pytest.raises(RewardError, match=says):
        Scorer([reward_in(tmp_path, text)], ScoringConfig(workers=2))


def test_a_reward_file_that_kills_its_process_at_import_ends_in_a_scoring_error(tmp_path):
    config = reward_in(tmp_path, "import os, sys\nprint('dying', flush=True)\nos._exit(9)")
    with pytest.raises(ScoringError, match=r"died 3 times in a row\n.*dying"):
        Scorer([config], ScoringConfig(workers=1))


def test_a_worker_that_does_not_start_in_time_is_an_error_and_leaves_no_process(tmp_path, monkeypatch):
    marker = f"RLPOST_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*marker.split("=", 1))
    monkeypatch.setattr("rlpost.scoring.slot.START_DEADLINE_S", 1.0)
    config = reward_in(tmp_path, "import time\ntime.sleep(1000)")
    with pytest.raises(ScoringError, match="did not start in time"):
        Scorer([config], ScoringConfig(workers=2))
    assert wait_until_gone(marker) == []


def test_a_closed_executor_refuses_further_work(tmp_path):
    executor = Executor([reward_in(tmp_path, "def reward(completion): return 1")], ScoringConfig(workers=1))
    executor.close()
    executor.close()
    with pytest.raises(ScoringError, match="closed"):
        executor.run([])


def test_closing_ends_a_call_that_is_under_way(tmp_path):
    scorer = Scorer([reward_in(tmp_path, MISBEHAVING)], ScoringConfig(workers=1, deadline_s=30))
    errors = []

    def score():
        try:
            scorer.score_items(items("sleep"))
        except ScoringError as error:
            errors.append(str(error))

    thread = threading.Thread(target=score)
    thread.start()
    time.sleep(0.3)
    scorer.close()
    thread.join(timeout=20)
    assert errors == ["the scoring workers were closed during a call"]


STRAY = '''
import os, subprocess, sys, time

def reward(completion):
    """Leaves a child, a child in a session of its own, and a daemonised grandchild."""
    if completion == "stray":
        subprocess.Popen(["sleep", "1000"])
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        subprocess.Popen(["sh", "-c", "setsid sleep 1000 & exit 0"])
        time.sleep(0.2)
    if completion == "stray and hang":
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        time.sleep(1000)
    return 1.0
'''


def test_nothing_that_a_reward_started_outlives_it_or_the_scorer(tmp_path, monkeypatch):
    marker = f"RLPOST_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*marker.split("=", 1))
    with Scorer([reward_in(tmp_path, STRAY)], ScoringConfig(workers=1, deadline_s=1.0)) as scorer:
        results = scorer.score_items(items("stray", "fine", "stray and hang", "fine"))
        assert [r.outcome for r in results] == ["scored", "scored", "timeout", "scored"]
        assert len(processes(marker)) == 2  # the supervisor and its server
    assert wait_until_gone(marker) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["scoring", "importing"])
def test_no_process_is_left_after_the_driver_is_killed(tmp_path, moment):
    marker = f"RLPOST_TEST_MARK={tmp_path}"
    text = STRAY if moment != "importing" else "print('importing', flush=True)\nimport time\ntime.sleep(1000)"
    driver = f"""
        import sys
        from rlpost.config.schema import RewardConfig, ScoringConfig
        from rlpost.scoring import Scorer, ScoreItem
        if {moment == "importing"}:
            print("started", flush=True)
        config = RewardConfig(function={reward_in(tmp_path, text).function!r})
        scorer = Scorer([config], ScoringConfig(deadline_s=600))
        scorer.score_items([ScoreItem("", "stray")])
        print("started", flush=True)
        if {moment == "scoring"}:
            scorer.score_items([ScoreItem("", "stray and hang")] * 4)
        import time; time.sleep(1000)
    """
    environment = {**os.environ, "RLPOST_TEST_MARK": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(driver)], stdout=subprocess.PIPE, env=environment, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == b"started\n"
        time.sleep(0.8)
        assert len(processes(marker)) >= 3
    finally:
        process.kill()
        process.wait(timeout=10)
        process.stdout.close()
    assert wait_until_gone(marker) == []


def test_an_interrupted_call_leaves_an_executor_that_works(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with Scorer([reward_in(tmp_path, MISBEHAVING)], ScoringConfig(workers=2, deadline_s=30)) as scorer:
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                scorer.score_items(items("sleep", "fine", "sleep"))
        finally:
            signal.signal(signal.SIGALRM, before)
        assert [r.score for r in scorer.score_items(items("fine", "fine"))] == [1.0, 1.0]
