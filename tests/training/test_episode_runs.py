"""Runs with an environment: of every ten episodes one hangs and one raises, and the rest is trained."""

import json
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlpost.config import load_config
from rlpost.errors import DataError, ScoringError
from rlpost.evaluation import regrade
from rlpost.rollout.task import environment_seed
from rlpost.training import replay, train
from rlpost.training.recording import read_rollouts

SCRIPTED = f"{Path(__file__).parents[1] / 'rollout' / 'scripted_environment.py'}:Scripted"
RECIPE = """
name: episodes
model:
  init: tiny
  tiny: {hidden_size: 32, layers: 1, heads: 1, intermediate_size: 32, max_positions: 128}
data: {path: ROWS, max_prompt_tokens: 16, answer_column: null}
environment:
  name: ENVIRONMENT
  turn_deadline_s: 3
  concurrency: 64
rollout: {max_response_tokens: 8, slots: 64}
algorithm: {base: grpo, advantage: reward}
train: {steps: 2, prompts_per_step: 64, samples_per_prompt: 1, learning_rate: 0.001}
scoring: {workers: 1, max_failure_share: 0.5}
evaluation: {data: {path: HELD_OUT, max_prompt_tokens: 16, answer_column: null}, temperature: 0}
checkpoint: {every: 1, keep: 3}
monitor: {tensorboard: false}
cluster: {threads: 1}
"""


@pytest.fixture
def config(tmp_path):
    def load(*overrides):
        for name, plans in (("rows", ["by seed"] * 64), ("held-out", ["1 turns", "2 turns", "no board"])):
            rows = [{"id": f"{name}{k}", "prompt": f"go {k}", "plan": plan} for k, plan in enumerate(plans)]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = tmp_path / "recipe.yaml"
        text = RECIPE.replace("ROWS", str(tmp_path / "rows.jsonl"))
        text = text.replace("HELD_OUT", str(tmp_path / "held-out.jsonl"))
        recipe.write_text(text.replace("ENVIRONMENT", json.dumps(SCRIPTED)))
        return load_config(recipe, list(overrides))

    return load


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_step(metrics, trajectories):
    """What is reported and trained is exactly what the seeds make of the episodes."""
    seeds = [environment_seed(0, "train", metrics["step"], t.prompt.id) for t in trajectories]
    ends = Counter({0: "timeout", 1: "error"}.get(seed % 10, "done") for seed in seeds)
    assert Counter(t.episode.end for t in trajectories) == ends and len(ends) == 3
    for end in ("done", "timeout", "error", "turn_limit", "token_limit"):
        assert metrics[f"environment/end/{end}"] == ends[end]
    failed = ends["timeout"] + ends["error"]
    assert (metrics["rollout/samples"], metrics["rollout/dropped_samples"]) == (len(trajectories), failed)
    assert (metrics["scoring/timeout"], metrics["scoring/error"]) == (ends["timeout"], ends["error"])
    good = [t for t in trajectories if t.episode.end == "done"]
    assert all(t.reward.score == 1.0 and len(t.turns) == 3 for t in good)
    assert all(t.reward.score is None and t.turns[-1].by_policy for t in trajectories if t not in good)
    trained = sum(len(turn.token_ids) for t in good for turn in t.turns if turn.by_policy)
    assert metrics["learner/trained_tokens"] == trained
    assert (metrics["rollout/turns_max"], metrics["reward/part/environment/success"]) == (2, 1)
    assert 0 < metrics["environment/observation_token_share"] < 1
    assert metrics["environment/wait_s"] >= 3 * ends["timeout"]


@pytest.mark.slow
def test_failed_episodes_are_counted_and_never_trained_and_a_run_resumes_to_the_same_episodes(
    config, tmp_path
):
    run = train(config(), tmp_path / "run")
    steps = [read_rollouts(run / "rollouts" / f"step-{step:06d}.jsonl") for step in (1, 2)]
    for metrics, trajectories in zip(read_metrics(run), steps, strict=True):
        assert len(trajectories) == 64
        check_step(metrics, trajectories)

    (result,) = (run / "evaluations").glob("*2")
    generations = [json.loads(line) for line in (result / "generations.jsonl").read_text().splitlines()]
    assert [g["score"] for g in generations] == [1.0, 1.0, None]
    assert [g["turns"] for g in generations] == [1, 2, 0] and "fade 1" in generations[1]["text"]
    assert json.loads((result / "results.json").read_text())["metrics"]["avg@1"]["value"] == 2 / 3
    with pytest.raises(DataError, match="cannot be graded again"):
        regrade(result)

    replayed = replay(run, 2, report=lambda text: None)
    assert replayed["policy/loss"] == replayed["recorded/policy/loss"] != 0

    shutil.rmtree(run / "checkpoints" / "step-000002")
    train(config(), run, resume=True)
    again = read_rollouts(run / "rollouts" / "step-000002.jsonl")
    assert [(t.id, t.token_ids, t.reward.score) for t in again if not t.reward.failed] == [
        (t.id, t.token_ids, t.reward.score) for t in steps[1] if not t.reward.failed
    ]

    with pytest.raises(ScoringError, match=r"(?s)environment failed.*off the board"):
        train(config("scoring.max_failure_share=0.1", "evaluation.data=null"), tmp_path / "stopped")


@pytest.mark.cluster
@pytest.mark.skipif(not (find_spec("vllm") and find_spec("deepspeed")), reason="needs vLLM and DeepSpeed")
def test_episodes_are_played_on_ray_with_vllm_and_trained_with_deepspeed(config, tmp_path):
    run = train(
        config(
            "cluster.mode=ray",
            "rollout.engine=vllm",
            "rollout.vllm={max_model_len: 128, kv_cache_gib: 0.25}",
            "learner={backend: deepspeed, zero_stage: 2}",
            "train.max_staleness=1",
            "algorithm.denominator=behaviour",
            "evaluation.data=null",
        ),
        tmp_path / "run",
    )
    for step, metrics in enumerate(read_metrics(run), 1):
        trajectories = read_rollouts(run / "rollouts" / f"step-{step:06d}.jsonl")
        assert len(trajectories) == 64
        check_step(metrics, trajectories)
