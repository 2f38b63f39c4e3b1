"""Memory and time of the learner's output head: the fused head against a straightforward one.

    python benchmarks/learner_memory.py                    # Qwen2.5-0.5B's head: 151,936 x 896, 4,096 tokens
    python benchmarks/learner_memory.py --tokens 1024 --repeats 5

Every measurement is a forward and a backward pass in a process of its own; the variants take turns. Both
heads compute the log-prob of each target token at temperature 0.9 and the gradients of the hidden states
and of the weight, in float32.

| variant       | what it computes                                                                  |
|---------------|-----------------------------------------------------------------------------------|
| naive         | logits = hidden @ weight.T / temperature, log_softmax, gather                     |
| naive+entropy | the same, and the entropy as a metric: logsumexp - sum(softmax * logits)          |
| fused         | `rlpost.learner.heads.fused_head`: the same log-probs, and the entropy always           |

Memory is the resident set's high-water mark (VmHWM, reset just before the pass) less the resident set
before the pass, in which hidden states, weight and targets already are. "peak" is that number; it holds the
two gradients, which both sides must produce (0.51 GiB at the default size). "extra" is the peak
less these gradients: what a head needs for itself. Time is the wall clock of the pass; CPU time stands
beside it because wall clocks suffer from other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
TEMPERATURE = 0.9
VARIANTS = ("naive", "naive+entropy", "fused")
MEMORY_TARGET, TIME_TARGET = 1 / 6, 1.3
GIB = 2**30


def naive(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    logits_NV = hidden_ND @ weight_VD.T / TEMPERATURE
    return torch.log_softmax(logits_NV, dim=-1).gather(1, target_N[:, None])[:, 0]


def naive_entropy(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    logits_NV = hidden_ND @ weight_VD.T / TEMPERATURE
    with torch.no_grad():
        probability_NV = torch.softmax(logits_NV, dim=-1)
        torch.logsumexp(logits_NV, dim=-1) - (probability_NV * logits_NV).sum(dim=-1)
        del probability_NV
    return torch.log_softmax(logits_NV, dim=-1).gather(1, target_N[:, None])[:, 0]


def fused(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    sys.path.insert(0, str(ROOT))
    from rlpost.learner.heads.fused_head import head_logprobs

    return head_logprobs(hidden_ND, weight_VD, target_N, temperature=TEMPERATURE)[0]


HEADS = {"naive": naive, "naive+entropy": naive_entropy, "fused": fused}


def memory_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(variant: str, tokens: int, vocabulary: int, hidden: int, threads: int) -> dict[str, float]:
    """One forward and backward pass in this process."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    small = [torch.randn(8, 8, requires_grad=True), torch.randn(300, 8, requires_grad=True), torch.arange(8)]
    HEADS[variant](*small).sum().backward()  # imports and thread pools are not what is measured
    hidden_ND = torch.randn(tokens, hidden, generator=generator).requires_grad_()
    weight_VD = (0.02 * torch.randn(vocabulary, hidden, generator=generator)).requires_grad_()
    target_N = torch.randint(vocabulary, (tokens,), generator=generator)
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    logprob_N = HEADS[variant](hidden_ND, weight_VD, target_N)
    logprob_N.mean().backward()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory_bytes("VmHWM") - before
    gradients = hidden_ND.grad.nbytes + weight_VD.grad.nbytes
    return {"peak": peak, "extra": peak - gradients, "wall": wall, "cpu": cpu, "sum": float(logprob_N.sum())}


def measure_all(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Every variant `repeats` times, taking turns, each in a process of its own."""
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in args.variants}
    for repeat in range(args.repeats):
        for variant in args.variants:
            sizes = [
                f"--{name}={getattr(args, name)}" for name in ("tokens", "vocabulary", "hidden", "threads")
            ]
            child = subprocess.run(
                [sys.executable, __file__, "--child", variant, *sizes],
                capture_output=True,
                text=True,
                timeout=1800,
            )
            if child.returncode:
                sys.exit(f"{variant} failed with status {child.returncode}\n{child.stderr}")
            results[variant].append(json.loads(child.stdout))
            print(f"repeat {repeat + 1} of {args.repeats}: {variant} done", file=sys.stderr)
    return results


def median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def report(args: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> None:
    size = f"{args.vocabulary:,} x {args.hidden} vocabulary, {args.tokens:,} tokens, float32"
    print(f"{size}, {args.threads} threads; medians of {args.repeats}\n")
    print(f"{'variant':15s}{'peak GiB':>10s}{'extra GiB':>11s}{'wall s':>9s}{'(range)':>16s}{'cpu s':>9s}")
    for variant, runs in results.items():
        walls = [run["wall"] for run in runs]
        spread = f"{min(walls):.1f} to {max(walls):.1f}"
        memory = f"{median(runs, 'peak') / GIB:10.2f}{median(runs, 'extra') / GIB:11.2f}"
        print(f"{variant:15s}{memory}{median(runs, 'wall'):9.1f}{spread:>16s}{median(runs, 'cpu'):9.1f}")
    print()
    for variant in (v for v in results if v != "fused" and "fused" in results):
        report_ratio(variant, results[variant], results["fused"])
    sums = ", ".join(f"{median(runs, 'sum'):.3f}" for runs in results.values())
    print(f"sum of log-probs, which must agree: {sums}")


def report_ratio(variant: str, theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> None:
    ratio = {key: median(ours, key) / median(theirs, key) for key in ("peak", "extra", "wall", "cpu")}
    met = ratio["peak"] <= MEMORY_TARGET and ratio["wall"] <= TIME_TARGET
    print(
        f"fused / {variant}: peak 1/{1 / ratio['peak']:.1f}, extra 1/{1 / ratio['extra']:.1f}, "
        f"wall {ratio['wall']:.2f}, cpu {ratio['cpu']:.2f}; "
        f"targets peak <= 1/6 and wall <= {TIME_TARGET}: {'met' if met else 'MISSED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896, help="hidden size; Qwen2.5-0.5B has 896")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.tokens, args.vocabulary, args.hidden, args.threads)))
    else:
        report(args, measure_all(args))


if __name__ == "__main__":
    main()
