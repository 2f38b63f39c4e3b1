"""Programs per second that the code sandbox runs, beside a fresh Python in bubblewrap for each program.

    python benchmarks/sandbox.py                     # 2 workers, 400 programs warm, 40 fresh
    python benchmarks/sandbox.py --workers 8 --programs 4000

Small programs that read numbers and print an answer, as tests of such data sets do. Warm: worker processes
with a jail each, as scoring workers have. Fresh: as many threads, each of which starts `bwrap python` with
the same fences for one program after the other. Every output is checked. The target is at least 20 programs
a second with 2 workers on 2 cores.

The memory is this process's, before and after; a jail's is what its processes hold for themselves.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlpost.scoring.sandbox import Sandbox, shared_sandbox
from rlpost.scoring.sandbox.forms import visible_paths
from rlpost.scoring.sandbox.sandbox import working_form

PROGRAM = """
import heapq, json, sys
from collections import Counter

numbers = list(map(int, sys.stdin.read().split()))
heap = numbers[:]
heapq.heapify(heap)
print(heapq.heappop(heap), sum(numbers), Counter(n % 3 for n in numbers)[0])
"""
TARGET = 20.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--programs", type=int, default=400)
    arguments.add_argument("--fresh", type=int, default=40)
    options = arguments.parse_args()
    form = working_form()
    before = resident(Path("/proc/self"))
    with multiprocessing.get_context("spawn").Pool(options.workers, warm_up) as pool:
        pool.map(run_warm, range(4 * options.workers))
        started = time.monotonic()
        right = sum(pool.map(run_warm, range(options.programs), chunksize=1))
        warm = options.programs / (time.monotonic() - started)
        jail = max(pool.map(jail_memory, range(options.workers)))
    after = resident(Path("/proc/self"))
    print(f"warm jails ({form}): {warm:.0f} programs a second with {options.workers} workers")
    print(f"right answers: {right} of {options.programs}; target: at least {TARGET:.0f} a second")
    print(f"memory: this process {before:.0f} MiB before, {after:.0f} MiB after; a jail {jail:.0f} MiB")
    if form == "bubblewrap":
        fresh = measure_fresh(options.fresh, options.workers)
        print(f"a fresh Python in bubblewrap each: {fresh:.1f} programs a second; ratio {warm / fresh:.1f}")
    else:
        print("a fresh Python in bubblewrap each: not measured, for bubblewrap does not work here")
    if right < options.programs or warm < TARGET:
        sys.exit(1)


def case(number: int) -> tuple[str, str]:
    """Input and right output of one program."""
    numbers = [(number * 7919 + k * 104729) % 1000 for k in range(50)]
    expected = f"{min(numbers)} {sum(numbers)} {sum(n % 3 == 0 for n in numbers)}\n"
    return " ".join(map(str, numbers)) + "\n", expected


def warm_up() -> None:
    working_form()


def run_warm(number: int) -> bool:
    given, expected = case(number)
    return shared_sandbox().run(PROGRAM, given).stdout == expected


def jail_memory(_: int) -> float:
    with Sandbox() as sandbox:
        sandbox.run("print(1)")
        leader = sandbox._jail._process.pid
        total, waiting = 0.0, [leader]
        while waiting:
            place = Path(f"/proc/{waiting.pop()}")
            total += private(place)
            waiting += [int(p) for f in place.glob("task/*/children") for p in f.read_text().split()]
        return total


def private(place: Path) -> float:
    """MiB that a process holds by itself; without the right to look there, all that it has resident."""
    try:
        text = (place / "smaps_rollup").read_text()
    except OSError:
        return resident(place)
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE))) / 1024


def resident(place: Path) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", (place / "status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def measure_fresh(programs: int, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "main.py").write_text(PROGRAM)
        line = [
            "bwrap",
            "--unshare-all",
            "--die-with-parent",
            "--clearenv",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ]
        line += ["--tmpfs", "/tmp"]
        for path in visible_paths():
            line += ["--ro-bind", path, path]
        line += ["--ro-bind", folder, "/program", "--chdir", "/tmp", sys.executable, "/program/main.py"]

        def run(number: int) -> None:
            given, expected = case(number)
            done = subprocess.run(line, input=given, capture_output=True, text=True, check=True, timeout=60)
            if done.stdout != expected:
                raise SystemExit(f"a fresh program printed {done.stdout!r}, not {expected!r}")

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, range(workers)))
            started = time.monotonic()
            list(pool.map(run, range(programs)))
            return programs / (time.monotonic() - started)


if __name__ == "__main__":
    main()
