"""One learner rank in a process of its own.

Makes the same calls as every other rank and leaves what they came to in FOLDER.
"""

import json
from pathlib import Path

import torch
from critic_batches import PLANS, critic_arguments
from learner_batches import MODEL, arguments_of_row, flat_gradient, train, update_arguments
from safetensors.torch import save_file

from rlpost.errors import NonFiniteError
from rlpost.estimator import ALGORITHMS
from rlpost.learner import TorchLearner
from rlpost.learner.microbatch import shard


def rows_of(arguments, rows):
    inputs, prepared, objective, temperature = arguments
    return inputs.rows(rows), prepared.rows(torch.tensor(rows, dtype=torch.int64)), objective, temperature


def scaled(name):
    """Changes to a row, so that its transform acts whatever the size of the gradient."""
    transformed = ALGORITHMS[name].objective.transform is not None
    return {"transform": {"clipping_bias": {"mode": "literal"}}} if transformed else {}


def critic_reports(learner, kind, rank, world_size):
    """What updates with one kind of critic report, the first of them without the policy."""
    learner.start_stage(train(), False, PLANS[kind])
    reports = []
    for step in range(3):
        arguments = critic_arguments(kind, step)
        rows = shard(arguments[0].lengths, world_size)[rank]
        reports.append(learner.update(*rows_of(arguments, rows), values_only=step == 0))
    return reports


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    learner = TorchLearner(
        MODEL,
        train(),
        seed=0,
        rank=rank,
        world_size=world_size,
        rendezvous=f"file://{folder / 'meet'}",
        replay_dir=folder / "replay",
        deadline_s=60,
    )
    facts = {}
    # Few rows: the last rank of four has none, and still must take part.
    few = rows_of(update_arguments(), [0, 1, 2])
    facts["rows"] = [len(rows) for rows in shard(few[0].lengths, world_size)]
    facts["few"] = learner.update(*rows_of(few, shard(few[0].lengths, world_size)[rank]))

    whole = update_arguments(1)
    shards = shard(whole[0].lengths, world_size)
    facts["report"] = learner.update(*rows_of(whole, shards[rank]))
    save_file(dict(learner.policy.model.named_parameters()), folder / f"weights-{rank}.safetensors")

    if rank == world_size - 1:
        name = "model.layers.0.mlp.up_proj.weight"
        handle = dict(learner.policy.model.named_parameters())[name].register_hook(lambda g: g * torch.nan)
    try:
        learner.update(*rows_of(whole, shards[rank]))
    except NonFiniteError as error:
        facts["refused"] = str(error)
    if rank == world_size - 1:
        handle.remove()
    learner.save(folder / "state")
    facts["steps"] = [float(s["step"]) for s in learner.optimizer.state.values()][:1]

    learner.policy.model.double()
    learner.accumulate(*rows_of(whole, shards[rank]))
    learner._ranks.sum_gradients(learner._parameters)
    gradients = {name: p.grad for name, p in learner.policy.model.named_parameters()}
    save_file(gradients, folder / f"gradients-{rank}.safetensors")

    every = {}
    for name in ALGORITHMS:
        arguments = arguments_of_row(name, **scaled(name))
        own = rows_of(arguments, shard(arguments[0].lengths, world_size)[rank])
        scaling = learner.scaling(*own)
        learner.accumulate(*own, scaling.factor)
        learner._ranks.sum_gradients(learner._parameters)
        every[name] = flat_gradient(learner.policy.model)
        facts.setdefault("removed", {})[name] = scaling.removed_norm
    save_file(every, folder / f"rows-{rank}.safetensors")
    facts["critic"] = {kind: critic_reports(learner, kind, rank, world_size) for kind in PLANS}
    (folder / f"facts-{rank}.json").write_text(json.dumps(facts))
