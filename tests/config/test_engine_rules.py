"""Rules on rollout engines, each broken once."""

from __future__ import annotations

import pytest

from rlpost.config import load_config
from rlpost.errors import ConfigError

RECIPE = """\
model: {init: tiny}
data: {task: addition, max_prompt_tokens: 16}
rewards: exact_match
algorithm: grpo
rollout: {max_response_tokens: 8, engine: vllm}
stages:
  - {name: first, train: {steps: 1}}
  - {name: second, train: {steps: 1}}
"""


def load(folder, *overrides):
    (folder / "recipe.yaml").write_text(RECIPE)
    return load_config(folder / "recipe.yaml", overrides)


def test_both_engines_can_be_chosen(tmp_path):
    assert load(tmp_path, "rollout.vllm.max_model_len=24")
    assert load(tmp_path).stages[0].rollout.engine == "vllm"
    assert load(tmp_path, "rollout.engine=torch", "stages.second.rollout.slots=3")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (("stages.second.rollout.engine=torch",), ("would need different engines", "engine vllm and torch")),
        (("stages.second.rollout.slots=3",), ("would need different engines", "slots 64 and 3")),
        (("stages.second.rollout.vllm.kv_cache_gib=2",), ("one `rollout.vllm` at the top level",)),
        (
            ("rollout.engine=torch", "rollout.vllm.tensor_parallel=2"),
            ("read only with `rollout.engine: vllm`", "tensor_parallel"),
        ),
        (("rollout.temperature=0.001",), ("does not sample at this temperature", "0.01 to 2")),
        (("evaluation.temperature=2.5",), ("evaluation.temperature", "0.01 to 2")),
        (
            ("rollout.vllm.max_model_len=20",),
            ("20 max_model_len", "in training 16 max_prompt_tokens + 8 max_response_tokens = 24"),
        ),
        (
            ("rollout.vllm.max_model_len=24", "evaluation.max_response_tokens=9"),
            ("24 max_model_len", "in evaluations 16 max_prompt_tokens + 9 max_response_tokens = 25"),
        ),
        (("model.tiny.heads=8",), ("heads of this size", "128 / 8 heads = 16", "32, 64, 128 or 256")),
    ],
    ids=["engine", "slots", "options", "unread", "cold", "hot", "length", "evaluation", "heads"],
)
def test_a_broken_rule_on_engines_says_what_and_where(tmp_path, overrides, parts):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *overrides)
    for part in parts:
        assert part in str(caught.value)
