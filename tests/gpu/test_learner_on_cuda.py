"""The fused head and a learner step on an accelerator, against the same on the CPU."""

import pytest
import torch

from rlpost.config.schema import ModelConfig, TinyModelConfig, TrainConfig
from rlpost.data.collate import collate_demonstrations
from rlpost.data.conversation import unsampled
from rlpost.data.trajectory import Prompt
from rlpost.estimator import build_objective
from rlpost.learner import TorchLearner
from rlpost.learner.heads.fused_head import head_logprobs
from rlpost.models import load_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

TINY = TinyModelConfig(hidden_size=64, layers=2, heads=2, intermediate_size=96, max_positions=128)


def naive(hidden, weight, target, temperature):
    logp = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(dim=-1)


@pytest.mark.parametrize(
    ("dtype", "value_gap", "gradient_gap"), [(torch.float32, 1e-4, 1e-4), (torch.bfloat16, 1e-4, 0.02)]
)
def test_the_head_on_cuda_is_the_naive_formula_in_float64(dtype, value_gap, gradient_gap):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 64, generator=generator).to(dtype)
    weight = (0.3 * torch.randn(5000, 64, generator=generator)).to(dtype)
    target = torch.randint(5000, (300,), generator=generator)
    slow = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    fast = [hidden.cuda().requires_grad_(), weight.cuda().requires_grad_()]
    needed = naive(*slow, target, 0.7)
    found = head_logprobs(
        *fast, target.cuda(), temperature=0.7, with_entropy_grad=True, block_bytes=300 * 512 * 4
    )
    for a, b in zip(found, needed, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.cpu().double(), b, rtol=0, atol=value_gap)
    needed_gradients = torch.autograd.grad(needed[0].sum() - needed[1].sum(), slow)
    found_gradients = torch.autograd.grad(found[0].sum() - found[1].sum(), fast)
    for a, b in zip(found_gradients, needed_gradients, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a.cpu().double() / scale, b / scale, rtol=0, atol=gradient_gap)


def test_the_head_on_cuda_needs_a_fraction_of_the_logits_memory():
    tokens, columns, width = 4096, 151_936, 256
    hidden = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(columns, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(columns, (tokens,), device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    head_logprobs(hidden, weight, target)[0].sum().backward()
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    extra = torch.cuda.max_memory_allocated() - before - gradients
    assert extra < tokens * columns * 4 / 4


def demonstrated(answer):
    return (unsampled((*answer.encode(), 2), answer, by_policy=True),)


def arguments():
    rows = [("12+34=", "64"), ("7+8=", "51"), ("a long prompt with many bytes 1+1=", "2"), ("5+5=", "01")]
    prompts = [
        Prompt(str(i), prompt, tuple(5 + b for b in prompt.encode()), demonstration=demonstrated(answer))
        for i, (prompt, answer) in enumerate(rows)
    ]
    inputs, batch = collate_demonstrations(prompts)
    objective = build_objective({"base": "sft"}, max_response_tokens=8)
    return inputs, objective.prepare(batch), objective, 1.0


def learner(dtype="float32", **changes) -> TorchLearner:
    model = ModelConfig(init="tiny", tiny=TINY, dtype=dtype)
    return TorchLearner(model, TrainConfig(learning_rate=1e-3, **changes), seed=0)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_learner_step_on_cuda_has_the_gradient_of_the_cpu(layout):
    trained = learner(layout=layout, tokens_per_microbatch=40)
    assert trained.policy.device.type == "cuda"
    trained.accumulate(*arguments())
    plain = load_model(ModelConfig(init="tiny", tiny=TINY), seed=0)
    inputs, prepared, objective, _ = arguments()
    logprobs = []
    for prompt, response in zip(inputs.prompt_ids, inputs.response_ids, strict=True):
        logits = plain(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        logprobs.append(torch.log_softmax(logits, -1).gather(1, response[:, None])[:, 0])
    objective.loss(torch.cat(logprobs), prepared).loss.backward()
    for (name, a), b in zip(trained.policy.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_on_cuda_learn_and_their_state_survives_saving(dtype, tmp_path):
    trained = learner(dtype)
    losses = [trained.update(*arguments())["policy/loss"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    trained.save(tmp_path)
    resumed = learner(dtype)
    resumed.load(tmp_path)
    again, straight = resumed.update(*arguments()), trained.update(*arguments())
    assert again["policy/loss"] == pytest.approx(straight["policy/loss"], rel=1e-5)
    bundle = trained.export_weights(1)
    assert {t.device.type for t in bundle.tensors.values()} == {"cpu"}
