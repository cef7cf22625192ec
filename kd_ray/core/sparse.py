"""Cross-entropy with few target tokens, at the cost of the ordinary one-token cross-entropy.

Shapes: B rows, U target positions, V vocabulary, K target tokens.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def few_token_cross_entropy(
    logits_BUV: Tensor, keep_BU: Tensor, ids_BUK: Tensor, log_p_BUK: Tensor, temperature: float
) -> Tensor:
    """(B, U) `-sum_k p_k log softmax(logits / temperature)_k`; 0 where `keep` is false.

    One pass makes the student's softmax, and the backward pass turns that buffer into the gradient:
    one exponential for each logit, and one buffer of their size, where the ordinary cross-entropy
    has two and three. A second backward pass through the same graph computes the softmax again.
    Half precision is computed in float32.
    """
    cross = _FewTokenCrossEntropy.apply(logits_BUV, keep_BU, ids_BUK, log_p_BUK, temperature)
    return cast(Tensor, cross)


class _FewTokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, keep: Tensor, ids: Tensor, log_p: Tensor, temperature: float
    ) -> Tensor:
        z = _softened(logits, temperature)
        softmax = z.softmax(dim=-1)
        # The largest probability is at least 1 / V: its logarithm loses nothing.
        log_sum = z.amax(dim=-1) - softmax.amax(dim=-1).log()
        p = log_p.to(z.dtype).exp()
        terms = torch.where(p > 0, p * (log_sum[..., None] - z.gather(-1, ids)), 0.0)
        ctx.save_for_backward(logits, keep, ids, p)
        ctx.temperature = temperature
        ctx.softmax = softmax if ctx.needs_input_grad[0] else None
        return torch.where(keep, terms.sum(dim=-1), 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, keep, ids, p = ctx.saved_tensors
        softmax, ctx.softmax = ctx.softmax, None
        if softmax is None:
            softmax = _softened(logits, ctx.temperature).softmax(dim=-1)
        share = torch.where(keep, gradient / ctx.temperature, 0.0)[..., None]
        softmax.mul_(share * p.sum(dim=-1, keepdim=True))
        softmax.scatter_add_(-1, ids, -share * p)
        if not bool(keep.all()):
            # Whatever stood in masked places, NaN included, times zero is not zero.
            softmax.masked_fill_(~keep[..., None], 0.0)
        return softmax.to(logits.dtype), None, None, None, None


def _softened(logits: Tensor, temperature: float) -> Tensor:
    half = logits.dtype in (torch.float16, torch.bfloat16)
    z = logits.float() if half else logits
    return z if temperature == 1.0 else z / temperature
