"""A teacher beside the policy: its log-probs, its tokens, and how it is told from another."""

import json

import pytest
import torch
from learner_batches import MODEL, model_inputs, train

from rlpost.config.schema import TeacherConfig
from rlpost.errors import ConfigError
from rlpost.learner import TorchLearner
from rlpost.models import load_tokenizer
from rlpost.models.teacher import check_teacher, teacher_fingerprint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two policies with random weights, as a run leaves them."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (1, 2):
        TorchLearner(MODEL, train(), seed=seed).save_policy(folder / str(seed))
    return folder


def test_a_teacher_gives_its_own_log_probs_and_stays_as_it_is(saved):
    first, second = (TeacherConfig(init=str(saved / name)) for name in "12")
    taught = TorchLearner(MODEL, train(), seed=0)
    inputs = model_inputs()

    def expected(seed):
        alone = TorchLearner(MODEL, train(), seed=seed)
        return alone.signals(inputs, ["old_logprob"], 0.7)["old_logprob"]

    def found():
        return taught.signals(inputs, ["teacher_logprob"], 0.7)["teacher_logprob"]

    with pytest.raises(ValueError, match="started without a teacher"):
        found()
    taught.start_stage(train(), True, None, first)
    assert torch.equal(found(), expected(1))
    loaded = taught.teacher
    assert not any(p.requires_grad for p in loaded.model.parameters())
    taught.start_stage(train(learning_rate=1e-4), False, None, first)
    assert taught.teacher is loaded
    taught.start_stage(train(), False, None, second)
    assert torch.equal(found(), expected(2))
    taught.start_stage(train(), False)
    assert taught.teacher is None


def test_a_checkpoint_does_not_hold_the_teacher(saved, tmp_path):
    taught = TorchLearner(MODEL, train(), seed=0)
    taught.start_stage(train(), False, None, TeacherConfig(init=str(saved / "1")))
    taught.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"weights.safetensors", "optimizer.safetensors", "rng.safetensors", "learner.json"}
    taught.load(tmp_path)
    assert taught.teacher is not None


def test_teachers_are_told_apart_by_their_weights(saved, tmp_path):
    first, second = (teacher_fingerprint(MODEL, TeacherConfig(init=str(saved / name))) for name in "12")
    assert first != second
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in (saved / "1").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert teacher_fingerprint(MODEL, TeacherConfig(init=str(copy))) == first


def test_a_teacher_must_read_tokens_as_the_policy_does(saved, tmp_path):
    check_teacher(MODEL, TeacherConfig(init=str(saved / "1")))
    policy = MODEL.model_copy(update={"init": str(saved / "1")})
    for path in (saved / "1").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary)[:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    known = len(load_tokenizer(policy))
    with pytest.raises(ConfigError) as error:
        check_teacher(policy, TeacherConfig(init=str(tmp_path)))
    assert f"2 of {known} tokens differ, such as {one!r}, which is" in str(error.value)
    with pytest.raises(ConfigError, match="the teacher cannot be loaded"):
        check_teacher(policy, TeacherConfig(init=str(tmp_path / "nothing")))
