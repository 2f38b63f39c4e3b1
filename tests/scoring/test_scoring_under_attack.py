import asyncio
import os
import random
import runpy
import threading
from collections import Counter
from pathlib import Path

import pytest
from marked_processes import wait_until_gone

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.scoring import ScoreItem, Scorer

HANGING = [
    r"\boxed{9^{9^{9}}}",
    r"\boxed{10^{10^{10}}}",
    r"\boxed{((9!)!)!}",
    r"\boxed{2^{2^{2^{2^{2^{2}}}}}}",
    r"The final answer is $9^{9^{9}} + 1$",
]
HARMLESS = [r"\boxed{", r"\boxed{" + "(" * 5000 + "5" + ")" * 5000 + "}", r"\boxed{" + "7" * 100_000 + "}"]
NORMAL = [
    (r"Hence \boxed{\frac{1}{2}}.", "0.5", 1.0),
    (r"\boxed{(x+1)^2}", "x^2 + 2x + 1", 1.0),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", 1.0),
    (r"The final answer is $\frac{3}{4}$.", "0.75", 1.0),
    (r"\boxed{6}", "5", 0.0),
    (r"\boxed{[1,2]}", "(1,2)", 0.0),
    (r"\boxed{\text{east}}", r"\text{west}", 0.0),
    (r"\boxed{x^2 + 2x}", "x^2 + 2x + 1", 0.0),
]
PATH = f"{Path(__file__).parents[2]}:{Path(__file__).parent}"
MATH = RewardConfig(function="math")
TABLE = [*NORMAL, (HARMLESS[0], "5", 0.0), (HANGING[0], "5", None)]


def items(table):
    return [ScoreItem("", completion, {"answer": answer}) for completion, answer, _ in table]


def score_table(deadline_s=1.0):
    with Scorer([MATH], ScoringConfig(workers=2, deadline_s=deadline_s)) as scorer:
        return [(r.score, r.outcome) for r in scorer.score_items(items(TABLE))]


EXPECTED = [(score, "scored") for *_, score in NORMAL] + [(0.0, "unparseable"), (None, "timeout")]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_64_pathological_answers_leave_64_normal_ones_scored_right():
    bad = [(text, "5", None) for text in HANGING * 8 + HARMLESS * 8]
    mixed = [row for pair in zip(bad, NORMAL * 8, strict=True) for row in pair]
    with Scorer([MATH], ScoringConfig(workers=4, deadline_s=1.0)) as scorer:
        results = scorer.score_items(items(mixed))
        workers = [slot._process.pid for slot in scorer._executor._slots]
    assert [r.score for r in results[1::2]] == [score for *_, score in NORMAL * 8]
    assert [r.outcome for r in results[::2]] == ["timeout"] * 40 + ["unparseable"] * 24
    assert Counter(r.outcome for r in results) == {"scored": 64, "timeout": 40, "unparseable": 24}
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


COUNTS = {"hang": 64, "memory": 16, "crash": 16, "fork": 16, "print": 16}
FLAT_MIB = 32


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_256_answers_128_attacks_cost_themselves_alone(project_root, tmp_path, monkeypatch):
    verifier = project_root / "benchmarks" / "attack_reward.py"
    expected = runpy.run_path(str(verifier))["EXPECTED"]
    attacks = []
    for kind, count in COUNTS.items():
        ways = [name for name in expected if name.startswith(f"{kind}/")]
        attacks += [ways[n % len(ways)] for n in range(count)]
    answers = [*attacks, *(str(n % 7) for n in range(128))]
    random.Random(0).shuffle(answers)
    marker = f"RLPOST_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*marker.split("=", 1))

    scoring = ScoringConfig(workers=4, deadline_s=1.0, memory_gib=0.03125)
    with Scorer([RewardConfig(function=str(verifier))], scoring) as scorer:
        scorer.score_items([ScoreItem("", "3", {"answer": "3"})] * 64)
        resident, done = [resident_mib()], threading.Event()

        def watch():
            while not done.wait(0.02):
                resident.append(resident_mib())

        watcher = threading.Thread(target=watch)
        watcher.start()
        results = scorer.score_items([ScoreItem("", answer, {"answer": "3"}) for answer in answers])
        done.set()
        watcher.join()
        assert len(wait_until_gone(marker, keep=8)) <= 8  # four supervisors and their servers

    for answer, result in zip(answers, results, strict=True):
        outcome, note = expected.get(answer, ("scored", ""))
        score = float(answer == "3") if answer not in expected else 1.0
        assert (result.outcome, result.score) == (outcome, score if outcome == "scored" else None), answer
        assert note in result.note and bool(result.note) == bool(note), (answer, result.note)
    assert Counter(r.outcome for r in results) == {"scored": 128 + 16, "timeout": 64 + 16, "error": 32}
    assert max(resident) - resident[0] < FLAT_MIB
    assert wait_until_gone(marker) == []


@pytest.mark.slow
def test_scores_are_the_same_from_a_thread_and_from_an_event_loop():
    from_thread = []
    thread = threading.Thread(target=lambda: from_thread.extend(score_table()))
    thread.start()
    thread.join(timeout=120)
    assert from_thread == EXPECTED

    async def score():
        return await asyncio.get_running_loop().run_in_executor(None, score_table)

    assert asyncio.run(score()) == EXPECTED


@pytest.mark.cluster
def test_scores_are_the_same_from_a_ray_actor():
    ray = pytest.importorskip("ray")
    environment = {"env_vars": {"PYTHONPATH": PATH}}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        scorer = ray.remote(Actor).remote()
        assert ray.get(scorer.table.remote(), timeout=120) == EXPECTED
    finally:
        ray.shutdown()


class Actor:
    def table(self):
        return score_table(deadline_s=3.0)  # Ray's own start keeps the cores busy
