"""DeepSpeed against the torch learner, both on two gloo ranks, over twenty steps."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from forked_ranks import run_ranks
from learner_batches import MODEL
from safetensors.torch import load_file
from zero_process import HALF, STEPS, main, settings, step_arguments

from rlpost.config import load_config
from rlpost.config.schema import LearnerConfig
from rlpost.errors import ConfigError
from rlpost.learner import TorchLearner

PROCESS = Path(__file__).with_name("zero_process.py")
STAGES = ("0", "1", "2", "3")

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def two_ranks(backend: str, dtype: str, folder: Path, half: Path | None = None) -> Path:
    """The folder, in which each of two ranks has left what it came to."""
    ends = run_ranks(main, 2, folder, backend, dtype, folder, half)
    assert ends == [(0, "")] * 2, "\n".join(output for _, output in ends)
    return folder


def one_rank(backend: str, dtype: str, folder: Path, half: Path) -> Path:
    """The same with a single rank, whose process is a Python that has imported nothing before."""
    folder.mkdir()
    command = [sys.executable, str(PROCESS), "0", "1", backend, dtype, str(folder), str(half)]
    end = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
    return folder


def facts(folder: Path, rank: int = 0) -> dict:
    return json.loads((folder / f"facts-{rank}.json").read_text())


def alone(**changes) -> TorchLearner:
    learner = TorchLearner(MODEL, settings("float32"), seed=0, reference=True)
    learner.start_stage(settings("float32", **changes), True)
    return learner


def assert_alike(found: Path, needed: Path, atol: float) -> None:
    left, right = load_file(found), load_file(needed)
    assert left.keys() == right.keys()
    for name, tensor in right.items():
        torch.testing.assert_close(left[name].float(), tensor.float(), rtol=0, atol=atol, msg=name)


def assert_same_reports(found: list[dict], needed: list[dict], tolerance: float) -> None:
    assert len(found) == len(needed)
    for ours, theirs in zip(found, needed, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks of a backend came to. ZeRO resumes, in the end, from torch's state of half-way."""
    base, done = tmp_path_factory.mktemp("ranks"), {}

    def of(backend: str, dtype: str = "float32") -> Path:
        if (backend, dtype) not in done:
            half = None if backend == "torch" else of("torch", dtype) / "half"
            done[backend, dtype] = two_ranks(backend, dtype, base / f"{backend}-{dtype}", half)
        return done[backend, dtype]

    return of


@needs_deepspeed
@pytest.mark.cluster
@pytest.mark.parametrize("stage", STAGES)
def test_every_zero_stage_takes_the_steps_of_the_torch_learner(stage, ranks):
    needed, found = ranks("torch"), ranks(stage)
    ours, theirs = facts(found), facts(needed)
    assert ours["rows"] == theirs["rows"]
    assert facts(found, 1)["reports"] == ours["reports"]
    assert 0 in facts(found, 1)["rows"]
    assert (
        min(r["learner/grad_norm"] for r in ours["reports"]) < 3.0 < ours["reports"][0]["learner/grad_norm"]
    )
    assert_same_reports(ours["reports"], theirs["reports"], 1e-4)
    for name in ("state/weights", "state/optimizer", "state/reference", "exported", "signals"):
        assert_alike(found / f"{name}.safetensors", needed / f"{name}.safetensors", 1e-4)
    assert_same_reports(ours["next_stage"], theirs["next_stage"], 1e-3)
    passes = [report.get("learner/passes") for report in ours["next_stage"]]
    assert passes == [None, None, 2.0, 2.0, 2.0, None, None]
    assert [0.0 < report.get("otr/hit_share", 0.0) < 1.0 for report in ours["next_stage"]] == 5 * [
        False
    ] + 2 * [True]
    assert_same_reports(ours["resumed"], theirs["reports"][HALF:], 1e-4)
    assert ours["probe"] == [pytest.approx(logprobs, abs=1e-4) for logprobs in theirs["probe"]]

    # A critic of its own, divided like the policy, one on the policy's backbone, and a token reward model.
    for kind, of_torch in theirs["critic"].items():
        of_zero = ours["critic"][kind]
        assert "the critic's loss is nan" in of_zero["refused"]
        for reports in ("reports", "resumed"):
            assert_same_reports(of_zero[reports], of_torch[reports], 1e-4)
        assert of_torch["resumed"] == of_torch["reports"][3:]
        for name in ("critic", "critic_optimizer", "weights"):
            path = f"critic-{kind}/{name}.safetensors"
            assert_alike(found / path, needed / path, 1e-4)

    # Nothing changed when an update was refused: the one after it is the torch learner's.
    assert "all ranks: the summed gradient of model.embed_tokens.weight" in ours["refused"]
    assert_same_reports([ours["after"]], [theirs["after"]], 1e-4)
    assert (found / "replay" / f"update-{STEPS:06d}" / "batch-rank-001.json").is_file()
    # A rank whose peer has gone says so, within its deadline.
    assert "learner rank 0 could not" in (found / "alone.txt").read_text()

    # The torch learner goes on from what DeepSpeed saved half-way, as if it had done those steps.
    resumed = alone()
    resumed.load(found / "half")
    reports = [resumed.update(*step_arguments(step)) for step in range(HALF, STEPS)]
    names = ("policy/loss", "learner/grad_norm", "learner/learning_rate", "learner/trained_tokens")
    for report, other in zip(reports, theirs["reports"][HALF:], strict=True):
        assert [report[n] for n in names] == pytest.approx([other[n] for n in names], rel=1e-4, abs=1e-4)


@needs_deepspeed
@pytest.mark.cluster
@pytest.mark.parametrize("backend", ["torch", "3"])
def test_a_teacher_beside_a_reference_gives_the_log_probs_of_the_policy_that_it_was(backend, ranks):
    found = facts(ranks(backend))
    assert found["teacher_gap"] < 1e-4
    assert found["teacher_moved"] > 0.01


@needs_deepspeed
@pytest.mark.cluster
@pytest.mark.parametrize("stage", STAGES)
def test_in_bfloat16_every_zero_stage_stays_within_its_rounding(stage, ranks):
    needed, found = ranks("torch", "bfloat16"), ranks(stage, "bfloat16")
    # ZeRO 3 multiplies matrices in its own way, so that sums are rounded elsewhere.
    tolerance = 0.1 if stage == "3" else 1e-4
    assert_same_reports(facts(found)["reports"], facts(needed)["reports"], tolerance)
    assert_alike(found / "state/weights.safetensors", needed / "state/weights.safetensors", 2e-4)
    assert_alike(found / "signals.safetensors", needed / "signals.safetensors", tolerance)
    assert {t.dtype for t in load_file(found / "exported.safetensors").values()} == {torch.bfloat16}


@needs_deepspeed
@pytest.mark.cluster
def test_what_one_zero_stage_saved_another_takes_up_on_another_number_of_ranks(ranks, tmp_path):
    three = ranks("3")
    one = one_rank("1", "float32", tmp_path / "one", three / "half")
    names = ("policy/loss", "learner/grad_norm", "learner/learning_rate")
    for ours, theirs in zip(facts(one)["resumed"], facts(three)["reports"][HALF:], strict=True):
        assert [ours[n] for n in names] == pytest.approx([theirs[n] for n in names], rel=1e-4, abs=1e-4)
    names = {
        "critic/loss",
        "critic/outcome_loss",
        "critic/grad_norm",
        "critic/explained_variance",
        "policy/loss",
    }
    for kind, of_three in facts(three)["critic"].items():
        for ours, theirs in zip(facts(one)["critic"][kind]["resumed"], of_three["resumed"], strict=True):
            compared = sorted(names & theirs.keys())
            assert len(compared) >= 3
            found = [ours[n] for n in compared]
            assert found == pytest.approx([theirs[n] for n in compared], rel=1e-4, abs=1e-4)


@needs_deepspeed
@pytest.mark.cluster
def test_the_policy_that_zero_3_saves_is_a_directory_that_transformers_loads(ranks):
    from transformers import AutoModelForCausalLM

    folder = ranks("3", "bfloat16")
    loaded = AutoModelForCausalLM.from_pretrained(folder / "policy")
    assert loaded.dtype == torch.bfloat16
    tensors = dict(loaded.named_parameters())
    exported = load_file(folder / "exported.safetensors")
    assert exported.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in exported.items())


@needs_deepspeed
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({"gradient_checkpointing": True}, {"zero_stage": 3}),
        ({}, {"zero_stage": 1, "offload_optimizer": True}),
        ({}, {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}),
    ],
)
def test_saving_memory_changes_no_step(model, settings, ranks, tmp_path):
    of_torch = facts(ranks("torch"))
    needed = of_torch["reports"]
    options = json.dumps({"model": model, "settings": settings})
    found = two_ranks(options, "float32", tmp_path / "saving")
    assert_same_reports(facts(found)["reports"], needed, 1e-4)
    assert_same_reports(facts(found)["resumed"], needed[HALF:], 1e-4)
    for kind, critic in of_torch["critic"].items():
        assert_same_reports(facts(found)["critic"][kind]["reports"], critic["reports"], 1e-4)


def test_options_that_nobody_would_read_are_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {init: tiny}\ndata: {task: addition}\nrewards: exact_match\nalgorithm: grpo\n"
        "rollout: {max_response_tokens: 8}\n"
    )
    assert load_config(recipe, []).learner == LearnerConfig()
    chosen = load_config(recipe, ["learner.backend=deepspeed", "learner.zero_stage=3"]).learner
    assert (chosen.backend, chosen.zero_stage) == ("deepspeed", 3)
    with pytest.raises(ConfigError, match="read only with `backend: deepspeed`"):
        load_config(recipe, ["learner.zero_stage=3"])
    with pytest.raises(ConfigError, match="zero_stage: 3"):
        load_config(recipe, ["learner.backend=deepspeed", "learner.offload_parameters=true"])
    with pytest.raises(ConfigError, match="zero_stage: 1 or more"):
        load_config(
            recipe,
            ["learner.backend=deepspeed", "learner.zero_stage=0", "learner.offload_optimizer=true"],
        )
