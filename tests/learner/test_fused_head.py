import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlpost.learner.heads.fused_head import head_logprobs

TOKENS, COLUMNS, WIDTH = 7, 300, 5  # 300 columns are three blocks at the narrowest width


def naive(hidden, weight, target, *, bias_V=None, temperature=1.0, softcap=None):
    logits = hidden @ weight.T
    if bias_V is not None:
        logits = logits + bias_V
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logp = torch.log_softmax(logits / temperature, dim=-1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(dim=-1)


def tensors(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)).to(dtype)
    weight = torch.randn(COLUMNS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(COLUMNS, generator=generator, dtype=torch.float64).to(dtype)
    # The first and the last column of blocks are among the targets.
    target = torch.tensor([0, 127, 128, 255, 256, 299, 42])
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), target


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_the_naive_formula(temperature, softcap):
    hidden, weight, bias, target = tensors()
    weights = torch.randn(2, TOKENS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for head in (naive, head_logprobs):
        options = {"block_bytes": 1, "with_entropy_grad": True} if head is head_logprobs else {}
        outputs = head(
            hidden, weight, target, bias_V=bias, temperature=temperature, softcap=softcap, **options
        )
        loss = (weights * torch.stack(outputs)).sum()
        results.append((*outputs, *torch.autograd.grad(loss, (hidden, weight, bias))))
    for needed, found in zip(*results, strict=True):
        torch.testing.assert_close(found, needed, rtol=1e-10, atol=1e-12)


def test_numerical_differentiation_agrees():
    hidden, weight, bias, _ = tensors()
    small = [hidden.detach()[:3], weight.detach()[:140], bias.detach()[:140]]

    def head(hidden, weight, bias):
        return head_logprobs(
            hidden,
            weight,
            torch.tensor([0, 127, 139]),
            bias_V=bias,
            temperature=0.7,
            softcap=3.0,
            with_entropy_grad=True,
            block_bytes=1,
        )

    assert torch.autograd.gradcheck(head, [t.requires_grad_() for t in small], fast_mode=True)


def test_one_token_of_two_by_hand():
    hidden = torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([[0.0, 0.0], [1.0986123, 5.0]])  # logits 0 and ln 3
    logprob, entropy = head_logprobs(hidden, weight, torch.tensor([1]))
    assert logprob.item() == pytest.approx(-0.2876821, abs=1e-6)  # ln 3/4
    assert entropy.item() == pytest.approx(0.5623351, abs=1e-6)  # -(3/4 ln 3/4 + 1/4 ln 1/4)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=2)))
def test_only_wanted_gradients_are_formed(wanted):
    hidden, weight, _, target = tensors()
    hidden.requires_grad_(wanted[0])
    weight.requires_grad_(wanted[1])
    logprob, entropy = head_logprobs(hidden, weight, target)
    assert logprob.requires_grad == any(wanted)
    assert not entropy.requires_grad
    if any(wanted):
        logprob.sum().backward()
    assert (hidden.grad is not None, weight.grad is not None) == wanted


def test_logits_of_ten_thousand_neither_overflow_nor_lose_the_entropy():
    hidden, weight, _, target = tensors(torch.float32, scale=1e4)
    logprob, entropy = head_logprobs(hidden, weight, target, block_bytes=1)
    needed = naive(hidden.double(), weight.double(), target)
    assert logprob.isfinite().all()
    torch.testing.assert_close(logprob.double(), needed[0], rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(entropy.double(), needed[1], rtol=1e-2, atol=1e-2)
    assert (entropy >= 0).all()


def test_bfloat16_weights_give_float32_results_and_gradients_that_are_rounded_once():
    hidden, weight, _, target = tensors(torch.bfloat16)
    logprob, entropy = head_logprobs(hidden, weight, target, block_bytes=1)
    assert logprob.dtype == entropy.dtype == torch.float32
    logprob.sum().backward()
    wide_hidden, wide_weight = (t.detach().float().requires_grad_() for t in (hidden, weight))
    needed = naive(wide_hidden, wide_weight, target)
    torch.testing.assert_close(logprob, needed[0], rtol=1e-5, atol=1e-5)
    needed[0].sum().backward()
    assert weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(weight.grad.float(), wide_weight.grad, rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(hidden.grad.float(), wide_hidden.grad, rtol=2**-8, atol=1e-5)


def test_autocast_around_it_does_not_lower_the_precision():
    hidden, weight, _, target = tensors(torch.float32)
    needed, _ = head_logprobs(hidden, weight, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = head_logprobs(hidden, weight, target)
    assert torch.equal(found, needed)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_operation_makes_more_than_one_block_of_logits():
    tokens, columns, width = 64, 4096, 8
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(columns, width, requires_grad=True)
    target = torch.randint(columns, (tokens,))
    with LargestTensor() as largest:
        logprob, entropy = head_logprobs(
            hidden, weight, target, with_entropy_grad=True, block_bytes=tokens * 512 * 4
        )
        (logprob + entropy).sum().backward()
    assert largest.elements == max(tokens * 512, columns * width)
    with LargestTensor() as largest:
        naive(hidden, weight, target)[0].sum().backward()
    assert largest.elements == tokens * columns


def test_no_tokens_are_a_batch_too():
    hidden, weight, _, target = tensors()
    logprob, entropy = head_logprobs(hidden[:0], weight, target[:0])
    (logprob.sum() * 2).backward()
    assert logprob.shape == entropy.shape == (0,)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_shapes_that_do_not_fit_are_refused():
    hidden, weight, _, target = tensors()
    with pytest.raises(ValueError, match=r"hidden \(7, 5\), weight \(300, 5\), target \(6,\)"):
        head_logprobs(hidden, weight, target[:6])
    with pytest.raises(ValueError, match="temperature must be positive"):
        head_logprobs(hidden, weight, target, temperature=0.0)
