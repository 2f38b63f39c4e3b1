"""One learner rank in a process of its own: `zero_process.py RANK WORLD_SIZE BACKEND DTYPE FOLDER [HALF]`.

BACKEND is `torch`, a ZeRO stage, or JSON with changes to the model's and the learner's settings. The process
makes the same calls as every other rank and leaves what they came to in FOLDER; HALF is a state that
another backend saved after half of the steps.
"""

import json
import os
import sys
from pathlib import Path

import torch
from critic_batches import PLANS, critic_arguments
from learner_batches import MODEL, arguments_of_row, model_inputs, train, update_arguments
from rank_process import rows_of, scaled
from safetensors.torch import save_file

from rlpost.config.schema import LearnerConfig, TeacherConfig
from rlpost.errors import DeadlineError, NonFiniteError
from rlpost.learner import DeepSpeedLearner, TorchLearner
from rlpost.learner.microbatch import shard
from rlpost.weights import TransferReceipt, checksum, verify_receipt

STEPS = 20
HALF = 10
PROBE = [(10, 11, 12, 13, 14), (20,), (30, 31)]


def settings(dtype, **changes):
    """With a clip that bites in some steps, decay, warm-up and several micro-batches.

    In bfloat16 a weight that differs by 1e-7 may round to another number, so its steps are small.
    """
    rate = 1e-3 if dtype == "float32" else 1e-5
    common = {"learning_rate": rate, "weight_decay": 0.1, "max_grad_norm": 3.0, "warmup_steps": 4}
    return train(**common | changes)


def step_arguments(step):
    """Ten rows; every fifth step has a single one, so that another rank has none."""
    arguments = update_arguments(step)
    return rows_of(arguments, [1]) if step % 5 == 2 else arguments


def build(backend, rank, world_size, dtype, folder):
    """A learner of this backend, with a reference."""
    common = {
        "seed": 0,
        "rank": rank,
        "world_size": world_size,
        "rendezvous": f"file://{folder / 'meet'}",
        "replay_dir": folder / "replay",
        "deadline_s": 60,
    }
    model = MODEL.model_copy(update={"dtype": dtype})
    if backend == "torch":
        learner = TorchLearner(model, settings(dtype), **common)
    else:
        options = json.loads(backend)
        changes = options if isinstance(options, dict) else {"model": {}, "settings": {"zero_stage": options}}
        model = model.model_copy(update=changes["model"])
        zero = LearnerConfig(backend="deepspeed", bucket_mib=1, **changes["settings"])
        learner = DeepSpeedLearner(model, settings(dtype), zero, **common)
    # The driver starts every stage, and only then asks for a reference.
    learner.start_stage(settings(dtype), True)
    return learner


def refused(learner, arguments):
    """What is said of an update whose losses are finite and whose gradient is not."""
    logprobs = learner._logprobs

    def poisoned(*inputs):
        logprob_N, entropy_N = logprobs(*inputs)
        logprob_N.register_hook(lambda gradient: gradient * torch.nan)
        return logprob_N, entropy_N

    learner._logprobs = poisoned
    try:
        learner.update(*arguments)
    except NonFiniteError as error:
        return str(error)
    finally:
        learner._logprobs = logprobs


def critic_steps(learner, kind, dtype, own, folder, saved):
    """Updates with one kind of critic: the first without the policy; half-way saved, and taken up again.

    Args:
        saved: where a state of half-way is to be found.
    """

    def start():
        learner.start_stage(settings(dtype, learning_rate=1e-3), False, PLANS[kind])

    def update(step):
        return learner.update(*own(kind, step), values_only=step == 0)

    start()
    reports = [update(step) for step in range(3)]
    learner.save(folder / f"critic-{kind}")
    values = learner.critic._values
    learner.critic._values = lambda inputs: values(inputs) * torch.nan
    try:
        learner.update(*own(kind, 3))
    except NonFiniteError as error:
        refused = str(error)
    learner.critic._values = values
    reports += [update(step) for step in (3, 4)]
    start()
    learner.load(saved / f"critic-{kind}")
    return {"reports": reports, "refused": refused, "resumed": [update(step) for step in (3, 4)]}


def main(rank, world_size, backend, dtype, folder, half):
    torch.set_num_threads(1)
    learner = build(backend, rank, world_size, dtype, folder)

    def own(step):
        arguments = step_arguments(step)
        return rows_of(arguments, shard(arguments[0].lengths, world_size)[rank])

    facts = {"reports": [], "rows": []}
    for step in range(STEPS):
        if step == HALF:
            learner.save(folder / "half")
        facts["rows"].append(len(own(step)[0].response_ids))
        facts["reports"].append(learner.update(*own(step)))
    learner.save(folder / "state")
    learner.save_policy(folder / "policy")
    bundle = learner.export_weights(7)
    assert (bundle is None) == (rank > 0)
    if bundle is not None:
        save_file(dict(bundle.tensors), folder / "exported.safetensors")
    shared = learner.export_weights(7, shared=True)
    assert (shared is None) == (rank > 0)
    if shared is not None:
        assert shared.checksums == bundle.checksums
        verify_receipt(bundle, TransferReceipt(7, {n: checksum(t) for n, t in shared.tensors.items()}))

    # All rows on the first rank: the others have none, and still must take part.
    inputs = model_inputs(seed=5)
    inputs = inputs if rank == 0 else inputs.rows([])
    signals = learner.signals(inputs, ["old_logprob", "ref_logprob", "entropy"], 0.8)
    if rank == 0:
        save_file(signals, folder / "signals.safetensors")
    facts["probe"] = learner.probe(PROBE)

    facts["refused"] = refused(learner, own(STEPS))
    facts["after"] = learner.update(*own(STEPS))
    other = {"weight_decay": 0.0, "max_grad_norm": 0.5, "warmup_steps": 0, "layout": "padded"}
    learner.start_stage(settings(dtype, **other), False)
    facts["next_stage"] = [learner.update(*own(step)) for step in range(2)]
    # A transform measures a second gradient; with a single row, the second rank has nothing to do.
    # One-token rollouts give scores beside log-probs, and what is drawn does not depend on ranks.
    for name, rows in (("s_ppo", 10), ("st_ppo", 10), ("st_ppo", 1), ("otr", 10), ("otr", 1)):
        arguments = rows_of(arguments_of_row(name, **scaled(name)), [3, *range(3), *range(4, 10)][:rows])
        lengths = arguments[0].lengths
        facts["next_stage"].append(learner.update(*rows_of(arguments, shard(lengths, world_size)[rank])))
    # The policy of before teaches: beside a reference, and then in the place of one that is given up.
    teacher = TeacherConfig(init=str(folder / "policy"))
    learner.start_stage(settings(dtype, layout="padded"), False, None, teacher)
    learner.start_stage(settings(dtype), True, None, teacher)
    taught = learner.signals(inputs, ["teacher_logprob", "ref_logprob"], 0.8)
    if rank == 0:
        gap_N = taught["teacher_logprob"] - signals["old_logprob"]
        facts["teacher_gap"] = float(gap_N.abs().max())
        facts["teacher_moved"] = float((taught["ref_logprob"] - signals["old_logprob"]).abs().max())
    learner.load(half or folder / "half")
    facts["resumed"] = [learner.update(*own(step)) for step in range(HALF, STEPS)]

    def own_critic(kind, step):
        arguments = critic_arguments(kind, step)
        arguments = rows_of(arguments, [1]) if step == 2 else arguments
        return rows_of(arguments, shard(arguments[0].lengths, world_size)[rank])

    if dtype == "float32":
        saved = half.parent if half else folder
        facts["critic"] = {
            kind: critic_steps(learner, kind, dtype, own_critic, folder, saved) for kind in PLANS
        }
    (folder / f"facts-{rank}.json").write_text(json.dumps(facts))
    if rank == 0 and world_size > 1:
        try:
            learner.update(*own(0))
        except DeadlineError as error:
            (folder / "alone.txt").write_text(str(error))
            # The group has lost a rank and cannot be left in order.
            os._exit(0)


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        sys.argv[4],
        Path(sys.argv[5]),
        Path(sys.argv[6]) if len(sys.argv) > 6 else None,
    )
