"""The teacher-forced loop of the GRU decoder, with its gradient written by hand.

Shapes: U steps (prefix + end of sentence), B utterances, T encoder frames, E encoder features,
H decoder units, A attention size, K width of the location kernel.

Autograd through the loop would keep about forty nodes a step and form every weight's gradient once
a step. Here the steps keep what they need in large buffers, and the products that do not depend
on the next step are formed once. `LocationAttentionDecoder.step` defines the same mathematics for
decoding; the tests hold the two together.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class LoopInputs(NamedTuple):
    """What the loop reads.

    `token_gates` (U, B, 3H); `values` (B, T, E); `keys` (B, T, A); `barrier` (B, T): 0 on own
    frames, -inf in the padding; `first` (B, T): alignment before the first step; the weights
    `context_gates` (3H, E), `hidden_gates` (3H, H), `hidden_bias` (3H,), `query` (A, H),
    `location` (A, K) with odd K, `score` (A,).
    """

    token_gates: Tensor
    values: Tensor
    keys: Tensor
    barrier: Tensor
    first: Tensor
    context_gates: Tensor
    hidden_gates: Tensor
    hidden_bias: Tensor
    query: Tensor
    location: Tensor
    score: Tensor


def attention_loop(inputs: LoopInputs) -> tuple[Tensor, Tensor]:
    """Hidden states (U, B, H) and contexts (U, B, E) after each step."""
    hidden, contexts = _AttentionLoop.apply(*inputs)
    return hidden, contexts


def _windows(padded: Tensor, width: int) -> Tensor:
    """(B, T + K - 1) contiguous -> (B, T, K) view: what the location kernel sees at each frame."""
    rows, total = padded.shape
    return padded.as_strided((rows, total - width + 1, width), (total, 1, 1))


def _sum_windows(grads: Tensor) -> Tensor:
    """The adjoint of `_windows`, cut to the T frames inside: (B, T, K) -> (B, T).

    Frame s collects grads[t, k] with t + k = s + K // 2: a skewed view of a padded copy, with the
    kernel axis turned round so that its stride is positive.
    """
    rows, frames, width = grads.shape
    half = width // 2
    padded = F.pad(grads.flip(2), (0, 0, half, half))
    total = padded.stride(0)
    return padded.as_strided((rows, frames, width), (total, width, width + 1)).sum(2)


class _AttentionLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        x = LoopInputs(*tensors)
        steps, rows, _ = x.token_gates.shape
        frames, features = x.values.shape[1:]
        size, width = x.query.shape[1], x.location.shape[1]
        half = width // 2
        new = x.values.new_empty
        hidden, contexts = new(steps, rows, size), new(steps, rows, features)
        gates, candidates = new(steps, rows, 2 * size), new(steps, rows, size)
        hidden_parts = torch.empty_like(candidates)
        activations = new(steps, rows * frames, x.keys.shape[2])
        # alignments[u] is what step u reads, with the location kernel's margins.
        alignments = x.values.new_zeros(steps + 1, rows, frames + width - 1)
        alignments[0, :, half : half + frames] = x.first
        flat_keys = x.keys.reshape(rows * frames, -1)
        location, query = x.location.t(), x.query.t()
        by_context, by_hidden = x.context_gates.t(), x.hidden_gates.t()
        state = x.values.new_zeros(rows, size)
        context = x.values.new_zeros(rows, features)
        for u in range(steps):
            read = torch.addmm(x.token_gates[u], context, by_context)
            recurrent = torch.addmm(x.hidden_bias, state, by_hidden)
            gate = torch.add(read[:, : 2 * size], recurrent[:, : 2 * size]).sigmoid_()
            part = recurrent[:, 2 * size :]
            candidate = torch.addcmul(read[:, 2 * size :], gate[:, :size], part).tanh_()
            state = torch.lerp(candidate, state, gate[:, size:])
            gates[u], candidates[u], hidden_parts[u], hidden[u] = gate, candidate, part, state

            windows = _windows(alignments[u], width).reshape(rows * frames, width)
            activation = torch.addmm(flat_keys, windows, location, out=activations[u])
            activation.view(rows, frames, -1).add_((state @ query).unsqueeze(1))
            scores = torch.mv(activation.sigmoid_(), x.score).view(rows, frames)
            alignment = torch.softmax(scores.add_(x.barrier), dim=1)
            alignments[u + 1, :, half : half + frames] = alignment
            context = torch.bmm(alignment.unsqueeze(1), x.values).squeeze(1)
            contexts[u] = context
        ctx.save_for_backward(
            *tensors, hidden, contexts, gates, candidates, hidden_parts, activations, alignments
        )
        return hidden, contexts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_contexts: Tensor) -> tuple[Tensor | None, ...]:
        x = LoopInputs(*ctx.saved_tensors[: len(LoopInputs._fields)])
        hidden, contexts, gates, candidates, hidden_parts, activations, alignments = (
            ctx.saved_tensors[len(LoopInputs._fields) :]
        )
        steps, rows, size = hidden.shape
        frames, width = x.values.shape[1], x.location.shape[1]
        own = slice(width // 2, width // 2 + frames)

        # Derivative of each gate's pre-activation by the new state, for all steps at once.
        reset, update = gates[..., :size], gates[..., size:]
        keep = 1 - update
        before = F.pad(hidden[:-1], (0, 0, 0, 0, 1, 0))
        by_candidate = keep * (1 - candidates * candidates)
        slopes = torch.stack(
            [
                by_candidate * hidden_parts * reset * (1 - reset),
                (before - candidates) * update * keep,
                by_candidate * reset,
            ],
            dim=2,
        )
        grad_recurrent = slopes.view(steps, rows, 3 * size)  # overwritten step by step
        grad_read = torch.empty_like(grad_recurrent)
        grad_queries = x.values.new_empty(steps, rows, len(x.query))
        context_grads = torch.empty_like(contexts)
        grad_keys = torch.zeros_like(x.keys).view(rows * frames, -1)
        grad_location, grad_score = torch.zeros_like(x.location), torch.zeros_like(x.score)
        carried_state = x.values.new_zeros(rows, size)
        carried_context = torch.zeros_like(contexts[0])
        carried_alignment = x.values.new_zeros(rows, frames)
        for u in range(steps - 1, -1, -1):
            # context = alignment . values;  alignment = softmax(scores)
            grad_context = torch.add(grad_contexts[u], carried_context, out=context_grads[u])
            grad_alignment = torch.bmm(x.values, grad_context.unsqueeze(2)).squeeze(2)
            grad_alignment += carried_alignment
            alignment = alignments[u + 1, :, own]
            weighted = alignment * grad_alignment
            grad_scores = (weighted - alignment * weighted.sum(1, keepdim=True)).view(-1)

            # scores = score . sigmoid(keys + query + location)
            activation = activations[u]
            grad_score.addmv_(activation.t(), grad_scores)
            grad_energy = torch.addcmul(activation, activation, activation, value=-1)
            grad_energy.mul_(x.score).mul_(grad_scores.unsqueeze(1))
            grad_keys += grad_energy
            windows = _windows(alignments[u], width).reshape(rows * frames, width)
            grad_location.addmm_(grad_energy.t(), windows)
            grad_windows = (grad_energy @ x.location).view(rows, frames, width)
            carried_alignment = _sum_windows(grad_windows)
            grad_query = grad_energy.view(rows, frames, -1).sum(1)
            grad_queries[u] = grad_query

            # hidden = GRU(token, context, hidden)
            grad_state = torch.addmm(grad_hidden[u] + carried_state, grad_query, x.query)
            slopes[u].mul_(grad_state.unsqueeze(1))
            grad_read[u] = grad_recurrent[u]
            torch.mul(by_candidate[u], grad_state, out=grad_read[u, :, 2 * size :])
            carried_state = torch.addmm(grad_state * update[u], grad_recurrent[u], x.hidden_gates)
            carried_context = grad_read[u] @ x.context_gates

        grad_values = torch.bmm(
            alignments[1:, :, own].permute(1, 2, 0), context_grads.transpose(0, 1)
        )
        return (
            grad_read,
            grad_values,
            grad_keys.view_as(x.keys),
            None,
            None,
            _outer(grad_read[1:], contexts[:-1]),
            _outer(grad_recurrent[1:], hidden[:-1]),
            grad_recurrent.sum((0, 1)),
            _outer(grad_queries, hidden),
            grad_location,
            grad_score,
        )


def _outer(grads: Tensor, inputs: Tensor) -> Tensor:
    """Weight gradient of a linear map over all steps and rows: (U, B, O), (U, B, I) -> (O, I)."""
    return grads.flatten(0, 1).t() @ inputs.flatten(0, 1)
