"""Adapters under DeepSpeed against the torch learner, both on two gloo ranks."""

import json
from importlib.util import find_spec

import pytest
from forked_ranks import run_ranks
from lora_process import BACKENDS, HALF, main
from safetensors.torch import load_file
from test_deepspeed_learner import assert_alike, assert_same_reports


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.cluster
def test_every_zero_stage_trains_an_adapter_as_the_torch_learner_does(tmp_path):
    ends = run_ranks(main, 2, tmp_path / "ranks", tmp_path / "ranks")
    assert ends == [(0, "")] * 2, "\n".join(output for _, output in ends)
    needed = tmp_path / "ranks" / "torch"
    theirs = json.loads((needed / "facts-0.json").read_text())
    assert theirs["resumed"] == theirs["reports"][HALF:]
    # 7 layers of each of 2 blocks; the two factors of q, k, v and o have 32 x 24 numbers each.
    factors = 2 * 24 * (4 * (32 + 32) + 3 * (32 + 48))
    assert theirs["reports"][0]["learner/trainable_parameters"] == factors
    assert sum(t.numel() for t in load_file(needed / "state" / "weights.safetensors").values()) == factors
    for backend in BACKENDS[1:]:
        found = tmp_path / "ranks" / backend
        ours = json.loads((found / "facts-0.json").read_text())
        for steps in ("reports", "resumed", "own", "shared"):
            assert_same_reports(ours[steps], theirs[steps], 1e-4)
        written = ("state/weights", "state/optimizer", "state/reference", "exported", "signals-0")
        for name in (*written, "policy/model", "policy/adapter/adapter_model"):
            assert_alike(found / f"{name}.safetensors", needed / f"{name}.safetensors", 1e-4)
        base = [
            json.loads((folder / "state" / "learner.json").read_text())["base"] for folder in (found, needed)
        ]
        assert base[0] == base[1]
