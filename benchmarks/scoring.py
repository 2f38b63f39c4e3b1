"""Verdicts per second of the scoring processes, beside a process per sample, and the same under attack.

    python benchmarks/scoring.py                    # made-up problems
    python benchmarks/scoring.py --data-dir DATA    # DATA/gsm8k/test.jsonl and DATA/math500/test.jsonl
    python benchmarks/scoring.py --only attack

Throughput: `Scorer.score_items` with 2 fresh workers on responses of 300 to 1,500 characters, eight to a
problem as in training: half end in the gold answer, half in another one, so that math_answer has to compare
mathematics. In turns with it, on some of these responses, also two at a time and with a deadline
(process_per_sample.py):

    fork   a process forked for each sample, by one that has imported and warmed up the reward function and
           nothing else; a driver that holds torch forks more slowly
    new    a new Python interpreter for each sample, which imports the reward function

Rates are medians over the repeats, ratios are of medians. CPU times of all processes together, without the
workers' start, stand beside them: other work on the machine hardly touches these. The targets are 1,000
verdicts a second for gsm8k, 150 for math_answer, and 10 times a process per sample. A fork costs the same
whatever is scored, so the ratio to it falls where scoring itself takes long.

Attack: 256 answers, half of them attacks (attack_reward.py), on 4 workers. The unit of time is what the
attacks would take if each held its worker to the deadline, bad answers x deadline / workers; the target is at
most twice that. The driver's memory is its resident size: before, at most meanwhile, and after.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import runpy
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from process_per_sample import cpu_seconds

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.scoring import ScoreItem, Scorer

PROBLEMS, WORKERS, SAMPLES, SHORTEST, LONGEST = 250, 2, 8, 300, 1500
TARGETS = {"gsm8k": 1000.0, "math_answer": 150.0}
BASELINES = {"fork": 200, "new": 12}
"""Samples that each is measured on."""
TARGET_RATIO, TARGET_ATTACK = 10.0, 2.0
DEADLINE_S = 30.0
ATTACK = {"hang": 64, "memory": 16, "crash": 16, "fork": 16, "print": 16}
ATTACK_NORMAL, ATTACK_WORKERS, ATTACK_DEADLINE_S, ATTACK_MEMORY_GIB = 128, 4, 1.0, 0.03125

Items = Sequence[ScoreItem]


def gsm8k_items(folder: Path | None, random_: random.Random) -> list[ScoreItem]:
    """Worked solutions that end in `#### NUMBER`, and their like with another number."""
    items = []
    for solution in _gsm8k_solutions(folder, random_):
        work, _, gold = solution.rpartition("####")
        for sample in range(SAMPLES):
            number = gold.strip() if sample % 2 else f"{random_.randint(2, 5000):,}"
            text = _lengthen(re.sub(r"<<.*?>>", "", work), random_) + f"\n#### {number}"
            items.append(ScoreItem("", text, {"answer": solution}))
    return items


def math_items(folder: Path | None, random_: random.Random) -> list[ScoreItem]:
    """Worked solutions that end in a box, and their like with a digit or a letter of the answer changed."""
    items = []
    for solution, gold in _math_solutions(folder, random_):
        for sample in range(SAMPLES):
            answer = gold if sample % 2 else _another(gold, random_)
            text = _lengthen(solution.replace(r"\boxed", ""), random_)
            items.append(
                ScoreItem("", f"{text}\nTherefore the answer is $\\boxed{{{answer}}}$.", {"answer": gold})
            )
    return items


def _gsm8k_solutions(folder: Path | None, random_: random.Random) -> list[str]:
    if folder is not None:
        return [row["answer"] for row in _rows(folder / "gsm8k" / "test.jsonl", random_)]
    solutions = []
    for _ in range(PROBLEMS):
        a, b, c = (random_.randint(2, 99) for _ in range(3))
        work = f"They had {a} boxes of {b}: {a} x {b} = {a * b} pens.\nThen {a * b} + {c} = {a * b + c} pens."
        solutions.append(f"{work}\n#### {a * b + c}")
    return solutions


def _math_solutions(folder: Path | None, random_: random.Random) -> list[tuple[str, str]]:
    if folder is not None:
        rows = _rows(folder / "math500" / "test.jsonl", random_)
        return [(row["solution"], row["answer"]) for row in rows]
    # Three of five are whole numbers, as in MATH-500.
    forms = [*["{a}"] * 6, r"\frac{{{a}}}{{{b}}}", r"{a}\sqrt{{{b}}}", "x^2 + {a}x + {b}", "[{a}, {b})"]
    solutions = []
    for number in range(PROBLEMS):
        a, b = sorted(random_.sample(range(2, 100), 2))
        gold = forms[number % len(forms)].format(a=a, b=b)
        solutions.append(
            (f"We set $f(x) = {a}x^2 - {b}x$ and complete the square, which gives ${gold}$.", gold)
        )
    return solutions


def _rows(path: Path, random_: random.Random) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in random_.sample(lines, PROBLEMS)]


def _lengthen(text: str, random_: random.Random) -> str:
    """The text, again and again or cut at its front, in a length that a model's response may have."""
    length = random_.randint(SHORTEST, LONGEST)
    while len(text) < length:
        text = f"{text}\nLet me check that once more, step by step.\n{text}"
    return text[-length:]


def _another(answer: str, random_: random.Random) -> str:
    """The answer with one digit changed, without any digit with something added."""
    places = [place for place, c in enumerate(answer) if c.isdigit()]
    if not places:
        return f"{answer}+1"
    place = random_.choice(places)
    digit = random_.choice("123456789".replace(answer[place], ""))
    return f"{answer[:place]}{digit}{answer[place + 1 :]}"


def measure_throughput(name: str, items: Items, repeats: int) -> dict[str, Any]:
    """Verdicts per second of the scorer and of both baselines, in turns; all must agree."""
    rates: dict[str, list[float]] = {"rlpost": [], **{way: [] for way in BASELINES}}
    cpu_ms: dict[str, list[float]] = {way: [] for way in rates}
    truth: list[float | None] = []
    for _ in range(repeats):
        _, idle_s, _ = in_scorer(name, [])
        seconds, cpu_s, scores = in_scorer(name, items)
        truth = truth or scores
        rates["rlpost"].append(len(items) / seconds)
        cpu_ms["rlpost"].append(1e3 * (cpu_s - idle_s) / len(items))
        disagree = scores != truth
        for way, count in BASELINES.items():
            some = random.Random(0).sample(range(len(items)), count)
            seconds, cpu_s, scores = process_per_sample(way, name, [items[k] for k in some])
            rates[way].append(count / seconds)
            cpu_ms[way].append(1e3 * cpu_s / count)
            disagree |= scores != [truth[k] for k in some]
        if disagree:
            raise SystemExit(f"{name}: the scores differ between the ways to get them")
    return {
        "samples": len(items),
        "characters": statistics.mean(len(item.completion) for item in items),
        "right": sum(score == 1.0 for score in truth) / len(items),
        "rates": {way: statistics.median(found) for way, found in rates.items()},
        "cpu_ms": {way: statistics.median(found) for way, found in cpu_ms.items()},
        "spread": {way: (min(found), max(found)) for way, found in rates.items()},
    }


def in_scorer(name: str, items: Items) -> tuple[float, float, list[float | None]]:
    """Seconds, CPU seconds from the workers' start to their end, and scores.

    The workers are fresh: what an earlier repeat left in their caches would flatter.
    """
    scoring = ScoringConfig(workers=WORKERS, deadline_s=DEADLINE_S)
    cpu = cpu_seconds()
    with Scorer([RewardConfig(function=name)], scoring) as scorer:
        start = time.perf_counter()
        results = scorer.score_items(items)
        seconds = time.perf_counter() - start
    return seconds, cpu_seconds() - cpu, [result.score for result in results]


def process_per_sample(way: str, name: str, items: Items) -> tuple[float, float, list[float | None]]:
    """Seconds, CPU seconds and scores of a baseline."""
    command = [sys.executable, str(Path(__file__).with_name("process_per_sample.py")), way, name]
    request = json.dumps([(item.completion, item.columns["answer"]) for item in items])
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    return found["seconds"], found["cpu_s"], found["scores"]


def measure_attack() -> dict[str, Any]:
    """256 answers, half of them attacks: how long it takes, what is right, what the driver's memory does."""
    place = Path(__file__).with_name("attack_reward.py")
    expected = runpy.run_path(str(place))["EXPECTED"]
    bad = []
    for kind, count in ATTACK.items():
        ways = [way for way in expected if way.startswith(f"{kind}/")]
        bad += [ways[number % len(ways)] for number in range(count)]
    answers = [*bad, *(str(number % 7) for number in range(ATTACK_NORMAL))]
    random.Random(0).shuffle(answers)
    scoring = ScoringConfig(
        workers=ATTACK_WORKERS, deadline_s=ATTACK_DEADLINE_S, memory_gib=ATTACK_MEMORY_GIB
    )
    with Scorer([RewardConfig(function=str(place))], scoring) as scorer:
        scorer.score_items([ScoreItem("", "3", {"answer": "3"})] * 64)
        resident, done = [_resident_mib()], threading.Event()
        watcher = threading.Thread(target=_watch, args=(resident, done))
        watcher.start()
        start = time.perf_counter()
        results = scorer.score_items([ScoreItem("", answer, {"answer": "3"}) for answer in answers])
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    wrong = 0
    for answer, result in zip(answers, results, strict=True):
        outcome, note = expected.get(answer, ("scored", ""))
        score = 1.0 if answer in expected else float(answer == "3")
        right = result.outcome == outcome and note in result.note
        wrong += not (right and result.score == (score if outcome == "scored" else None))
    unit = len(bad) * ATTACK_DEADLINE_S / ATTACK_WORKERS
    return {
        "answers": len(answers),
        "bad": len(bad),
        "wrong": wrong,
        "outcomes": dict(Counter(result.outcome for result in results)),
        "seconds": seconds,
        "unit_s": unit,
        "ratio": seconds / unit,
        "resident_mib": {"before": resident[0], "peak": max(resident), "after": _resident_mib()},
    }


def _watch(resident: list[float], done: threading.Event) -> None:
    while not done.wait(0.01):
        resident.append(_resident_mib())


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report_throughput(name: str, found: dict[str, Any]) -> None:
    """One table per reward function."""
    print(
        f"\n{name}: {found['samples']:,} responses, {found['characters']:.0f} characters on average, "
        f"{found['right']:.0%} right; {WORKERS} at a time"
    )
    columns = f"{'least':>9} {'most':>9} {'rlpost is':>10} {'CPU ms':>8} {'rlpost is':>10}"
    print(f"{'':<8} {'verdicts/s':>10} {columns}")
    ours, our_cpu = found["rates"]["rlpost"], found["cpu_ms"]["rlpost"]
    for way, rate in found["rates"].items():
        least, most = found["spread"][way]
        cpu_ms = found["cpu_ms"][way]
        ratios = ("", "") if way == "rlpost" else (f"{ours / rate:.1f} x", f"{cpu_ms / our_cpu:.1f} x")
        value, target = (rate, TARGETS[name]) if way == "rlpost" else (ours / rate, TARGET_RATIO)
        below = f"  below {target:,g}" if value < target else ""
        times = f"{ratios[0]:>10} {cpu_ms:>8.2f} {ratios[1]:>10}"
        print(f"{way:<8} {rate:>10,.1f} {least:>9,.1f} {most:>9,.1f} {times}{below}")


def report_attack(found: dict[str, Any]) -> None:
    memory, above = found["resident_mib"], f"  above {TARGET_ATTACK:g}"
    print(f"\nattack: {found['answers']} answers, {found['bad']} of them attacks, {ATTACK_WORKERS} workers")
    print(f"outcomes {found['outcomes']}, {found['wrong']} not as they must be")
    unit = f"bad answers x {ATTACK_DEADLINE_S:g} s / workers = {found['unit_s']:.0f} s"
    too_long = above if found["ratio"] > TARGET_ATTACK else ""
    print(f"{found['seconds']:.1f} s, {found['ratio']:.2f} x ({unit}){too_long}")
    sizes = f"{memory['before']:.1f} MiB before, {memory['peak']:.1f} at most, {memory['after']:.1f} after"
    print(f"driver: {sizes}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir", type=Path, help="the folder with gsm8k/test.jsonl and math500/test.jsonl"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["gsm8k", "math_answer", "attack"])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the tables")
    args = parser.parse_args()
    wanted = [args.only] if args.only else [*TARGETS, "attack"]
    makers = {"gsm8k": gsm8k_items, "math_answer": math_items}
    found: dict[str, Any] = {"load": os.getloadavg()[0], "cores": len(os.sched_getaffinity(0))}
    if not args.json:
        print(f"{found['cores']} cores; load over the last minute {found['load']:.1f}")
    for name in wanted:
        if name == "attack":
            found[name] = measure_attack()
        else:
            items = makers[name](args.data_dir, random.Random(0))
            found[name] = measure_throughput(name, items, args.repeats)
        if not args.json:
            report_attack(found[name]) if name == "attack" else report_throughput(name, found[name])
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
