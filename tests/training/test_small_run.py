import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from rlpost.errors import CheckpointError, NonFiniteError, UserError
from rlpost.monitor import read_metrics
from rlpost.training import replay, train
from rlpost.training.evaluating import Evaluator
from rlpost.training.recording import read_rollouts
from rlpost.training.status import read_record

MACHINE_DEPENDENT = "time/"


def results(run_dir):
    """All that must be equal between two runs of the same configuration."""
    rows = [
        {k: v for k, v in row.items() if not k.startswith(MACHINE_DEPENDENT)} for row in read_metrics(run_dir)
    ]
    ids = [
        (t.id, t.seed, t.token_ids)
        for path in sorted(run_dir.glob("rollouts/*"))
        for t in read_rollouts(path)
    ]
    return rows, ids


def test_a_run_leaves_everything_the_run_directory_promises(finished):
    rows = read_metrics(finished)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["stage"] for row in rows] == ["warmup"] * 4 + ["rl"] * 6
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 10
    assert summary["samples"] == 4 * 16 + 6 * 16
    assert summary["eval"]["before"]["step"] == 4
    assert summary["eval"]["after"]["step"] == 10
    assert [e["step"] for e in summary["eval"]["history"]] == [0, 3, 4, 7, 10]
    for name in ("config.yaml", "report.html", "policy/config.json", "policy/model.safetensors"):
        assert (finished / name).is_file(), name
    assert (finished / "checkpoints" / "latest").read_text() == "step-000010\n"
    assert len(list(finished.glob("rollouts/step-*.jsonl"))) == 6


def test_the_first_on_policy_step_has_ratio_one_and_no_clipping(finished):
    first = next(row for row in read_metrics(finished) if row["stage"] == "rl")
    assert first["policy/ratio_mean"] == 1.0
    assert first["policy/clip_share_low"] == first["policy/clip_share_high"] == 0.0
    assert abs(first["mismatch/logprob_gap_max"]) < 1e-4


def test_the_saved_policy_answers_as_the_learner_did(finished):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished / "policy")
    tokenizer = AutoTokenizer.from_pretrained(finished / "policy")
    trajectory = read_rollouts(finished / "rollouts" / "step-000010.jsonl")[0]
    assert tokenizer(trajectory.prompt.text)["input_ids"] == list(trajectory.prompt.token_ids)
    with torch.no_grad():
        assert model(torch.tensor([trajectory.prompt.token_ids])).logits.isfinite().all()


def test_a_finished_run_is_listed_with_the_score_of_its_last_evaluation(small_config, tmp_path, monkeypatch):
    evaluate = Evaluator.evaluate

    def better_at_the_end(evaluator, state, stage):
        found = evaluate(evaluator, state, stage)
        state.evaluations[-1]["accuracy"] = 0.5 if state.step == 10 else 0.0
        return found

    monkeypatch.setattr(Evaluator, "evaluate", better_at_the_end)
    assert read_record(train(small_config("evaluation.every=0"), tmp_path / "run")).score == 0.5


def test_the_same_configuration_and_seed_give_the_same_metrics_and_samples(finished, small_config, tmp_path):
    assert results(train(small_config(), tmp_path / "again")) == results(finished)


def test_another_seed_gives_other_samples(finished, small_config, tmp_path):
    assert results(train(small_config("seed=1"), tmp_path / "other"))[1] != results(finished)[1]


def test_microbatches_layout_and_slots_do_not_change_what_is_learnt(finished, small_config, tmp_path):
    run = train(
        small_config("train.tokens_per_microbatch=40", "train.layout=padded", "rollout.slots=3"),
        tmp_path / "cut",
    )
    for row, other in zip(read_metrics(run), read_metrics(finished), strict=True):
        assert row["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-5)
        assert row["learner/grad_norm"] == pytest.approx(other["learner/grad_norm"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kill_after_step", [1, 5, 8])
def test_a_run_killed_at_any_moment_resumes_to_the_same_result(
    finished, shared_recipe, tmp_path, kill_after_step
):
    run_dir = tmp_path / "killed"
    command = [sys.executable, "-m", "rlpost.cli", "train", str(shared_recipe), "--output", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(read_metrics(run_dir)) < kill_after_step:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL, timeout=240)
    assert results(run_dir) == results(finished)


def test_resuming_a_finished_run_changes_nothing(finished, small_config):
    before = results(finished)
    train(small_config(), finished, resume=True)
    assert results(finished) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(finished, small_config, tmp_path):
    run_dir = tmp_path / "damaged"
    train(small_config("stages.rl.train.steps=4"), run_dir)
    state = run_dir / "checkpoints" / "step-000008" / "state.json"
    state.write_text(state.read_text()[:-5])
    train(small_config(), run_dir, resume=True)
    assert results(run_dir) == results(finished)


def test_another_model_cannot_take_up_the_checkpoints(finished, small_config):
    with pytest.raises(CheckpointError, match=r"model\.tiny\.layers is 2 in the checkpoint and 3 now"):
        train(small_config("model.tiny.layers=3"), finished, resume=True)


def test_a_directory_with_a_run_is_not_overwritten(finished, small_config):
    with pytest.raises(UserError, match="not empty"):
        train(small_config(), finished)


@pytest.mark.parametrize("step", [3, 9])
def test_a_replayed_step_has_the_recorded_loss(finished, step):
    result = replay(finished, step, report=lambda text: None)
    for name in ("policy/loss", "learner/grad_norm", "learner/trained_tokens"):
        assert result[name] == result[f"recorded/{name}"]


@pytest.mark.cluster
def test_ray_actors_learn_what_the_inline_run_learns(finished, small_config, tmp_path):
    run = train(small_config("cluster.mode=ray"), tmp_path / "ray")
    for row, other in zip(read_metrics(run), read_metrics(finished), strict=True):
        assert row["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-5)
    assert results(run)[1] == results(finished)[1]


@pytest.mark.cluster
def test_two_learner_ranks_that_share_accelerators_with_two_workers_learn_the_same(
    finished, small_config, tmp_path
):
    run = train(
        small_config(
            "cluster.mode=ray", "cluster.placement=colocated", "cluster.learner_ranks=2", "rollout.workers=2"
        ),
        tmp_path / "ranks",
    )
    for row, other in zip(read_metrics(run), read_metrics(finished), strict=True):
        assert row["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-4)
        assert row["learner/grad_norm"] == pytest.approx(other["learner/grad_norm"], rel=1e-2)


def test_a_run_that_becomes_non_finite_stops_before_the_step_and_can_be_replayed(small_config, tmp_path):
    run_dir = tmp_path / "diverged"
    config = small_config("stages.warmup.train.learning_rate=1e30", "evaluation.problems=1")
    with pytest.raises(NonFiniteError) as error:
        train(config, run_dir)
    assert error.value.exit_status == 1
    done = len(read_metrics(run_dir))
    result = replay(run_dir, done + 1, report=lambda text: None)
    assert not math.isfinite(result["policy/surrogate"]) or not math.isfinite(result["learner/grad_norm"])
    with pytest.raises(UserError, match="no such step"):
        replay(run_dir, done + 2)
