"""One learner rank that trains adapters under one backend after the other; what they came to is in FOLDER."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from critic_batches import PLANS, ppo_arguments
from learner_batches import MODEL, model_inputs, train, update_arguments
from rank_process import rows_of
from safetensors.torch import save_file

from rlpost.config.schema import LearnerConfig, LoraConfig
from rlpost.learner import DeepSpeedLearner, TorchLearner
from rlpost.learner.microbatch import shard
from rlpost.weights import TransferReceipt, checksum, verify_receipt

# Factors of 24 x 32 are divided under ZeRO 3; smaller ones would stay whole.
LORA = MODEL.model_copy(update={"lora": LoraConfig(rank=24, alpha=48.0)})
SETTINGS = train(learning_rate=1e-3, weight_decay=0.1, max_grad_norm=3.0)
STEPS, HALF = 6, 3
BACKENDS = ("torch", "0", "1", "2", "3")


def build(backend, rank, world_size, folder):
    common = {
        "seed": 0,
        "rank": rank,
        "world_size": world_size,
        "rendezvous": f"file://{folder / 'meet'}",
        "deadline_s": 60,
    }
    if backend == "torch":
        learner = TorchLearner(LORA, SETTINGS, **common)
    else:
        zero = LearnerConfig(backend="deepspeed", bucket_mib=1, zero_stage=int(backend))
        learner = DeepSpeedLearner(LORA, SETTINGS, zero, **common)
    learner.start_stage(SETTINGS, True)
    return learner


def what_it_came_to(learner, rank, world_size, folder, half):
    """Updates, half of them again from a saved state, an export, signals, and updates with critics."""

    def own(arguments):
        return rows_of(arguments, shard(arguments[0].lengths, world_size)[rank])

    def steps(numbers):
        # Every third batch is one row, so that the other rank has none.
        batches = [update_arguments(n) if n % 3 else rows_of(update_arguments(n), [1]) for n in numbers]
        return [learner.update(*own(batch)) for batch in batches]

    facts = {"reports": steps(range(HALF))}
    learner.save(folder / "half")
    facts["reports"] += steps(range(HALF, STEPS))
    learner.save(folder / "state")
    learner.save_policy(folder / "policy")
    bundle, shared = learner.export_weights(7), learner.export_weights(7, shared=True)
    if rank == 0:
        save_file(dict(bundle.tensors), folder / "exported.safetensors")
        verify_receipt(bundle, TransferReceipt(7, {n: checksum(t) for n, t in shared.tensors.items()}))
    inputs = model_inputs(seed=5) if rank == 0 else model_inputs(seed=5).rows([])
    save_file(
        learner.signals(inputs, ["old_logprob", "ref_logprob"], 0.8), folder / f"signals-{rank}.safetensors"
    )
    learner.start_stage(SETTINGS, True)
    learner.load(half)
    facts["resumed"] = steps(range(HALF, STEPS))
    for kind in ("own", "shared"):
        learner.start_stage(SETTINGS, False, PLANS[kind])
        facts[kind] = [learner.update(*own(ppo_arguments(n)), values_only=n == 0) for n in range(3)]
    return facts


def main(rank: int, world_size: int, base: Path) -> None:
    torch.set_num_threads(1)
    for backend in BACKENDS:
        folder = base / backend
        folder.mkdir(exist_ok=True)
        learner = build(backend, rank, world_size, folder)
        facts = what_it_came_to(learner, rank, world_size, folder, base / "torch" / "half")
        (folder / f"facts-{rank}.json").write_text(json.dumps(facts))
        if backend != "torch":
            if learner.critic is not None:
                learner.critic.close()
            learner.engine.close()
        dist.destroy_process_group()
