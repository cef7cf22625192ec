"""Multi-head attention (Vaswani et al. 2017, sec. 3.2), whole sequences at once or step by step.

Shapes: B rows, L queries, T keys, H features, h heads, D = H / h; R decoder rows, U encoder
memories.
"""

import torch.nn.functional as F
from torch import Tensor, nn


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
        """(B, T, H) -> (B, T, H).

        `mask`, broadcast to (B, h, T, T), is true where a state may be seen; `causal`: each sees
        itself and those before it.
        """
        query, keys, values = split_heads(self.projection(x), 3, self.heads)
        drop = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, dropout_p=drop, is_causal=causal
        )
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
        seen = F.scaled_dot_product_attention(query, known[0], known[1], dropout_p=drop)
        out: Tensor = self.output(join_heads(seen))
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
        seen = F.scaled_dot_product_attention(
            query, memory[0], memory[1], attn_mask=mask, dropout_p=drop
        )
        out: Tensor = self.output(join_heads(seen))
        return out
