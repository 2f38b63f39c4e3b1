import pytest
import torch
from small_models import FAMILIES, build

from rlpost.config.schema import ModelConfig
from rlpost.data.collate import ModelInputs
from rlpost.learner.policy import Policy
from rlpost.sizing.activations import Pass, kept_bytes, layer_bytes_per_token, layer_weight_casts
from rlpost.sizing.model_facts import facts_of

LENGTHS = (50, 50)


def saved_bytes(model, dtype, layout, checkpointing):
    """What autograd keeps of a forward pass beside parameters and buffers, by their memory."""
    policy = Policy(model, compute_dtype=dtype, layout=layout, gradient_checkpointing=checkpointing)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    inputs = ModelInputs(
        tuple(torch.arange(5, 7) for _ in LENGTHS), tuple(torch.arange(5, 4 + n) for n in LENGTHS)
    )
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.logprobs(inputs, 1.0)
    return sum(storage.nbytes() for storage in found.values())


def check(family, dtype, layout):
    model = build(family)
    facts = facts_of(model, ModelConfig(init="x"), "")
    planned = kept_bytes(facts, Pass(100, dtype.itemsize, False, layout == "packed", False))
    assert planned == pytest.approx(saved_bytes(model, dtype, layout, False), rel=0.005), (family, layout)


@pytest.mark.slow
def test_activations_of_six_families_are_what_autograd_keeps():
    for family in FAMILIES:
        for dtype in (torch.float32, torch.bfloat16):
            for layout in ("packed", "padded"):
                check(family, dtype, layout)


@pytest.mark.slow
def test_with_checkpointing_one_layer_is_kept_at_a_time():
    model = build("qwen3")
    facts = facts_of(model, ModelConfig(init="x"), "")
    run = Pass(100, 2, True, True, False)
    one = layer_bytes_per_token(facts, run) * 100 + layer_weight_casts(facts, run)
    # The cosines and sines of the positions are there, but autograd is not asked to keep them.
    positions = 8 * 24 * 100
    kept = saved_bytes(model, torch.bfloat16, "packed", True)
    assert kept_bytes(facts, run) - one - positions == pytest.approx(kept, rel=0.02)
