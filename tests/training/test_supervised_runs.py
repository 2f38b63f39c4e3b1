import json

import pytest

from rlpost.config import load_config
from rlpost.monitor import read_metrics
from rlpost.scoring import slot
from rlpost.training import train

RECIPE = """
name: supervised
model:
  init: tiny
  tiny: {hidden_size: 16, layers: 1, heads: 1, intermediate_size: 32, max_positions: 32}
data: {path: sums.jsonl, template: none, demonstration_column: answer, max_prompt_tokens: 16}
rollout: {max_response_tokens: 4}
stages:
  - {name: first, source: demonstrations, algorithm: sft, train: {steps: 2}}
  - {name: second, source: demonstrations, algorithm: dft, train: {steps: 1}}
train: {prompts_per_step: 4, samples_per_prompt: 1}
evaluation: {every: 1}
monitor: {tensorboard: false}
cluster: {threads: 1}
"""


@pytest.fixture
def supervised(tmp_path):
    """The configuration of a run of two supervised stages, with overrides."""
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("sums.jsonl", str(tmp_path / "sums.jsonl")))
    return lambda *overrides: load_config(tmp_path / "recipe.yaml", overrides)


def test_a_supervised_run_needs_no_reward_and_starts_no_scoring_process(supervised, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(slot.Slot, "start", lambda self: started.append(self))
    run = train(supervised(), tmp_path / "run")
    assert [row["stage"] for row in read_metrics(run)] == ["first", "first", "second"]
    assert json.loads((run / "summary.json").read_text())["eval"] == {}
    assert not (run / "evaluations").exists()
    assert not started
