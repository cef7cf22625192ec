from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from teacher_examples import check_gradient

from kd_ray.core.losses import forward_kl, token_cross_entropy, token_tensors
from kd_ray.core.sparse import few_token_cross_entropy
from kd_ray.core.targets import TokenTarget, renormalise_top_k, truncate

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


def slow_with_tail(logits, ids, p, tail):
    """Cross-entropy over K + 1 outcomes by autograd, with logsumexp throughout."""
    log_q = torch.log_softmax(logits, dim=-1)
    others = log_q.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return -(p * log_q.gather(-1, ids)).sum(-1) - tail * others


@pytest.mark.parametrize("scale", [1.0, 90.0], ids=["usual", "others below 1e-30"])
def test_a_tail_is_summed_exactly_however_small_it_is(scale):
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(1, 6, 9))
    dense = TokenTarget(raw - np.log(np.exp(raw).sum(-1, keepdims=True)), np.array([6]))
    target = token_tensors(truncate(dense, 3))
    assert not target.closed
    logits = torch.tensor(raw * scale)
    slow = logits.clone().requires_grad_()
    expected = slow_with_tail(slow, target.ids, target.log_probs.exp(), target.log_tail.exp())
    (expected**2).sum().backward()
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        leaf = logits.detach().to(dtype).clone().requires_grad_()
        loss = token_cross_entropy(leaf, target)
        torch.testing.assert_close(
            loss.sum.double(), expected.sum(), rtol=1e-6, atol=0, check_dtype=False
        )
        rows = few_token_cross_entropy(
            leaf, torch.ones(1, 6, dtype=torch.bool), target.ids, target.log_probs,
            target.log_tail, 1.0,
        )  # fmt: skip
        (rows**2).sum().backward()
        torch.testing.assert_close(leaf.grad.double(), slow.grad, rtol=1e-5, atol=tolerance)
    others = torch.log_softmax(logits, -1).scatter(-1, target.ids, -torch.inf).logsumexp(-1)
    assert bool((others < np.log(1e-40)).any()) == (scale > 1)


def test_a_tail_without_mass_is_no_tail():
    logits, target = example(3)
    tensors = token_tensors(target)
    open_tail = replace(tensors, closed=False)
    results = []
    for each in (tensors, open_tail):
        leaf = logits.clone().requires_grad_()
        loss = token_cross_entropy(leaf, each, temperature=2.0).sum
        loss.backward()
        results.append((loss.item(), leaf.grad))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)
