"""The baselines of scoring.py: a process for each sample, as where there are no scoring workers.

    python benchmarks/process_per_sample.py fork|new NAME < ITEMS

ITEMS is a JSON list of [completion, answer]; out comes {"seconds": ..., "cpu_s": ..., "scores": [...]}. This
process has nothing but the reward function in its memory, so that its forks are as cheap as they can be.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[1]
AT_ONCE, DEADLINE_S = 2, 30.0
NEW_PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from importlib import import_module
module = import_module(f"rewards.{sys.argv[2]}")
getattr(module, "warm_up", lambda: None)()
completion, answer = json.load(sys.stdin)
print(module.reward(completion=completion, answer=answer)["score"])
"""

Item = tuple[str, str]
Reward = Callable[..., dict[str, float]]


def forked(reward: Reward, item: Item) -> float | None:
    """The score by a process forked for this sample; None past the deadline."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_score, args=(reward, item, theirs))
    process.start()
    theirs.close()
    with ours:
        score = ours.recv() if ours.poll(DEADLINE_S) else None
    process.kill()
    process.join()
    return score


def _send_score(reward: Reward, item: Item, end: Connection) -> None:
    completion, answer = item
    end.send(reward(completion=completion, answer=answer)["score"])


def in_new_interpreter(name: str, item: Item) -> float:
    """The score by an interpreter started for this sample."""
    command = [sys.executable, "-c", NEW_PROCESS, str(ROOT), name]
    done = subprocess.run(
        command, input=json.dumps(item), capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    return float(done.stdout)


def cpu_seconds() -> float:
    """CPU time of this process and of all its children that have ended, theirs included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main(way: str, name: str, items: Sequence[Item]) -> None:
    """Score all items, `AT_ONCE` at a time, and print the result."""
    if way == "fork":
        from importlib import import_module

        sys.path.insert(0, str(ROOT))
        module = import_module(f"rewards.{name}")
        getattr(module, "warm_up", lambda: None)()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        start, cpu = time.perf_counter(), cpu_seconds()
        if way == "fork":
            scores = list(threads.map(lambda item: forked(module.reward, item), items))
        else:
            scores = list(threads.map(lambda item: in_new_interpreter(name, item), items))
        seconds, cpu_s = time.perf_counter() - start, cpu_seconds() - cpu
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "scores": scores}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.load(sys.stdin))
