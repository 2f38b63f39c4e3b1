"""Time of the core: preparing a batch, and its loss forward and backward, for every row of the table.

    python benchmarks/core.py                              # 1 M tokens in 16,384 sequences, every row
    python benchmarks/core.py --rows grpo d3s --repeats 9
    python benchmarks/core.py --tokens 100000 --sequences 2048

The unit is one copy: `clone()` into new tensors, all held until it ends, of every tensor of the batch with
all its signals, of the current log-probs and of the current entropies; so it allocates as every operation of
the core does. The batch has ragged lengths, groups of 8 responses, binary rewards and every signal that some
row reads, in float32 like a learner's; rows that read demonstrations alone get it as demonstrations.

Times are CPU times of this process, which other work on the machine hardly touches. A row's ratio is the
least time of its repeats over the least of the copies, which alternate with them, after one of each that does
not count. Threads are 1 unless `--threads` says otherwise; the times are then those of all of them together.

Where new tensors lie decides the unit, so the C library's allocator is told (Linux alone). `--pages held`: in
memory that the process keeps, as in a run that has warmed up; a copy then costs little, and this is the
stricter measure. `--pages fresh`: in pages that the system hands out and takes back each time, which makes
a copy about eight times dearer, and a step about four times. Untold, the allocator moves between the two, and
ratios with it. The target is a ratio of at most 25.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlpost.estimator import ALGORITHMS, Objective, TokenBatch, build_objective, token_index

GROUP, RATIO_TARGET = 8, 25.0
LIMIT_TOKENS = 4096
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
REWARD_PARTS = ("reward_part/a", "reward_part/b")


def place_tensors(pages: str) -> None:
    """Have every new tensor in "held" memory or in "fresh" pages; without glibc it stays as it is."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if pages == "fresh":
        libc.mallopt(M_MMAP_THRESHOLD, 2**17)
    else:
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


Inputs = tuple[TokenBatch, torch.Tensor, torch.Tensor]


def make_inputs(tokens: int, sequences: int, objectives: list[Objective]) -> Inputs:
    """A batch with all that the objectives read, the current log-probs and the current entropies."""
    generator = torch.Generator().manual_seed(0)
    cuts = torch.randint(0, tokens + 1, (sequences - 1,), generator=generator).sort().values
    bounds = torch.cat([torch.tensor([0]), cuts, torch.tensor([tokens])])
    sequence_N = torch.repeat_interleave(torch.arange(sequences), bounds.diff())
    logprob_N = -torch.rand(tokens, generator=generator) * 3.0

    def near(spread: float) -> torch.Tensor:
        return logprob_N + spread * torch.randn(tokens, generator=generator)

    known = {"old_logprob": near(0.1), "behaviour_logprob": near(0.1), "ref_logprob": near(0.3)}
    known["entropy"] = torch.rand(tokens, generator=generator)
    asked = sorted(frozenset().union(*(objective.signals for objective in objectives)) - set(known))
    signals = known | {name: torch.rand(tokens, generator=generator) for name in asked}
    asked = sorted(frozenset(REWARD_PARTS).union(*(objective.sequence_signals for objective in objectives)))
    of_sequence = {name: torch.rand(sequences, generator=generator, dtype=torch.float64) for name in asked}
    batch = TokenBatch(
        sequence_N=sequence_N,
        mask_N=torch.ones(tokens, dtype=torch.bool),
        turn_N=torch.zeros(tokens, dtype=torch.int64),
        group_S=torch.arange(sequences) // GROUP,
        reward_S=torch.randint(0, 2, (sequences,), generator=generator).to(torch.float64),
        truncated_S=torch.zeros(sequences, dtype=torch.bool),
        demonstration_S=torch.zeros(sequences, dtype=torch.bool),
        progress=0.5,
        signals=signals,
        sequence_signals=of_sequence,
    )
    return batch, logprob_N, torch.rand(tokens, generator=generator)


def copy(batch: TokenBatch, logprob_N: torch.Tensor, entropy_N: torch.Tensor) -> list[torch.Tensor]:
    """One copy of everything."""
    values = [getattr(batch, field.name) for field in fields(batch)]
    own = [value for value in values if isinstance(value, torch.Tensor)]
    tensors = [*own, *batch.signals.values(), *batch.sequence_signals.values(), logprob_N, entropy_N]
    return [tensor.clone() for tensor in tensors]


def step(objective: Objective, batch: TokenBatch, kept_N: torch.Tensor, entropy_N: torch.Tensor) -> None:
    """Preparation, and loss forward and backward; nothing is left of an earlier step.

    Args:
        kept_N: the current log-probs of the tokens that the preparation keeps.
        entropy_N: their current entropies.
    """
    prepared = objective.prepare(replace(batch))
    kept_N = kept_N.detach().requires_grad_(True)
    entropy_N = entropy_N.detach().requires_grad_(objective.needs_entropy_gradient)
    objective.loss(kept_N, prepared, entropy_N).loss.backward()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(objective: Objective, inputs: Inputs, repeats: int) -> dict[str, float]:
    """Least times of a step and of a copy, in ms, after one of each that does not count."""
    batch, logprob_N, entropy_N = inputs
    if all(term.rows == "demonstrations" for term in objective.terms):
        batch = replace(batch, demonstration_S=torch.ones_like(batch.demonstration_S))
    index_N, _ = token_index(batch.sequence_N, batch.S, objective.prepare(batch).kept_S)
    kept = (logprob_N[index_N], entropy_N[index_N])
    copies, steps = [], []
    for repeat in range(repeats + 1):
        pair = (
            seconds(lambda: copy(batch, logprob_N, entropy_N)),
            seconds(lambda: step(objective, batch, *kept)),
        )
        if repeat:
            copies.append(pair[0])
            steps.append(pair[1])
    return {
        "copy_ms": 1e3 * min(copies),
        "step_ms": 1e3 * min(steps),
        "ratio": min(steps) / min(copies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--sequences", type=int, default=16_384)
    parser.add_argument(
        "--rows", nargs="+", default=list(ALGORITHMS), choices=list(ALGORITHMS), metavar="ROW"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pages", choices=["held", "fresh"], default="held")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    place_tensors(args.pages)
    objectives = {
        name: build_objective({"base": name}, max_response_tokens=LIMIT_TOKENS) for name in args.rows
    }
    inputs = make_inputs(args.tokens, args.sequences, list(objectives.values()))
    found = {name: measure(each, inputs, args.repeats) for name, each in objectives.items()}
    ranked = sorted(found.items(), key=lambda item: -item[1]["ratio"])
    if args.json:
        sizes = {"tokens": args.tokens, "sequences": args.sequences, "pages": args.pages}
        print(json.dumps(sizes | {"rows": dict(ranked)}))
        return
    print(
        f"{args.tokens:,} tokens, {args.sequences:,} sequences, {args.threads} thread(s), {args.pages} pages"
    )
    print(f"{'row':<20} {'copy ms':>9} {'step ms':>9} {'ratio':>7}")
    for name, row in ranked:
        above = "" if row["ratio"] <= RATIO_TARGET else f"  above {RATIO_TARGET:g}"
        print(f"{name:<20} {row['copy_ms']:>9.1f} {row['step_ms']:>9.1f} {row['ratio']:>7.1f}{above}")


if __name__ == "__main__":
    main()
