"""The memory plan beside what was measured: planned, measured and their ratio, for recipes that run on CPUs.

    python benchmarks/memory_plan.py                          # quickstart, a few steps of each stage
    python benchmarks/memory_plan.py --recipe configs/quickstart_cluster.yaml
    python benchmarks/memory_plan.py --all-steps              # to the recipe's end
    python benchmarks/memory_plan.py --processes              # only what rlpost/sizing/process_sizes.py holds

A recipe is run by `rlpost train` in a process of its own. Measured is each process's high-water mark of
resident memory (VmHWM), read four times a second; processes are told apart by their command lines.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rlpost.config import load_config  # noqa: E402
from rlpost.sizing import MemoryPlan, plan_memory  # noqa: E402

MIB = 2**20
ROLES = {
    "DeepSpeedLearner": "learner rank",
    "TorchLearner": "learner rank",
    "RolloutWorker": "rollout worker",
    "VLLM": "vLLM's process",
    "rlpost.scoring": "scorer",
    "raylet": "Ray",
    "gcs_server": "Ray",
    "/ray/": "Ray",
    "ray::": "Ray",
    "rlpost.cli": "driver",
}
IMPORTS = {
    "driver": "import rlpost.training.run, rlpost.learner, transformers.models.qwen2.modeling_qwen2",
    "learner with DeepSpeed": "import rlpost.learner.deepspeed_learner, ray, deepspeed, "
    "transformers.models.qwen2.modeling_qwen2",
    "rollout worker": "import rlpost.rollout.worker, ray, transformers.models.qwen2.modeling_qwen2",
    "rollout worker with vLLM": "import rlpost.rollout.worker, ray; from vllm import LLM",
    "scorer": "import rlpost.scoring.worker",
}


def high_water(pid: int) -> int:
    """VmHWM of a process in bytes; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else 0


def role_of(process: psutil.Process) -> str:
    """What a process is, by its command line."""
    words = " ".join(process.cmdline())
    return next((role for sign, role in ROLES.items() if sign in words), "other")


def measure(recipe: Path, overrides: list[str]) -> dict[str, list[int]]:
    """High-water marks of every process of a run, by role."""
    marks: dict[int, int] = {}
    roles: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "rlpost.cli",
            "train",
            str(recipe),
            *overrides,
            "--output",
            folder + "/run",
        ]
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        root = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                for process in (root, *root.children(recursive=True)):
                    marks[process.pid] = max(marks.get(process.pid, 0), high_water(process.pid))
                    if roles.get(process.pid, "Ray") in ("Ray", "other"):
                        # An actor of Ray gets its name some time after its start.
                        roles[process.pid] = role_of(process)
            except psutil.Error:
                pass
            time.sleep(0.25)
        if run.returncode:
            sys.exit(f"the run failed with status {run.returncode}")
    found: dict[str, list[int]] = {}
    for pid, mark in marks.items():
        found.setdefault(roles[pid], []).append(mark)
    return found


def planned(plan: MemoryPlan, inline: bool) -> dict[str, int]:
    """Bytes of each role's processes; inline the driver's process is the learner and the engine too."""
    needs = {role.name: role.peak("host") for role in plan.roles}
    if not inline:
        return needs | {"learner rank": needs["first learner rank"]}
    host = next(place for place in plan.places if place.kind == "host")
    scorers = sum(number * role.peak("host") for role, number in host.seats if role.name == "scorer")
    return {"driver": host.needed - scorers, "scorer": needs["scorer"]}


def compare(recipe: Path, overrides: list[str]) -> None:
    """Print the table of one recipe."""
    config = load_config(recipe, overrides)
    needs = planned(plan_memory(config, hub=False), config.cluster.mode == "inline")
    found = measure(recipe, overrides)
    print(f"{recipe.name}\n{'role':20s}{'planned MiB':>13s}{'measured MiB':>14s}{'planned / measured':>20s}")
    for role, marks in sorted(found.items(), key=lambda pair: -max(pair[1])):
        # Ray's processes are planned together.
        most = sum(marks) if role == "Ray" else max(marks)
        need = needs.get(role, 0)
        ratio = f"{need / most:.2f}" if need else "-"
        print(f"{role:20s}{need / MIB:13.0f}{most / MIB:14.0f}{ratio:>20s}")


def processes() -> None:
    """Print what processes take before they hold a model."""
    report = "import re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    for name, imports in IMPORTS.items():
        done = subprocess.run(
            [sys.executable, "-c", f"{imports}\n{report}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        lines = done.stdout.split()
        print(f"{name:28s}{int(lines[-1]) // 1024 if lines and not done.returncode else '-':>8} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--all-steps", action="store_true")
    parser.add_argument("--processes", action="store_true")
    args = parser.parse_args()
    if args.processes:
        processes()
        return
    few = ["stages.warmup.train.steps=12", "stages.rl.train.steps=5", "evaluation.every=0"]
    compare(args.recipe, [] if args.all_steps else few)


if __name__ == "__main__":
    main()
