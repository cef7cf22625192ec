"""Cross-entropy with few target tokens, at the cost of the ordinary one-token cross-entropy.

Shapes: B rows, U target positions, V vocabulary, K target tokens.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TINY = 1e-30
"""A smaller probability of all other tokens is computed from logits: in float32 it has lost digits,
or everything."""


def few_token_cross_entropy(
    logits_BUV: Tensor,
    keep_BU: Tensor,
    ids_BUK: Tensor,
    log_p_BUK: Tensor,
    log_tail_BU: Tensor | None,
    temperature: float,
) -> Tensor:
    """(B, U) cross-entropy of a target over K tokens and, if there is a tail, "any other token".

        -sum_k p_k log q_k - p_tail log(sum of all other q),  q = softmax(logits / temperature)

    0 where `keep` is false. One pass makes q, and the backward pass turns that buffer into the
    gradient: one exponential for each logit, and one buffer of their size, where the ordinary
    cross-entropy has two and three. A second backward pass through the same graph computes q again.
    Half precision is computed in float32. The others' probability is summed, not taken as 1 minus
    that of the K: no cancellation however small it is.
    """
    cross = _FewTokenCrossEntropy.apply(
        logits_BUV, keep_BU, ids_BUK, log_p_BUK, log_tail_BU, temperature
    )
    return cast(Tensor, cross)


class _FewTokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        keep: Tensor,
        ids: Tensor,
        log_p: Tensor,
        log_tail: Tensor | None,
        temperature: float,
    ) -> Tensor:
        z = _softened(logits, temperature)
        q = z.softmax(dim=-1)
        # The largest probability is at least 1 / V: its logarithm loses nothing.
        log_sum = z.amax(dim=-1) - q.amax(dim=-1).log()
        p = log_p.to(z.dtype).exp()
        cross = torch.where(p > 0, p * (log_sum[..., None] - z.gather(-1, ids)), 0.0).sum(dim=-1)
        tail = rest = tiny = None
        if log_tail is not None:
            tail = log_tail.to(z.dtype).exp()
            rest = _others(q, ids)
            log_rest = rest.log()
            tiny = keep & (tail > 0) & (rest < _TINY)
            if bool(tiny.any()):
                log_rest[tiny] = _without(z, ids, tiny).logsumexp(dim=-1) - log_sum[tiny]
            cross = cross - torch.where(tail > 0, tail * log_rest, 0.0)
        ctx.save_for_backward(logits, keep, ids, p, tail, rest, tiny)
        ctx.temperature = temperature
        ctx.q = q if ctx.needs_input_grad[0] else None
        return torch.where(keep, cross, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        logits, keep, ids, p, tail, rest, tiny = ctx.saved_tensors
        q, ctx.q = ctx.q, None
        if q is None:
            q = _softened(logits, ctx.temperature).softmax(dim=-1)
        share = torch.where(keep, gradient / ctx.temperature, 0.0)[..., None]
        mass = p.sum(dim=-1, keepdim=True)
        if tail is None:
            q.mul_(share * mass)
            q.scatter_add_(-1, ids, -share * p)
        else:
            mass = mass + tail[..., None]
            kept = share * (q.gather(-1, ids) * mass - p)
            q_tiny = q[tiny]
            q.mul_(share * (mass - torch.where(tail > 0, tail / rest, 0.0)[..., None]))
            if len(q_tiny):
                among = _without(_softened(logits, ctx.temperature), ids, tiny).softmax(dim=-1)
                q[tiny] = share[tiny] * (mass[tiny] * q_tiny - tail[tiny][:, None] * among)
            q.scatter_(-1, ids, kept)
        if not bool(keep.all()):
            # Whatever stood in masked places, NaN included, times zero is not zero.
            q.masked_fill_(~keep[..., None], 0.0)
        return q.to(logits.dtype), None, None, None, None, None


def _softened(logits: Tensor, temperature: float) -> Tensor:
    half = logits.dtype in (torch.float16, torch.bfloat16)
    z = logits.float() if half else logits
    return z if temperature == 1.0 else z / temperature


def _others(q: Tensor, ids: Tensor) -> Tensor:
    """(B, U) probability of all tokens but `ids`; q is as before in the end."""
    kept = q.gather(-1, ids)
    q.scatter_(-1, ids, 0.0)
    rest = q.sum(dim=-1)
    q.scatter_(-1, ids, kept)
    return rest


def _without(z: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
    """(positions, V) logits of some positions, without their tokens `ids`."""
    return z[positions].scatter(-1, ids[positions], -torch.inf)
