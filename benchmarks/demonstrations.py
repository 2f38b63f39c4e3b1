"""Memory and time of learning from demonstrations: one-token rollouts (OTR) against supervised fine-tuning.

    python benchmarks/demonstrations.py                    # Qwen2.5-0.5B's head: 151,936 x 896, 4,096 tokens
    python benchmarks/demonstrations.py --part model       # the same head on a backbone of two layers
    python benchmarks/demonstrations.py --tokens 1024 --repeats 5 --variants sft otr otr-naive

Every measurement is a forward and a backward pass in a process of its own; the variants take turns. All of
them compute gradients of the hidden states (or of the backbone) and of the head's weight, in float32.

| variant   | what it computes                                                                            |
|-----------|---------------------------------------------------------------------------------------------|
| sft       | `heads.fused_head` of the learner: log-probs of the demonstrated tokens, and the entropy    |
| otr       | `heads.one_token_head` of the learner: the same, and scores of K = 256 draws a token        |
| otr-exact | the same with the expectation over the whole vocabulary in the place of draws               |
| otr-naive | logits [N, V] at once, log_softmax, multinomial from softmax(logits / kappa), gather        |

Memory is the resident set's high-water mark (VmHWM, reset just before the pass) less the resident set
before the pass, in which hidden states (or the backbone), weight and targets already are. "peak" is that
number; it holds the gradients, which every variant must produce. Time is the wall clock of the pass; CPU time
stands beside it because wall clocks suffer from other work on the machine. Ratios are to `sft`, each of a
repeat's own pair, and their median is what counts.
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
VARIANTS = ("sft", "otr", "otr-exact", "otr-naive")
SAMPLES, KAPPA, MISS = 256, 1.3, -0.1
MEMORY_TARGET, TIME_TARGET = 1.5, 2.5
SEQUENCES = 8
GIB = 2**30


def sft(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    from rlpost.learner.heads.fused_head import head_logprobs

    return head_logprobs(hidden_ND, weight_VD, target_N)[0]


def otr(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor, form: str = "sampled"
) -> torch.Tensor:
    from rlpost.estimator import OneToken
    from rlpost.learner.heads.one_token_head import Rollouts, one_token_scores
    from rlpost.learner.heads.token_draws import token_keys

    seeds_S = torch.arange(SEQUENCES, dtype=torch.float64)
    keys_N = token_keys(seeds_S, torch.arange(len(target_N)) * SEQUENCES // len(target_N))
    actions = OneToken(samples=SAMPLES, temperature=KAPPA, miss=MISS, form=form)
    rollouts = Rollouts(actions, torch.ones_like(target_N, dtype=torch.bool), keys_N)
    return one_token_scores(hidden_ND, weight_VD, target_N, rollouts)[2]


def otr_exact(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    return otr(hidden_ND, weight_VD, target_N, "exact")


def otr_naive(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    logits_NV = hidden_ND @ weight_VD.T
    with torch.no_grad():
        draws_NK = torch.multinomial(torch.softmax(logits_NV / KAPPA, dim=-1), SAMPLES, replacement=True)
        reward_NK = torch.where(draws_NK == target_N[:, None], 1.0, MISS)
    return (reward_NK * torch.log_softmax(logits_NV, dim=-1).gather(1, draws_NK)).mean(dim=1)


HEADS = {"sft": sft, "otr": otr, "otr-exact": otr_exact, "otr-naive": otr_naive}


def backbone(hidden: int, layers: int) -> torch.nn.Module:
    """Decoder layers of the width of the head, over SEQUENCES rows."""
    from transformers import Qwen2Config, Qwen2Model

    config = Qwen2Config(
        vocab_size=8,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 448),
    )
    return Qwen2Model(config).eval()


def memory_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One forward and backward pass in this process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    head = HEADS[args.child]
    warm = [torch.randn(8, 8, requires_grad=True), torch.randn(300, 8, requires_grad=True), torch.arange(8)]
    head(*warm).sum().backward()  # imports and thread pools are not what is measured
    hidden_ND = torch.randn(args.tokens, args.hidden)
    weight_VD = (args.scale * torch.randn(args.vocabulary, args.hidden)).requires_grad_()
    target_N = torch.randint(args.vocabulary, (args.tokens,))
    model = backbone(args.hidden, args.layers) if args.part == "model" else None
    if model is None:
        hidden_ND.requires_grad_()
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    if model is not None:
        rows = hidden_ND.view(SEQUENCES, -1, args.hidden)
        hidden_ND = model(inputs_embeds=rows, use_cache=False)[0].flatten(0, 1)
    value_N = head(hidden_ND, weight_VD, target_N)
    (-value_N.mean()).backward()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory_bytes("VmHWM") - before
    return {"peak": peak, "wall": wall, "cpu": cpu, "mean": float(value_N.detach().mean())}


def measure_all(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Every variant `repeats` times, taking turns, each in a process of its own."""
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in args.variants}
    names = ("part", "tokens", "vocabulary", "hidden", "layers", "scale", "threads")
    options = [f"--{name}={getattr(args, name)}" for name in names]
    for repeat in range(args.repeats):
        for variant in args.variants:
            command = [sys.executable, __file__, "--child", variant, *options]
            child = subprocess.run(command, capture_output=True, text=True, timeout=1800)
            if child.returncode:
                sys.exit(f"{variant} failed with status {child.returncode}\n{child.stderr}")
            results[variant].append(json.loads(child.stdout))
            print(f"repeat {repeat + 1} of {args.repeats}: {variant} done", file=sys.stderr)
    return results


def median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def ratio(runs: list[dict[str, float]], of_sft: list[dict[str, float]], key: str) -> float:
    """The median over repeats of each one's ratio to its neighbour."""
    return statistics.median(run[key] / other[key] for run, other in zip(runs, of_sft, strict=True))


def report(args: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> None:
    where = "the head alone" if args.part == "head" else f"the head on a backbone of {args.layers} layers"
    size = f"{args.vocabulary:,} x {args.hidden} vocabulary, {args.tokens:,} tokens, float32"
    print(f"{where}: {size}, {args.threads} threads; medians of {args.repeats}\n")
    print(
        f"{'variant':11s}{'peak GiB':>10s}{'wall s':>9s}{'(range)':>16s}{'cpu s':>9s}"
        "   ratios: peak, wall, cpu"
    )
    of_sft = results["sft"]
    for variant, runs in results.items():
        walls = [run["wall"] for run in runs]
        spread = f"{min(walls):.1f} to {max(walls):.1f}"
        times = f"{median(runs, 'wall'):9.1f}{spread:>16s}{median(runs, 'cpu'):9.1f}"
        ratios = "".join(f"{ratio(runs, of_sft, key):9.2f}" for key in ("peak", "wall", "cpu"))
        print(f"{variant:11s}{median(runs, 'peak') / GIB:10.2f}{times}   {ratios}")
    if "otr" in results:
        peak, wall = (ratio(results["otr"], of_sft, key) for key in ("peak", "wall"))
        met = peak <= MEMORY_TARGET and wall <= TIME_TARGET
        print(
            f"\ntargets of otr: peak <= {MEMORY_TARGET}, wall <= {TIME_TARGET}: {'met' if met else 'MISSED'}"
        )
    means = ", ".join(f"{variant} {median(runs, 'mean'):.4f}" for variant, runs in results.items())
    print(f"means over tokens (those of otr must agree but for chance): {means}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("head", "model"), default="head")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896, help="hidden size; Qwen2.5-0.5B has 896")
    parser.add_argument("--layers", type=int, default=2, help="of the backbone in --part model")
    parser.add_argument("--scale", type=float, default=0.1, help="of the weight: 0.1 gives logits of +-3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["sft", "otr", "otr-exact"])
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.child:
        print(json.dumps(measure(args)))
        return
    if args.tokens % SEQUENCES or "sft" not in args.variants:
        parser.error(f"--tokens must divide into {SEQUENCES} rows, and --variants hold sft")
    report(args, measure_all(args))


if __name__ == "__main__":
    main()
