"""Adapters (LoRA) in the torch learner."""

import json

import pytest
import torch
from critic_batches import PLANS, ppo_arguments
from learner_batches import MODEL, arguments_of_row, model_inputs, train, update_arguments
from rank_process import scaled

from rlpost.config import load_config
from rlpost.config.schema import LoraConfig
from rlpost.errors import CheckpointError, ConfigError
from rlpost.estimator import ALGORITHMS
from rlpost.learner import TorchLearner
from rlpost.learner.policy import Policy
from rlpost.models import load_model, load_tokenizer
from rlpost.rollout import TorchEngine
from rlpost.weights import checksum, verify_receipt

LORA = LoraConfig(rank=4, alpha=8.0)
ADAPTED = MODEL.model_copy(update={"lora": LORA})
FACTORS = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 48))
"""Numbers in the factors: two blocks, rank 4; q, k, v and o of 32 x 32, gate, up and down of 32 x 48."""


def learner(lora=LORA, seed=0, reference=False, **changes) -> TorchLearner:
    model = MODEL.model_copy(update={"lora": lora, **changes})
    return TorchLearner(model, train(), seed=seed, reference=reference)


def stirred(trained: TorchLearner) -> TorchLearner:
    """With factors B that are not zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, factor in trained.adapter.trained.items():
            if "lora_B" in name:
                factor.copy_(0.05 * torch.randn(factor.shape, generator=generator))
    return trained


def factors_of(trained: TorchLearner) -> dict[str, torch.Tensor]:
    return {name: factor.detach().clone() for name, factor in trained.adapter.trained.items()}


def frozen_of(trained: TorchLearner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trained.policy.model.named_parameters() if not p.requires_grad}


def same_bits(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def old_logprobs(trained: TorchLearner) -> torch.Tensor:
    return trained.signals(model_inputs(), ["old_logprob"], 1.0)["old_logprob"]


def plain_logprobs(model) -> torch.Tensor:
    return Policy(model).all_logprobs(model_inputs(), 1.0, 10_000)[0]


@pytest.mark.slow
def test_the_gradient_of_every_row_is_that_of_the_whole_weights_seen_through_the_factors():
    trained = stirred(learner())
    whole = TorchLearner(MODEL, train(), seed=0)
    for each in (trained, whole):
        each.policy.model.double()
    whole._set_weights({name: tensor for piece in trained._pieces() for name, tensor in piece.items()})
    for name in ALGORITHMS:
        arguments = arguments_of_row(name, **scaled(name))
        # A transform scales by a norm of what is trained, so the factor is the adapter's.
        factor = trained.scaling(*arguments).factor
        for each in (trained, whole):
            each.accumulate(*arguments, factor)
        dense = {n: p.grad for n, p in whole.policy.model.named_parameters()}
        assert all(p.grad is None for p in trained.policy.model.parameters() if not p.requires_grad)
        largest = 0.0
        for module, layer in trained.adapter._layers.items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            gradient = dense[f"{module}.weight"]
            # W + (alpha / rank) B A, alpha / rank = 2
            torch.testing.assert_close(a.grad, 2.0 * b.T @ gradient, rtol=1e-6, atol=1e-9, msg=name)
            torch.testing.assert_close(b.grad, 2.0 * gradient @ a.T, rtol=1e-6, atol=1e-9, msg=name)
            largest = max(largest, float(b.grad.abs().max()))
        assert largest > 0.0, name


def test_only_the_factors_are_trained_and_what_leaves_the_learner_is_a_plain_model(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trained = learner()
    before, start = frozen_of(trained), factors_of(trained)
    assert torch.equal(old_logprobs(trained), plain_logprobs(load_model(MODEL, 0)))
    for step in range(3):
        report = trained.update(*update_arguments(step))
    assert report["learner/trainable_parameters"] == FACTORS == 3968
    assert report["learner/trainable_share"] == pytest.approx(FACTORS / (26112 + FACTORS))
    assert same_bits(frozen_of(trained), before)
    assert not any(torch.equal(factor, start[name]) for name, factor in factors_of(trained).items())
    # AdamW: two float32 moments of each number, and a counter for each tensor.
    state = [tensor for s in trained.optimizer.state.values() for tensor in s.values()]
    assert sum(tensor.nbytes for tensor in state) == 8 * FACTORS + 4 * 2 * 14

    needed = old_logprobs(trained)
    bundle = trained.export_weights(1)
    assert bundle.tensors.keys() == dict(load_model(MODEL, 0).named_parameters()).keys()
    assert trained.export_weights(1, shared=True).checksums == bundle.checksums
    trained.save_policy(tmp_path / "policy")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert all(torch.equal(merged.get_parameter(n), t) for n, t in bundle.tensors.items())
    torch.testing.assert_close(plain_logprobs(merged), needed, rtol=0, atol=1e-5)

    loaded = PeftModel.from_pretrained(load_model(MODEL, 0), tmp_path / "policy" / "adapter")
    torch.testing.assert_close(plain_logprobs(loaded.base_model.model), needed, rtol=0, atol=1e-5)
    by_peft = dict(loaded.merge_and_unload().named_parameters())
    for name, tensor in bundle.tensors.items():
        torch.testing.assert_close(by_peft[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "lora", [LORA, LoraConfig(rank=2, alpha=3.0, rslora=True, target_modules=["v_proj"])]
)
def test_an_engines_log_probs_are_the_adapted_models_after_every_sync(lora):
    trained, engine = learner(lora), TorchEngine(load_model(MODEL, 1), load_tokenizer(MODEL), slots=4)
    sequences = [(10, 11, 12, 13, 14), (30, 31)]
    answers = []
    for version in range(3):
        bundle = trained.export_weights(version)
        verify_receipt(bundle, engine.load_weights(bundle))
        for ours, theirs in zip(trained.probe(sequences), engine.probe(sequences), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)
        answers.append(engine.probe(sequences)[0])
        trained.update(*update_arguments(version))
    assert max(abs(a - b) for a, b in zip(answers[0], answers[2], strict=True)) > 1e-2


def test_the_reference_is_the_policy_when_the_stage_began():
    trained = stirred(learner(reference=True))
    trained.start_stage(train(), reference=True)
    inputs, whole = model_inputs(), trained.policy.frozen_copy()
    before = frozen_of(trained)
    for step in range(3):
        trained.update(*update_arguments(step))
        found = trained.signals(inputs, ["ref_logprob", "old_logprob"], 0.8)
        needed = whole.all_logprobs(inputs, 0.8, 48)[0]
        torch.testing.assert_close(found["ref_logprob"], needed, rtol=0, atol=1e-6)
        assert float((found["old_logprob"] - needed).abs().max()) > 1e-2
    assert same_bits(frozen_of(trained), before)
    trained.start_stage(train(), reference=True)
    found = trained.signals(inputs, ["ref_logprob", "old_logprob"], 0.8)
    assert torch.equal(found["ref_logprob"], found["old_logprob"])


def test_a_checkpoint_holds_the_adapter_and_goes_on_beside_the_same_base_alone(tmp_path):
    straight = learner(reference=True)
    reports = [straight.update(*update_arguments(step)) for step in range(4)]
    first = learner(reference=True)
    for step in range(2):
        first.update(*update_arguments(step))
    first.save(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["weights.safetensors"] < 4 * FACTORS + 4096 > sizes["reference.safetensors"]
    assert sizes["optimizer.safetensors"] < 8 * FACTORS + 4 * 28 + 16384

    second = learner(reference=True)
    second.load(tmp_path)
    assert [second.update(*update_arguments(step)) for step in (2, 3)] == reports[2:]
    assert same_bits(factors_of(second), factors_of(straight))
    asked = (model_inputs(), ["ref_logprob"], 1.0)
    assert torch.equal(second.signals(*asked)["ref_logprob"], straight.signals(*asked)["ref_logprob"])
    # The next stage goes on with the same adapter, and keeps it as its reference.
    third = learner(reference=True)
    third.load(tmp_path, weights_only=True)
    assert (third.updates, len(third.optimizer.state)) == (0, 0)
    found = third.signals(model_inputs(), ["ref_logprob", "old_logprob"], 1.0)
    assert torch.equal(found["ref_logprob"], found["old_logprob"])

    other, before = learner(seed=1, reference=True), old_logprobs(learner(seed=1))
    with pytest.raises(CheckpointError, match="trained beside other weights") as caught:
        other.load(tmp_path)
    assert json.loads((tmp_path / "learner.json").read_text())["base"]["fingerprint"] in str(caught.value)
    assert torch.equal(old_logprobs(other), before)
    with pytest.raises(CheckpointError, match="do not train the same weights"):
        TorchLearner(MODEL, train(), seed=0, reference=True).load(tmp_path)
    TorchLearner(MODEL, train(), seed=0, reference=True).save(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="do not train the same weights"):
        second.load(tmp_path / "whole")


def test_an_adapter_is_drawn_from_the_seed_alone():
    torch.manual_seed(5)
    first = factors_of(learner())
    drawn = torch.rand(3)
    torch.manual_seed(6)
    assert same_bits(factors_of(learner()), first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert not same_bits(factors_of(learner(seed=1)), first)
    one, two = (first[f"model.layers.{n}.self_attn.q_proj.lora_A.default.weight"] for n in (0, 1))
    assert not torch.equal(one, two)
    assert float(one.abs().max()) <= 32**-0.5
    assert all(not factor.any() for name, factor in first.items() if "lora_B" in name)


def test_layouts_and_gradient_checkpointing_change_no_step():
    needed = [stirred(learner()).update(*update_arguments())]
    found = [stirred(learner(gradient_checkpointing=True)).update(*update_arguments())]
    padded = stirred(learner())
    padded.start_stage(train(layout="padded"), reference=False)
    found.append(padded.update(*update_arguments()))
    for report in found:
        for name in ("policy/loss", "learner/grad_norm", "policy/entropy"):
            assert report[name] == pytest.approx(needed[0][name], rel=1e-5), name


def test_a_critic_of_its_own_begins_with_the_merged_weights_and_a_shared_one_trains_the_adapter():
    trained = stirred(learner())
    bundle = trained.export_weights(0)
    trained.start_stage(train(), False, PLANS["own"])
    backbone = dict(trained.critic.network.backbone.named_parameters())
    assert all(torch.equal(p, bundle.tensors[f"model.{name}"]) for name, p in backbone.items())
    assert all(p.requires_grad for p in backbone.values())
    before, factors = frozen_of(trained), factors_of(trained)
    report = trained.update(*ppo_arguments(), values_only=True)
    assert report["critic/grad_norm"] > 0.0
    assert "learner/grad_norm" not in report
    assert same_bits(frozen_of(trained), before)
    assert same_bits(factors_of(trained), factors)
    assert trained.export_weights(0).checksums == {n: checksum(t) for n, t in bundle.tensors.items()}

    trained.start_stage(train(), False, PLANS["shared"])
    trained.update(*ppo_arguments())
    trained.accumulate(*ppo_arguments())
    of_policy = {name: factor.grad.clone() for name, factor in trained.adapter.trained.items()}
    inputs, prepared, _, _ = ppo_arguments()
    trained.critic.accumulate(inputs, prepared, alone=False)
    moved = {name: factor.grad - of_policy[name] for name, factor in trained.adapter.trained.items()}
    assert all(bool(gradient.any()) for name, gradient in moved.items() if "layers.0" in name)
    assert all(p.grad is None for p in trained.policy.model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("q_pro", r"no module of this name(.|\n)*down_proj, gate_proj, k_proj(.|\n)*did you mean `q_proj`"),
        ("lm_head", "linear layers of the decoder only"),
        ("embed_tokens", "linear layers of the decoder only"),
        ("mlp", "linear layers of the decoder only"),
    ],
)
def test_a_target_that_is_no_linear_layer_of_the_decoder_is_refused_with_those_that_are(target, message):
    with pytest.raises(ConfigError, match=message):
        learner(LoraConfig(target_modules=["v_proj", target]))


def test_adapters_in_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {init: tiny}\ndata: {task: addition}\nrewards: exact_match\nalgorithm: grpo\n"
        "rollout: {max_response_tokens: 8}\n"
    )
    assert load_config(recipe, []).model.lora is None
    assert load_config(recipe, ["model.lora={}"]).model.lora == LoraConfig()
    chosen = load_config(recipe, ["model.lora={rank: 8, target_modules: [q_proj, v_proj]}"]).model.lora
    assert (chosen.rank, chosen.alpha, chosen.target_modules) == (8, 32.0, ["q_proj", "v_proj"])
    for key, message in (
        ("dropout=0.1", "without dropout"),
        ("target_modules=[]", "no layer would have an adapter"),
        ("rank=0", "rank"),
        ("alpha=0", "alpha"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(recipe, ["model.lora={}", f"model.lora.{key}"])
