"""Training speed against TRL's GRPOTrainer, both on this machine, in turns, in the same run.

    python -m venv trl-env
    trl-env/bin/pip install torch==2.13.0 trl==1.16.0 transformers==5.19.0 datasets==5.2.0
    python benchmarks/vs_trl.py --trl-python trl-env/bin/python

TRL is a requirement of this benchmark alone. Both sides start from the same checkpoint: the tiny model
(1.1 M parameters), warmed up on the task `ragged` (repeat a letter n times; n from 1 to 64, mostly small), so
that its responses differ widely in length. Both see the same prompts in the same order and take the
same steps: GRPO with 8 responses per prompt, exact match as reward, no KL, one AdamW update per step,
temperature 1, float32, 2 threads. Each measurement is a process of its own; the sides alternate.

TRL runs as fast as it did here: transformers' `generate` (its continuous batching, `--trl-generation
continuous`, took more than five times as long on a CPU), micro-batches of 128 (16 to 256 were tried), no
gradient checkpointing, logging, saving or worker processes for data. Ours runs as users run it, with
rollouts and metrics written to disk and rewards in worker processes of their own.

Samples per second are sampled, scored and trained responses over the median wall clock of a step; the first
`--skip` steps and all start-up are left out. The CPU time of a step stands beside it, because wall clocks
suffer from other work on the machine; OpenMP threads wait asleep on both sides, so that it counts work
only. The reward curves are compared in thirds of the run: they agree when the difference of the means over
repeats lies inside its 99 % interval, taken from the spread between repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIDES = ("rlpost", "trl")
TARGET_RATIO = 2.0
THREADS = 2
GROUP_SIZE = 8
LEARNING_RATE = 2e-4
MAX_TOKENS = 72
RUN_DEADLINE_S = 600
ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}


def main() -> None:
    os.environ.update(ENVIRONMENT)
    args = arguments()
    if args.side:
        measure = {"rlpost": measure_rlpost, "trl": measure_trl}[args.side]
        args.result.write_text(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory(prefix="vs-trl-") as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "warm" / "policy").exists():
            prepare(args, work)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for repeat in range(args.repeats):
            for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
                results[side].append(measured(args, work, side, seed=repeat + 1))
        report(args, results)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that can import trl")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=32, help="prompts per step")
    parser.add_argument("--skip", type=int, default=2, help="first steps that are not timed")
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--trl-generation", choices=("generate", "continuous"), default="generate")
    parser.add_argument("--trl-microbatch", type=int, default=128, help="responses per forward pass")
    parser.add_argument("--work", type=Path, help="keep checkpoint and runs here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(args: argparse.Namespace, work: Path) -> None:
    """Write the prompts and train the checkpoint that both sides start from."""
    sys.path.insert(0, str(ROOT))
    from rlpost.data.tasks import build_task

    rows = build_task("ragged", {"size": args.steps * args.prompts}).rows("train", seed=0)
    random.Random(0).shuffle(rows)  # the task draws short answers first
    write_rows(work / "prompts.jsonl", rows)
    recipe = {
        "name": "warm",
        "model": {"init": "tiny"},
        "data": {
            "task": "ragged",
            "task_options": {"size": 2048},
            "template": "none",
            "demonstration_column": "demonstration",
        },
        "algorithm": "sft",
        "train": {
            "steps": args.warmup_steps,
            "prompts_per_step": 64,
            "samples_per_prompt": 1,
            "learning_rate": 2e-3,
        },
        "evaluation": {"problems": 64},
    }
    print(f"warming up: {args.warmup_steps} supervised steps", flush=True)
    run_rlpost(
        recipe | {"rewards": "exact_match", "stages": [{"name": "sft", "source": "demonstrations"}]},
        work / "warm",
        0,
    )


def measured(args: argparse.Namespace, work: Path, side: str, seed: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    result = work / f"{side}-{seed}.json"
    python = args.trl_python if side == "trl" else sys.executable
    command = [python, __file__, "--side", side, "--result", str(result), "--seed", str(seed)]
    for name in ("steps", "prompts", "skip", "trl_generation", "trl_microbatch"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--work", str(work)],
        capture_output=True,
        text=True,
        timeout=RUN_DEADLINE_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(result.read_text())
    found["samples_per_s"] = speed(args, found["step_s"])
    found["samples_per_cpu_s"] = speed(args, found["step_cpu_s"])
    print(
        f"{side:7s} seed {seed}: {found['samples_per_s']:7.1f} samples/s, "
        f"{found['samples_per_cpu_s']:6.1f} samples/CPU s, reward "
        f"{found['reward'][0]:.2f} -> {found['reward'][-1]:.2f}, "
        f"process {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return found


def speed(args: argparse.Namespace, step_s: list[float]) -> float:
    """Responses per second, from the median step."""
    return args.prompts * GROUP_SIZE / statistics.median(step_s[args.skip :])


def measure_rlpost(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and mean reward of every step, from the run's own metrics."""
    recipe = {
        "name": "ours",
        "model": {"init": str(args.work / "warm" / "policy")},
        "data": {"path": str(args.work / "prompts.jsonl"), "template": "none", "shuffle": False},
        "rewards": "exact_match",
        "rollout": {"max_response_tokens": MAX_TOKENS, "slots": args.prompts * GROUP_SIZE},
        # The epsilon of TRL.
        "algorithm": {"base": "grpo", "advantage": {"group_normalised": {"epsilon": 1e-4}}},
        "train": {
            "steps": args.steps,
            "prompts_per_step": args.prompts,
            "samples_per_prompt": GROUP_SIZE,
            "learning_rate": LEARNING_RATE,
        },
    }
    directory = args.work / f"run-{args.seed}"
    cpu_s = clocked_steps()
    run_rlpost(recipe, directory, args.seed)
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "time/step_s" in line]
    assert all(line["rollout/samples"] == args.prompts * GROUP_SIZE for line in steps)
    return {
        "step_s": [line["time/step_s"] for line in steps],
        "step_cpu_s": cpu_s,
        "reward": [line["reward/mean"] for line in steps],
        "tokens": [line["rollout/response_tokens_mean"] for line in steps],
        "longest": [line["rollout/response_tokens_max"] for line in steps],
    }


def clocked_steps() -> list[float]:
    """A list that will hold the CPU seconds of every step that this process then trains."""
    sys.path.insert(0, str(ROOT))
    from rlpost.training import loop

    seconds: list[float] = []
    step = loop.train_step

    def clocked(*args: Any) -> dict[str, float]:
        start = time.process_time()
        metrics = step(*args)
        seconds.append(time.process_time() - start)
        return metrics

    loop.train_step = clocked
    return seconds


def run_rlpost(recipe: dict[str, Any], directory: Path, seed: int) -> None:
    sys.path.insert(0, str(ROOT))
    from rlpost.config import load_config
    from rlpost.training import train

    shutil.rmtree(directory, ignore_errors=True)
    path = directory.with_suffix(".yaml")
    path.write_text(json.dumps(recipe | {"seed": seed, "cluster": {"threads": THREADS}}))
    train(load_config(path), output=directory)


def measure_trl(args: argparse.Namespace) -> dict[str, Any]:
    """The same of TRL: time between the ends of steps, reward from the reward function's own answers."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(THREADS)
    found: dict[str, list[float]] = {
        name: [] for name in ("step_s", "step_cpu_s", "reward", "tokens", "longest")
    }

    def exact_match(
        completions: list[str], completion_ids: list[list[int]], answer: list[str], **_: object
    ) -> list[float]:
        scores = [float(c.strip() == a) for c, a in zip(completions, answer, strict=True)]
        lengths = [len(ids) for ids in completion_ids]
        found["reward"].append(statistics.fmean(scores))
        found["tokens"].append(statistics.fmean(lengths))
        found["longest"].append(max(lengths))
        return scores

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            if not found["step_s"]:
                self.last = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: object, **__: object) -> None:
            now = time.perf_counter(), time.process_time()
            found["step_s"].append(now[0] - self.last[0])
            found["step_cpu_s"].append(now[1] - self.last[1])
            self.last = now

    checkpoint = str(args.work / "warm" / "policy")
    rows = [json.loads(line) for line in (args.work / "prompts.jsonl").read_text().splitlines()]
    responses = args.prompts * GROUP_SIZE
    config = GRPOConfig(
        output_dir=str(args.work / f"trl-{args.seed}"),
        model_init_kwargs={"dtype": "float32"},
        seed=args.seed,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=args.trl_microbatch,
        gradient_accumulation_steps=responses // args.trl_microbatch,
        num_generations=GROUP_SIZE,
        max_steps=args.steps,
        max_completion_length=MAX_TOKENS,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        dataloader_num_workers=0,
        use_transformers_continuous_batching=args.trl_generation == "continuous",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=checkpoint,
        reward_funcs=exact_match,
        args=config,
        train_dataset=Dataset.from_list([{k: row[k] for k in ("prompt", "answer")} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, padding_side="left"),
        callbacks=[Clock()],
    )
    trainer.train()
    assert len(found["reward"]) == len(found["step_s"]) == args.steps
    return found


def report(args: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table, the ratio and whether the curves agree."""
    first = results["rlpost"][0]
    tokens, longest = statistics.fmean(first["tokens"]), max(first["longest"])
    print(
        f"\n{args.repeats} repeats of {args.steps} steps of {args.prompts} prompts x {GROUP_SIZE} responses"
    )
    print(f"responses of {tokens:.1f} tokens on average, {longest:.0f} at most")
    for name, unit in (("samples_per_s", "samples/s"), ("samples_per_cpu_s", "samples/CPU s")):
        medians = {}
        for side in SIDES:
            speeds = [r[name] for r in results[side]]
            medians[side] = statistics.median(speeds)
            print(f"{side:7s} {medians[side]:8.1f} {unit} (median; {min(speeds):.1f} to {max(speeds):.1f})")
        ratio = medians["rlpost"] / medians["trl"]
        print(f"ratio   {ratio:8.2f} (target at least {TARGET_RATIO}): {verdict(ratio >= TARGET_RATIO)}")
    print(
        "\nmean reward   "
        + "   ".join(f"{side:>15s}" for side in SIDES)
        + "   difference and its 99 % interval"
    )
    agreed = True
    for start, stop in thirds(args.steps):
        means = {s: [statistics.fmean(r["reward"][start:stop]) for r in results[s]] for s in SIDES}
        difference = statistics.fmean(means["rlpost"]) - statistics.fmean(means["trl"])
        band = interval(means["rlpost"], means["trl"])
        agreed &= abs(difference) <= band
        cells = "   ".join(f"{statistics.fmean(m):6.3f} ± {spread(m):6.3f}" for m in means.values())
        print(f"steps {start + 1:2d}-{stop:2d}   {cells}   {difference:+.3f} ± {band:.3f}")
    print(f"the reward curves agree within noise: {verdict(agreed)}")


def verdict(good: bool) -> str:
    return "yes" if good else "NO"


def thirds(steps: int) -> list[tuple[int, int]]:
    return [(steps * k // 3, steps * (k + 1) // 3) for k in range(3)]


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def interval(a: list[float], b: list[float]) -> float:
    """Half-width of the 99 % t-interval of mean(a) - mean(b), with a pooled standard deviation."""
    from scipy.stats import t

    freedom = len(a) + len(b) - 2
    if freedom < 2:
        return float("inf")
    pooled = ((len(a) - 1) * spread(a) ** 2 + (len(b) - 1) * spread(b) ** 2) / freedom
    return float(t.ppf(0.995, freedom)) * (pooled * (1 / len(a) + 1 / len(b))) ** 0.5


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
