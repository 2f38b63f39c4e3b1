"""One of two ranks: `zero_bytes_process.py RANK FOLDER FAMILY..` writes what it holds at each ZeRO stage."""

import json
import sys
from pathlib import Path

import torch
from small_models import build

from rlpost.config.schema import LearnerConfig, TrainConfig
from rlpost.learner.ranks import Ranks
from rlpost.learner.zero.engine import ZeroEngine
from rlpost.learner.zero.runtime import parameter_divider, settings_of_deepspeed

DEVICE = torch.device("cpu")


def memory(tensors):
    """Bytes of the memories that the tensors lie in, each once."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())


def states(family, stage):
    """What one rank holds of weights, gradients and optimizer state around an update of two passes."""
    model, train = build(family), TrainConfig()
    settings = LearnerConfig(backend="deepspeed", zero_stage=stage, bucket_mib=1)
    if stage == 3:
        divide = parameter_divider(DEVICE, 60, settings_of_deepspeed(settings, train))
        with torch.no_grad():
            for parameter in model.parameters():
                divide(parameter)
    head = list(model.get_output_embeddings().parameters())
    engine = ZeroEngine(model, head, settings, train, world_size=2, deadline_s=60)
    zero, parameters, found = engine._engine.optimizer, list(model.parameters()), {}
    ids = torch.arange(8)[None]

    def loss():
        return model(input_ids=ids, use_cache=False).logits.logsumexp(-1).sum()

    for last in (False, True):
        engine.backward(engine.forward(loss), last)
        if stage == 1 and not last:
            found["gradients"] = memory([p.grad for p in parameters])
    if stage == 0:
        found["gradients"] = memory([p.grad for p in parameters])
    if stage == 2:
        # DeepSpeed gives the padding its own tensors, and lays all end to end in the step.
        found["gradients"] = sum(t.nbytes for held in zero.averaged_gradients.values() for t in held)
    if stage == 3:
        found["gradients"] = zero.grad_partitions_flat_buffer.nbytes
    engine.step(1e-3)
    found["weights"] = memory([p.ds_tensor if stage == 3 else p for p in parameters])
    owned = engine._owned()
    moments = [v for o in owned for k, v in engine.optimizer.state[o].items() if k != "step"]
    found["optimizer"] = memory([*(owned if stage else []), *moments])
    engine.release()
    return found


def main(rank, folder, families):
    torch.set_num_threads(1)
    Ranks(rank, 2, f"file://{folder / 'meet'}", 60, backend="gloo", always=True)
    found = {family: [states(family, stage) for stage in range(4)] for family in families}
    (folder / f"states-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
