import pytest
import torch
from learner_batches import MODEL, model_inputs
from torch import nn

from rlpost.data.collate import ModelInputs
from rlpost.errors import ConfigError, DataError
from rlpost.learner.packed_attention import PackedRows
from rlpost.learner.policy import Policy
from rlpost.models import load_model

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
INPUTS = model_inputs(prompts=(3, 1, 9, 2), responses=(5, 14, 2, 0), vocabulary=97)


def tiny(family: str, **changes):
    """A random model of a family of transformers, such as Qwen2, in float64."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    config._attn_implementation = "sdpa"
    model = getattr(transformers, f"{family}ForCausalLM")(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def one_by_one(model, inputs: ModelInputs, temperature: float):
    """The slow way: the model's own logits, each row alone."""
    logprobs, entropies = [], []
    for prompt, response in zip(inputs.prompt_ids, inputs.response_ids, strict=True):
        logits = model(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0]
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
        logprobs.append(logp.gather(1, response[:, None])[:, 0])
        entropies.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def gradients(model, loss):
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


FAMILIES = {
    "Qwen2": {},
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 6},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": None},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 3.0},
    "Phi": {},  # its output embedding has a bias
}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_padded_and_one_by_one_are_the_same_policy(family):
    model = tiny(family, **FAMILIES[family])
    weights = torch.randn(2, 21, dtype=torch.float64)
    needed = one_by_one(model, INPUTS, 0.7)
    needed_gradients = gradients(model, (weights * torch.stack(needed)).sum())
    policy = Policy(model, layout="padded")
    for layout in ("padded", "packed"):
        policy.use_layout(layout)
        found = policy.logprobs(INPUTS, 0.7, with_entropy_grad=True)
        torch.testing.assert_close(found, needed, rtol=0, atol=1e-6)
        for a, b in zip(
            gradients(model, (weights * torch.stack(found)).sum()), needed_gradients, strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_packed_row_does_not_see_the_rows_before_it():
    policy = Policy(tiny("Qwen2"))
    alone, _ = policy.logprobs(INPUTS.rows([1]), 1.0)
    for first in (0, 2):
        both, _ = policy.logprobs(INPUTS.rows([first, 1]), 1.0)
        torch.testing.assert_close(both[-14:], alone, rtol=0, atol=1e-12)


def test_rows_are_grouped_by_like_length_and_every_token_has_one_place():
    rows = PackedRows.of([3, 10, 1, 9], torch.device("cpu"))
    assert [(group.rows, group.width) for group in rows.groups] == [(2, 10), (1, 3), (1, 1)]
    held = torch.cat([group.index for group in rows.groups])
    assert held[rows.place_L].tolist() == list(range(23))


def test_a_model_whose_state_crosses_packed_rows_is_refused_with_the_remedy():
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = transformers.MambaForCausalLM(config)
    with pytest.raises(ConfigError, match="padded"):
        Policy(model, layout="packed")


def test_a_model_with_an_unknown_logit_transform_is_refused():
    model = tiny("Qwen2")
    model.register_forward_hook(
        lambda module, args, output: output.__setitem__("logits", output.logits * 1.5)
    )
    with pytest.raises(ConfigError, match="not the model's own"):
        Policy(model, layout="padded")


def test_gradient_checkpointing_computes_layers_twice_and_changes_no_gradient():
    calls = []
    results = []
    for checkpointing in (False, True):
        model = tiny("Qwen2", attention_dropout=0.5)
        policy = Policy(model, gradient_checkpointing=checkpointing)
        calls.clear()
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        loss = policy.logprobs(INPUTS, 1.0)[0].sum()
        results.append(gradients(model, loss))
        assert len(calls) == (2 if checkpointing else 1)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradient_checkpointing_of_a_model_without_such_layers_is_refused():
    model = tiny("Qwen2")
    model.model.layers = nn.ModuleList()
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        Policy(model, gradient_checkpointing=True)


def test_microbatches_without_gradient_come_back_in_the_order_of_the_rows():
    policy = Policy(tiny("Qwen2"))
    needed = policy.logprobs(INPUTS, 0.7)
    for limit in (1, 12, 20, 1000):
        found = policy.all_logprobs(INPUTS, 0.7, limit)
        torch.testing.assert_close(found, tuple(t.detach() for t in needed), rtol=0, atol=1e-12)
    empty = policy.all_logprobs(INPUTS.rows([3]), 0.7, 10)
    assert [t.shape for t in empty] == [(0,), (0,)]


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    needed, _ = Policy(load_model(MODEL, seed=0)).logprobs(INPUTS, 1.0)
    model = load_model(MODEL, seed=0)
    policy = Policy(model, compute_dtype=torch.bfloat16)
    found, _ = policy.logprobs(INPUTS, 1.0)
    assert found.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    gap = (found - needed).abs().max()
    assert 1e-6 < gap < 0.05


def test_a_token_that_the_model_does_not_have_is_refused():
    inputs = ModelInputs((torch.tensor([1, 2]),), (torch.tensor([97]),))
    with pytest.raises(DataError, match="0 to 96"):
        Policy(tiny("Qwen2")).logprobs(inputs, 1.0)


def test_a_frozen_copy_keeps_its_weights():
    model = tiny("Qwen2")
    policy = Policy(model)
    before = policy.logprobs(INPUTS, 1.0)[0].detach()
    frozen = policy.frozen_copy()
    with torch.no_grad():
        model.model.norm.weight.mul_(2.0)
    assert torch.equal(frozen.logprobs(INPUTS, 1.0)[0], before)
    assert not torch.equal(policy.logprobs(INPUTS, 1.0)[0], before)
    assert not frozen.logprobs(INPUTS, 1.0)[0].requires_grad
