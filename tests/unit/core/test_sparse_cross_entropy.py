import numpy as np
import oracles
import pytest
import torch
from teacher_examples import check_gradient

from kd_ray.core.losses import forward_kl, token_cross_entropy, token_tensors
from kd_ray.core.targets import TokenTarget, renormalise_top_k

LENGTHS = np.array([3, 1])


def example(k: int):
    rng = np.random.default_rng(k)
    raw = rng.normal(size=(2, 3, 7)) * 2
    dense = TokenTarget(raw - np.log(np.exp(raw).sum(-1, keepdims=True)), LENGTHS)
    return torch.tensor(rng.normal(size=(2, 4, 7))), renormalise_top_k(dense, k)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_few_tokens_match_the_slow_reference_with_their_gradient(k, temperature):
    logits, target = example(k)
    tensors = token_tensors(target)
    assert tensors.closed
    expected = entropy = 0.0
    for i, length in enumerate(LENGTHS):
        for u in range(length):
            p = np.zeros(7)
            p[target.ids[i, u]] = np.exp(target.log_probs[i, u])
            q = oracles.softmax(logits[i, u].tolist(), temperature)
            expected += oracles.cross_entropy(p.tolist(), q)
            entropy += oracles.entropy(p.tolist())
    loss = token_cross_entropy(logits, tensors, temperature=temperature)
    kl = forward_kl(logits, tensors, temperature=temperature)
    assert loss.sum.item() == pytest.approx(expected, abs=1e-9)
    assert kl.sum.item() == pytest.approx(expected - entropy, abs=1e-9)
    assert loss.count == 4
    for function in (token_cross_entropy, forward_kl):
        check_gradient(
            lambda moved, f=function: (f(moved, tensors, temperature=temperature).rows ** 2).sum(),
            logits,
        )


def test_nan_in_padding_and_half_precision():
    logits, target = example(3)
    clean = token_cross_entropy(logits, token_tensors(target)).sum.item()
    logits[1, 1:] = torch.nan
    logits.requires_grad_()
    loss = token_cross_entropy(logits, token_tensors(target)).sum
    loss.backward()
    assert loss.item() == clean
    assert (logits.grad[1, 1:] == 0).all()
    half = logits.detach().to(torch.bfloat16).requires_grad_()
    rough = token_cross_entropy(half, token_tensors(target)).sum
    rough.backward()
    assert rough.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    assert rough.item() == pytest.approx(clean, rel=0.02)


def test_the_gradient_can_be_taken_twice_and_extreme_logits_stay_finite():
    logits, target = example(2)
    logits = (logits.float() * 300).requires_grad_()
    loss = token_cross_entropy(logits, token_tensors(target)).sum
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.equal(first, second)
    exact = logits.detach().double().requires_grad_()
    expected = token_cross_entropy(exact, token_tensors(target)).sum
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(first.double(), exact.grad, rtol=0, atol=1e-6)
