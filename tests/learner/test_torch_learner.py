import json
import os
import pickle

import pytest
import torch
from learner_batches import MODEL, model_inputs, token_batch, train, update_arguments

from rlpost.config.schema import TinyModelConfig
from rlpost.data.collate import ModelInputs
from rlpost.errors import CheckpointError, NonFiniteError
from rlpost.estimator import build_objective
from rlpost.learner import TorchLearner
from rlpost.learner.replay_batch import load_batch
from rlpost.models import load_model, load_tokenizer
from rlpost.weights.bundle import checksum


def learner(model=MODEL, reference=True, replay_dir=None, **changes) -> TorchLearner:
    return TorchLearner(model, train(**changes), seed=0, reference=reference, replay_dir=replay_dir)


def weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.policy.model.named_parameters()}


def same_bits(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def gradients(learner: TorchLearner, arguments) -> dict[str, torch.Tensor]:
    learner.accumulate(*arguments)
    return {name: p.grad.clone() for name, p in learner.policy.model.named_parameters()}


def slow_log_probs(model, inputs, temperature):
    """From the model's own logits, row by row."""
    logprobs, entropies = [], []
    for prompt, response in zip(inputs.prompt_ids, inputs.response_ids, strict=True):
        logits = model(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0]
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
        logprobs.append(logp.gather(1, response[:, None])[:, 0])
        entropies.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def slow_loss(model, inputs, prepared, objective, temperature):
    logprobs, entropies = slow_log_probs(model, inputs, temperature)
    return objective.loss(logprobs, prepared, entropies)


def test_an_update_is_the_step_that_a_plain_loop_takes():
    arguments = update_arguments()
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.05, "warmup_steps": 4}
    trained = learner(**settings)
    report = trained.update(*arguments)

    plain = load_model(MODEL, seed=0)
    loss = slow_loss(plain, *arguments)
    loss.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
    groups = [[p for p in plain.parameters() if (p.ndim >= 2) == decayed] for decayed in (True, False)]
    torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}], lr=1e-3 / 4
    ).step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(weights(trained)[name], parameter.detach(), rtol=0, atol=2e-6)

    needed = loss.measures.values()
    for name, value in needed.items():
        assert report[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert report["learner/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert report["learner/learning_rate"] == 1e-3 / 4
    assert report["learner/trained_tokens"] == int(arguments[1].batch.mask_N.sum())
    assert report["learner/microbatches"] == 3  # 124 tokens in micro-batches of 48
    assert report["learner/oversized_sequences"] == 0


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_gradient_is_the_same_for_every_way_to_cut_the_batch(layout):
    trained = learner(layout=layout)
    trained.policy.model.double()
    arguments = update_arguments()
    plain = load_model(MODEL, seed=0).double()
    slow_loss(plain, *arguments).loss.backward()
    needed = {name: p.grad for name, p in plain.named_parameters()}
    assert max(float(g.abs().max()) for g in needed.values()) > 1e-3
    for limit in (1, 17, 30, 48, 70, 10_000):
        trained.start_stage(train(layout=layout, tokens_per_microbatch=limit), reference=False)
        for name, gradient in gradients(trained, arguments).items():
            torch.testing.assert_close(gradient, needed[name], rtol=0, atol=1e-6)


def test_rows_that_alone_exceed_a_microbatch_are_counted():
    report = learner(tokens_per_microbatch=17).update(*update_arguments())
    assert report["learner/oversized_sequences"] == 2  # 29 and 19 tokens
    with pytest.raises(ValueError, match="rows of the inputs"):
        inputs, prepared, objective, temperature = update_arguments()
        learner().update(inputs.rows([1, 0]), prepared.rows(torch.tensor([0, 1])), objective, temperature)


def test_signals_are_the_log_probs_of_each_model():
    inputs = model_inputs()
    trained = learner()
    first = trained.signals(inputs, ["old_logprob", "ref_logprob", "entropy"], 0.8)
    assert torch.equal(first["old_logprob"], first["ref_logprob"])
    trained.update(*update_arguments())
    second = trained.signals(inputs, ["old_logprob", "ref_logprob"], 0.8)
    assert second.keys() == {"old_logprob", "ref_logprob"}
    assert torch.equal(second["ref_logprob"], first["ref_logprob"])
    assert not torch.allclose(second["old_logprob"], first["old_logprob"], atol=1e-3)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    logprobs, entropies = slow_log_probs(load_model(MODEL, seed=0), inputs, 0.8)
    torch.testing.assert_close(first["old_logprob"], logprobs.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(first["entropy"], entropies.detach(), rtol=0, atol=1e-5)


def test_signals_that_cannot_be_had_are_refused():
    with pytest.raises(ValueError, match="without a reference"):
        learner(reference=False).signals(model_inputs(), ["ref_logprob"], 1.0)
    with pytest.raises(ValueError, match="unknown signals \\['value'\\]"):
        learner(reference=False).signals(model_inputs(), ["value"], 1.0)


def test_a_new_stage_has_fresh_optimizer_state_and_a_new_reference():
    trained = learner()
    inputs = model_inputs()
    old_reference = trained.signals(inputs, ["ref_logprob"], 1.0)["ref_logprob"]
    trained.update(*update_arguments())
    trained.start_stage(train(warmup_steps=10), reference=True)
    assert len(trained.optimizer.state) == 0
    new = trained.signals(inputs, ["ref_logprob", "old_logprob"], 1.0)
    assert torch.equal(new["ref_logprob"], new["old_logprob"])
    assert not torch.equal(new["ref_logprob"], old_reference)
    assert trained.update(*update_arguments())["learner/learning_rate"] == pytest.approx(1e-3)


def test_exported_weights_are_a_snapshot_with_tied_tensors_once():
    trained = learner()
    bundle = trained.export_weights(7)
    before = weights(trained)
    trained.update(*update_arguments())
    assert bundle.version == 7
    assert same_bits(dict(bundle.tensors), before)
    assert bundle.checksums == {name: checksum(tensor) for name, tensor in before.items()}
    assert "lm_head.weight" not in bundle.tensors
    assert not same_bits(dict(trained.export_weights(8).tensors), before)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory is for Linux")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_exported_to_shared_memory_are_those_of_the_plain_bundle_for_two_versions(dtype):
    trained = learner(MODEL.model_copy(update={"dtype": dtype}))
    kept = []
    for version in range(4):
        plain, shared = trained.export_weights(version), trained.export_weights(version, shared=True)
        assert (shared.version, shared.checksums) == (version, plain.checksums)
        kept.append((plain, pickle.loads(pickle.dumps(shared))))
        for before, described in kept[-2:]:
            assert same_bits(dict(before.tensors), dict(described.tensors))
        trained.update(*update_arguments())


def test_a_step_too_small_for_bfloat16_weights_is_kept():
    model = MODEL.model_copy(update={"dtype": "bfloat16"})
    trained = learner(model, learning_rate=1e-7, reference=False)
    before, exported = weights(trained), trained.export_weights(0)
    assert {t.dtype for t in exported.tensors.values()} == {torch.bfloat16}
    for _ in range(3):
        trained.update(*update_arguments())
    after = weights(trained)
    name = "model.norm.weight"  # ones, beside which bfloat16 knows no number nearer than 0.004
    assert not torch.equal(before[name], after[name])
    assert torch.equal(exported.tensors[name], trained.export_weights(1).tensors[name])


def test_the_probe_is_the_models_own_log_probs_at_temperature_one():
    trained = learner(tokens_per_microbatch=4)
    sequences = [(10, 11, 12, 13, 14), (20,), (), (30, 31)]
    answer = trained.probe(sequences)
    assert [len(logprobs) for logprobs in answer] == [4, 0, 0, 1]
    model = load_model(MODEL, seed=0)
    for sequence, found in zip(sequences, answer, strict=True):
        if len(sequence) > 1:
            ids = torch.tensor([sequence])
            logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
            assert found == pytest.approx(logp.gather(1, ids[0, 1:, None])[:, 0].tolist(), abs=1e-5)
    assert trained.probe([(5,)]) == [()]


def test_a_saved_and_loaded_learner_goes_on_as_if_never_stopped(tmp_path):
    settings = {"schedule": "cosine", "warmup_steps": 2, "steps": 8, "weight_decay": 0.01}
    straight = learner(**settings)
    reports = [straight.update(*update_arguments(seed)) for seed in range(4)]

    first = learner(**settings)
    for seed in range(2):
        first.update(*update_arguments(seed))
    first.save(tmp_path / "state")
    drawn = torch.rand(3)
    second = TorchLearner(MODEL, train(**settings), seed=99, reference=True)
    second.load(tmp_path / "state")
    assert torch.equal(torch.rand(3), drawn)
    resumed = [second.update(*update_arguments(seed)) for seed in (2, 3)]
    assert resumed == reports[2:]
    assert same_bits(weights(second), weights(straight))
    asked = (model_inputs(), ["ref_logprob"], 1.0)
    assert torch.equal(second.signals(*asked)["ref_logprob"], straight.signals(*asked)["ref_logprob"])
    assert {path.suffix for path in (tmp_path / "state").iterdir()} == {".safetensors", ".json"}


def test_loading_weights_only_leaves_the_new_stages_optimizer_and_freezes_a_new_reference(tmp_path):
    first = learner()
    first.update(*update_arguments())
    first.save(tmp_path)
    second = TorchLearner(MODEL, train(warmup_steps=10), seed=99, reference=True)
    second.load(tmp_path, weights_only=True)
    assert same_bits(weights(second), weights(first))
    assert second.updates == 0
    assert len(second.optimizer.state) == 0
    found = second.signals(model_inputs(), ["old_logprob", "ref_logprob"], 1.0)
    assert torch.equal(found["old_logprob"], found["ref_logprob"])


def test_a_checkpoint_of_another_architecture_is_refused_with_the_differing_tensors(tmp_path):
    learner(reference=False).save(tmp_path)
    wider = TinyModelConfig(**MODEL.tiny.model_dump() | {"intermediate_size": 64, "layers": 3})
    other = learner(MODEL.model_copy(update={"tiny": wider}), reference=False)
    before = weights(other)
    with pytest.raises(CheckpointError) as caught:
        other.load(tmp_path)
    assert "model.layers.0.mlp.down_proj.weight: saved [32, 48], here [32, 64]" in str(caught.value)
    assert "more" in str(caught.value)
    assert same_bits(weights(other), before)


def test_unusable_states_are_refused_with_the_file(tmp_path):
    trained = learner(reference=False)
    with pytest.raises(CheckpointError, match=r"learner\.json"):
        trained.load(tmp_path / "nothing")
    trained.save(tmp_path)
    with pytest.raises(CheckpointError, match="reference"):
        learner(reference=True).load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        trained.load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_saved_policy_is_a_directory_that_transformers_loads(tmp_path, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = MODEL.model_copy(update={"dtype": dtype})
    trained = learner(config, reference=False)
    trained.update(*update_arguments())
    trained.save_policy(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == getattr(torch, dtype)
    assert loaded.config._attn_implementation == "sdpa"
    tensors = dict(loaded.named_parameters())
    for name, tensor in trained.export_weights(0).tensors.items():
        assert torch.equal(tensors[name], tensor), name
    ids = torch.tensor([[10, 11, 12, 13]])
    logp = torch.log_softmax(loaded(input_ids=ids).logits[0, :-1].float(), dim=-1)
    needed = logp.gather(1, ids[0, 1:, None])[:, 0].tolist()
    assert trained.probe([(10, 11, 12, 13)])[0] == pytest.approx(
        needed, abs=1e-5 if dtype == "float32" else 0.05
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("12+34=").input_ids == load_tokenizer(config)("12+34=").input_ids
    assert tokenizer.chat_template == load_tokenizer(config).chat_template


def poisoned_arguments():
    """One trained token has a NaN for its old log-prob."""
    inputs, objective = model_inputs(), build_objective({"base": "grpo"}, max_response_tokens=32)
    batch = token_batch(inputs)
    old = batch.signals["old_logprob"].clone()
    old[int(batch.mask_N.nonzero()[3])] = torch.nan
    return inputs, objective.prepare(batch.with_signals(old_logprob=old)), objective, 0.8


def test_a_loss_that_is_not_finite_changes_nothing_and_can_be_replayed(tmp_path):
    trained = learner(replay_dir=tmp_path)
    trained.update(*update_arguments())
    before = weights(trained)
    state = [{k: v.clone() for k, v in s.items()} for s in trained.optimizer.state.values()]
    with pytest.raises(NonFiniteError) as caught:
        trained.update(*poisoned_arguments())
    assert "rank 0: the loss is nan; the gradient of model.embed_tokens.weight" in str(caught.value)
    folder = tmp_path / "update-000001"
    assert str(folder) in str(caught.value)
    assert same_bits(weights(trained), before)
    assert trained.updates == 1
    for old, new in zip(state, trained.optimizer.state.values(), strict=True):
        assert same_bits(old, new)

    batch = load_batch(folder / "batch-rank-000")
    inputs, prepared, objective, _ = poisoned_arguments()
    assert batch.objective == objective
    assert [ids.tolist() for ids in batch.inputs.response_ids] == [i.tolist() for i in inputs.response_ids]
    assert batch.prepared.kept_S.tolist() == prepared.kept_S.tolist()
    again = learner(replay_dir=None)
    again.load(folder / "learner")
    assert same_bits(weights(again), before)
    with pytest.raises(NonFiniteError, match=r"the loss is nan; the gradient of model\.embed_tokens"):
        again.update(batch.inputs, batch.prepared, batch.objective, batch.temperature)
    assert again.update(*update_arguments(1)) == trained.update(*update_arguments(1))


def test_a_gradient_that_is_not_finite_names_the_first_such_parameter():
    trained = learner(replay_dir=None)
    before = weights(trained)
    poisoned = trained.policy.model.model.layers[1].mlp.up_proj.weight
    poisoned.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError) as caught:
        trained.update(*update_arguments())
    assert "rank 0: the gradient of model.layers.1.mlp.up_proj.weight" in str(caught.value)
    assert "the loss is" not in str(caught.value)
    assert "no replay directory" in str(caught.value)
    assert same_bits(weights(trained), before)


def test_every_part_of_an_objective_survives_saving(tmp_path):
    from rlpost.learner.replay_batch import ReplayBatch, save_batch

    inputs = model_inputs()
    spec = {
        "base": "dapo",
        "shaping": ["soft_overlong", {"kl_in_reward": {"coefficient": 0.03}}],
        "kl": {"kind": "k2"},
        "entropy": 0.01,
    }
    objective = build_objective(spec, max_response_tokens=32)
    prepared = objective.prepare(token_batch(inputs), 2)
    save_batch(tmp_path / "b", ReplayBatch(inputs, prepared, objective, 0.7, {"why": "test"}))
    loaded = load_batch(tmp_path / "b")
    assert loaded.objective == objective
    assert (loaded.temperature, loaded.facts) == (0.7, {"why": "test"})
    assert same_bits(dict(loaded.prepared.batch.signals), dict(prepared.batch.signals))
    assert torch.equal(loaded.prepared.update_S, prepared.update_S)
    for found, needed in zip(loaded.prepared.terms, prepared.terms, strict=True):
        assert torch.equal(found.weight_N, needed.weight_N)
        assert torch.equal(found.advantage_N, needed.advantage_N)
    text = json.loads((tmp_path / "b.json").read_text())
    text["objective"]["part"] = "print"
    (tmp_path / "b.json").write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match="unknown part 'print'"):
        load_batch(tmp_path / "b")


def test_a_batch_without_any_row_is_a_step_of_zero_gradient():
    _, prepared, objective, temperature = update_arguments()
    nothing = prepared.rows(torch.zeros(0, dtype=torch.int64))
    report = learner().update(ModelInputs((), ()), nothing, objective, temperature)
    assert report["learner/grad_norm"] == 0.0
    assert report["learner/microbatches"] == 0
