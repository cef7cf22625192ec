"""Multi-head attention (Vaswani et al. 2017, sec. 3.2), whole sequences at once or step by step.

Shapes: B rows, L queries, T keys, H features, h heads, D = H / h; R decoder rows, U encoder
memories.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.models.dropout import dropout


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    drop: float = 0.0,
) -> Tensor:
    """softmax(Q K' / sqrt(D)) V: (B, h, L, D), (B, h, T, D), (B, h, T, D) -> (B, h, L, D).

    Args:
        query: (B, h, L, D).
        keys: (B, h, T, D).
        values: (B, h, T, D).
        mask: true where a key may be seen, broadcast to (B, h, L, T).
        causal: query l sees keys 0..l only (L = T).
        drop: probability that an attention weight becomes zero; 0 outside of training.
    """
    if drop == 0 or query.is_cuda:
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, dropout_p=drop, is_causal=causal
        )
    # torch's own dropout draws a float for each weight, which costs more than the products.
    scores = query @ keys.transpose(2, 3) * query.shape[3] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return dropout(torch.softmax(scores, dim=3), drop, training=True) @ values


def split_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """(B, L, parts * H) -> (parts, B, h, L, D)."""
    rows, length, size = x.shape
    return x.view(rows, length, parts, heads, size // (parts * heads)).permute(2, 0, 3, 1, 4)


def join_heads(x: Tensor) -> Tensor:
    """(B, h, L, D) -> (B, L, H)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """A sequence looks at itself."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.projection = nn.Linear(size, 3 * size)
        """Queries, keys and values, in this order."""
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, T, H) -> (B, T, H); `mask` and `causal` as in `attend`."""
        query, keys, values = split_heads(self.projection(x), 3, self.heads)
        drop = self.dropout if self.training else 0.0
        seen = attend(query, keys, values, mask=mask, causal=causal, drop=drop)
        out: Tensor = self.output(join_heads(seen))
        return out

    def step(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """The newest token (R, 1, H); its key and value go to `position` of the cache.

        `cache` (2, R, h, C, D) holds keys and values of the tokens before.
        """
        query, keys, values = split_heads(self.projection(x), 3, self.heads)
        cache[0, :, :, position] = keys[:, :, 0]
        cache[1, :, :, position] = values[:, :, 0]
        drop = self.dropout if self.training else 0.0
        known = cache[:, :, :, : position + 1]
        out: Tensor = self.output(join_heads(attend(query, known[0], known[1], drop=drop)))
        return out


class CrossAttention(nn.Module):
    """A sequence looks at another one, whose keys and values are made once."""

    def __init__(self, size: int, heads: int, memory_size: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(size, size)
        self.memory_projection = nn.Linear(memory_size, 2 * size)
        """Keys and values, in this order."""
        self.output = nn.Linear(size, size)

    def memory(self, states: Tensor) -> Tensor:
        """Encoder states (U, T, H_e) -> keys and values (2, U, h, T, D)."""
        return split_heads(self.memory_projection(states), 2, self.heads)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(U, L, H) and `memory(...)` -> (U, L, H); `mask` (U, 1, 1, T) is true on own states."""
        (query,) = split_heads(self.query(x), 1, self.heads)
        drop = self.dropout if self.training else 0.0
        seen = attend(query, memory[0], memory[1], mask=mask, drop=drop)
        out: Tensor = self.output(join_heads(seen))
        return out
