"""Time to bring a 0.5 B-parameter policy from a learner's process to an engine's, through shared memory.

    python benchmarks/weight_sync.py                       # Qwen2.5-0.5B's tensors, bfloat16, 0.99 GB
    python benchmarks/weight_sync.py --source float32      # the learner converts, as in training
    python benchmarks/weight_sync.py --threads 2 --repeats 15 --json

One sync, all proofs on: this process exports the tensors (random content, another for each repeat) into
shared memory with a checksum each, and sends the bundle; the other process copies every tensor into memory
of its own, computes the checksums of its copies, and answers with a receipt; this process verifies it. The
two take turns, so a sync never uses more than `--threads` threads (1 unless told otherwise).

The unit is the machine's copy bandwidth in the same run: the same bytes from one resident tensor to
another, in this process, with as many threads; the faster of torch's copy and the C library's memcpy. It
alternates with the syncs. The target is at least 25 % of it (medians). CPU times of both processes
together stand beside the wall clock, which suffers from other work on the machine.

| line                  | what it is                                                                    |
|-----------------------|-------------------------------------------------------------------------------|
| copying               | export and load of another sync that computes no checksums                    |
| checksums             | what the same takes with checksums, less copying                              |
| messages              | all the rest: bundle and receipt on their way, and the receipt's verification |
| first sync            | the first, in which the system makes the pages of the shared memory           |
| pickle through a pipe | `torch.save`, a pipe, `torch.load`, copy into the engine's memory; no proofs  |

Syncs of the same bytes as 10, 100 and 1,000 tensors show that the messages do not depend on their number.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import multiprocessing
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlpost.weights import SharedWeights, TransferReceipt, WeightBundle, copy_with_checksum, verify_receipt

HIDDEN, INTERMEDIATE, KEY_VALUE, LAYERS, VOCABULARY = 896, 4864, 128, 24, 151_936
RATIO_TARGET = 0.25
DEADLINE_S = 300
GB = 1e9

Tensors = dict[str, Tensor]
Seconds = tuple[float, float]
"""Wall clock, CPU time of the process."""


def qwen_shapes() -> dict[str, tuple[int, ...]]:
    """Of Qwen2.5-0.5B's tensors; the output head is tied to the embeddings."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        of_layer = {
            "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            "self_attn.q_proj.bias": (HIDDEN,),
            "self_attn.k_proj.weight": (KEY_VALUE, HIDDEN),
            "self_attn.k_proj.bias": (KEY_VALUE,),
            "self_attn.v_proj.weight": (KEY_VALUE, HIDDEN),
            "self_attn.v_proj.bias": (KEY_VALUE,),
            "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            "input_layernorm.weight": (HIDDEN,),
            "post_attention_layernorm.weight": (HIDDEN,),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    return shapes | {"model.norm.weight": (HIDDEN,)}


def even_shapes(elements: int, count: int) -> dict[str, tuple[int, ...]]:
    """As many elements in tensors of one size."""
    return {f"model.layers.{i}.weight": (elements // count,) for i in range(count)}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.empty(shape, dtype=dtype).normal_(generator=generator) for name, shape in shapes.items()
    }


def copy_only(source: Tensor, target: Tensor) -> int:
    target.copy_(source)
    return 0


def clocks() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    wall, cpu = clocks()
    return wall - start[0], cpu - start[1]


class Pipe:
    """A connection that counts what goes out."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.messages = self.bytes = 0

    def send(self, message: object) -> None:
        self.send_bytes(pickle.dumps(message))

    def send_bytes(self, data: bytes | memoryview) -> None:
        self._connection.send_bytes(data)
        self.messages += 1
        self.bytes += len(data)

    def receive(self) -> Any:
        return pickle.loads(self.receive_bytes())

    def receive_bytes(self) -> bytes:
        if not self._connection.poll(DEADLINE_S):
            raise TimeoutError(f"no message for {DEADLINE_S} s")
        return self._connection.recv_bytes()


def engine(connection: Connection, threads: int) -> None:
    """The engine's process: memory of its own for the weights, and the bundles that come."""
    torch.set_num_threads(threads)
    pipe = Pipe(connection)
    own: Tensors = {}
    while (message := pipe.receive()) is not None:
        start = clocks()
        kind, proofs = message[:2]
        if kind == "sync":
            bundle: WeightBundle = message[2]
            if own.keys() != bundle.tensors.keys():
                own = {name: torch.zeros_like(tensor) for name, tensor in bundle.tensors.items()}
                start = clocks()
            copy = copy_with_checksum if proofs else copy_only
            checksums = {name: copy(tensor, own[name]) for name, tensor in bundle.tensors.items()}
            answer: object = TransferReceipt(bundle.version, checksums)
        else:
            data = pipe.receive_bytes()
            start = clocks()
            for name, tensor in torch.load(io.BytesIO(data)).items():
                own[name].copy_(tensor)
            answer = None
        pipe.send((answer, since(start), pipe.messages + 1))


@contextmanager
def engine_process(threads: int) -> Iterator[Pipe]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=engine, args=(theirs, threads), daemon=True)
    process.start()
    pipe = Pipe(ours)
    yield pipe
    pipe.send(None)
    process.join(DEADLINE_S)


def sync(
    owner: SharedWeights, tensors: Tensors, version: int, pipe: Pipe, *, proofs: bool
) -> dict[str, Seconds]:
    """One sync's times: whole, and those of export and load in it."""
    copy = copy_with_checksum if proofs else copy_only
    start = clocks()
    with mock.patch("rlpost.weights.shared_weights.copy_with_checksum", copy):
        bundle = owner.export(version, [tensors], torch.bfloat16)
    export = since(start)
    pipe.send(("sync", proofs, bundle))
    receipt, load, _ = pipe.receive()
    verify_receipt(bundle, receipt)
    wall, cpu = since(start)
    return {"whole": (wall, cpu + load[1]), "export": export, "load": load}


def pickled(tensors: Tensors, pipe: Pipe) -> Seconds:
    start = clocks()
    buffer = io.BytesIO()
    torch.save({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, buffer)
    pipe.send(("pickled", False))
    pipe.send_bytes(buffer.getbuffer())
    _, load, _ = pipe.receive()
    wall, cpu = since(start)
    return wall, cpu + load[1]


def copies(nbytes: int, threads: int) -> dict[str, Callable[[], object]]:
    """Ways to copy that many bytes between two resident tensors, with so many threads."""
    source = torch.randint(0, 256, (nbytes,), dtype=torch.uint8)
    target = torch.zeros_like(source)
    found: dict[str, Callable[[], object]] = {"torch": lambda: target.copy_(source)}
    if threads == 1:
        found["memcpy"] = lambda: ctypes.memmove(target.data_ptr(), source.data_ptr(), nbytes)
    return found


def timed(work: Callable[[], object]) -> Seconds:
    start = clocks()
    work()
    return since(start)


def measure(tensors: Tensors, repeats: int, threads: int) -> tuple[int, dict[str, list[Seconds]]]:
    """Bytes of a sync, and the times of each line of the table."""
    owner = SharedWeights()
    with engine_process(threads) as pipe:
        first, _ = (sync(owner, tensors, version, pipe, proofs=True) for version in range(2))
        nbytes = owner.export(2, [tensors], torch.bfloat16).nbytes
        found: dict[str, list[Seconds]] = {}
        units = copies(nbytes, threads)
        pickled(tensors, pipe)
        for unit in units.values():
            unit()
        for repeat in range(repeats):
            for tensor in tensors.values():
                tensor.add_(0.125)
            whole = sync(owner, tensors, 3 + 2 * repeat, pipe, proofs=True)
            bare = sync(owner, tensors, 4 + 2 * repeat, pipe, proofs=False)
            lines = {
                "sync, all proofs on": whole["whole"],
                "  export": whole["export"],
                "  load": whole["load"],
                "  of them copying": plus(bare["export"], bare["load"]),
                "  of them checksums": minus(
                    plus(whole["export"], whole["load"]), plus(bare["export"], bare["load"])
                ),
                "  messages": minus(whole["whole"], plus(whole["export"], whole["load"])),
                "pickle through a pipe": pickled(tensors, pipe),
            }
            lines |= {f"copy, {name}": timed(unit) for name, unit in units.items()}
            for name, value in lines.items():
                found.setdefault(name, []).append(value)
    return nbytes, {"first sync": [first["whole"]], **found}


def plus(a: Seconds, b: Seconds) -> Seconds:
    return a[0] + b[0], a[1] + b[1]


def minus(a: Seconds, b: Seconds) -> Seconds:
    return a[0] - b[0], a[1] - b[1]


def count_messages(elements: int, counts: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Per number of tensors: messages of one sync in both directions, and bytes of the bundle sent."""
    found = {}
    for count in counts:
        owner, tensors = SharedWeights(), random_tensors(even_shapes(elements, count), torch.bfloat16)
        with engine_process(1) as pipe:
            bundle = owner.export(0, [tensors], torch.bfloat16)
            pipe.send(("sync", True, bundle))
            receipt, _, answers = pipe.receive()
            verify_receipt(bundle, receipt)
            found[count] = (pipe.messages + answers, pipe.bytes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shapes = qwen_shapes()
    tensors = random_tensors(shapes, getattr(torch, args.source))
    nbytes, times = measure(tensors, args.repeats, args.threads)
    messages = count_messages(20_000_000, (10, 100, 1000))
    report(args, len(shapes), nbytes, times, messages)


def report(
    args: argparse.Namespace,
    tensors: int,
    nbytes: int,
    times: dict[str, list[Seconds]],
    messages: dict[int, tuple[int, int]],
) -> None:
    walls = {name: sorted(wall for wall, _ in values) for name, values in times.items()}
    cpus = {name: statistics.median(cpu for _, cpu in values) for name, values in times.items()}
    medians = {name: statistics.median(values) for name, values in walls.items()}
    unit = min(value for name, value in medians.items() if name.startswith("copy, "))
    cpu_unit = min(value for name, value in cpus.items() if name.startswith("copy, "))
    ratios = {name: unit / value for name, value in medians.items()}
    cpu_ratio = cpu_unit / cpus["sync, all proofs on"]
    if args.json:
        facts = {"tensors": tensors, "bytes": nbytes, "threads": args.threads, "source": args.source}
        result = {"ratio": ratios["sync, all proofs on"], "cpu_ratio": cpu_ratio, "seconds": times}
        print(json.dumps(facts | result | {"messages": messages}))
        return
    print(
        f"{tensors} tensors, {nbytes / GB:.2f} GB in bfloat16 from {args.source}, {args.threads} thread(s), "
        f"{args.repeats} repeats"
    )
    print(f"{'':<24} {'median ms':>9} {'least':>8} {'most':>8} {'CPU ms':>8} {'GB/s':>6} {'of copy':>8}")
    for name, median in medians.items():
        least, most = walls[name][0], walls[name][-1]
        line = (
            f"{name:<24} {1e3 * median:>9.1f} {1e3 * least:>8.1f} {1e3 * most:>8.1f} {1e3 * cpus[name]:>8.1f}"
        )
        rate = "" if name.startswith("  ") else f" {nbytes / GB / median:>6.2f} {ratios[name]:>8.1%}"
        print(line + rate)
    verdict = "reached" if ratios["sync, all proofs on"] >= RATIO_TARGET else "MISSED"
    print(
        f"a sync runs at {ratios['sync, all proofs on']:.1%} of the copy bandwidth (by CPU time "
        f"{cpu_ratio:.1%}); target {RATIO_TARGET:.0%}: {verdict}"
    )
    for count, (sent, size) in messages.items():
        print(f"{count:>5} tensors of the same bytes: {sent} messages, a bundle of {size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
