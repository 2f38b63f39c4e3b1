import json
import shutil

import pytest

from rlpost.config import load_config
from rlpost.monitor import read_metrics
from rlpost.monitor.catalogue import undocumented
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


def test_further_held_out_sets_are_asked_at_the_same_moments_and_resume_exactly(supervised, tmp_path):
    held_out = f"{{path: {tmp_path}/sums.jsonl, template: none, max_prompt_tokens: 16, limit: LIMIT}}"
    overrides = (
        "rewards=exact_match",
        "scoring.workers=1",
        f"evaluation.data={held_out.replace('LIMIT', '2')}",
        f"evaluation.others={{more: {held_out.replace('LIMIT', '3')}}}",
    )
    config = supervised(*overrides, "stages.second.train.steps=2", "checkpoint={every: 1, keep: 9}")
    run = train(config, tmp_path / "whole")
    rows = read_metrics(run)
    assert all(row["eval/more/accuracy"] == row["eval/accuracy"] == 0.0 for row in rows)
    assert undocumented(rows[0]) <= {"step", "stage"}
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["others"]) == ["more"]
    for sets, problems in ((summary["eval"], 2), (summary["others"]["more"], 3)):
        assert [e["step"] for e in sets["history"]] == [0, 1, 2, 3, 4]
        assert sets["before"]["step"] == 0 and sets["after"]["step"] == 4
        assert sets["after"]["problems"] == problems
    page = (run / "report.html").read_text()
    assert "accuracy of more" in page and "Accuracy on the held-out set more" in page
    manifest = json.loads((run / "evaluations" / "step-000004" / "more" / "manifest.json").read_text())
    assert manifest["data"]["limit"] == 3 and manifest["data"]["fingerprint"]

    again = shutil.copytree(run, tmp_path / "again")
    for step in (3, 4):
        shutil.rmtree(again / "checkpoints" / f"step-{step:06d}")
    train(config, again, resume=True)
    assert json.loads((again / "summary.json").read_text())["others"] == summary["others"]
    for step in range(5):
        generations = f"evaluations/step-{step:06d}/more/generations.jsonl"
        assert (again / generations).read_text() == (run / generations).read_text()
