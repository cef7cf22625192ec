"""Forced prefixes: tokens that a decoder must write before it may choose.

Shapes: B utterances, L longest prefix.
"""

import numpy as np
import torch
from torch import Tensor

from kd_ray.core.contracts import Labels


class ForcedTokens:
    """Which token each row must write at each position."""

    def __init__(
        self, prefix: Labels | None, *, rows: int, vocabulary_size: int, device: torch.device
    ) -> None:
        """Nothing is forced where `prefix` is None.

        Raises:
            ValueError: not one prefix for each row, or an id outside the vocabulary.
        """
        self.longest = 0
        self.ids = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        if prefix is None:
            return
        if len(prefix.ids) != rows or len(prefix.lengths) != rows:
            raise ValueError(
                f"{rows} rows need as many forced prefixes, got {len(prefix.ids)} with "
                f"{len(prefix.lengths)} lengths"
            )
        for row, string in enumerate(prefix.strings()):
            if len(string) and not 0 <= int(string.min()) <= int(string.max()) < vocabulary_size:
                raise ValueError(
                    f"forced prefix of row {row}: ids must be below the vocabulary size "
                    f"{vocabulary_size}, got {string.tolist()}"
                )
        self.longest = int(prefix.lengths.max()) if rows else 0
        ids = np.ascontiguousarray(prefix.ids[:, : self.longest], dtype=np.int64)
        # Copies: contracts may hand out read-only arrays.
        self.ids = torch.tensor(ids, device=device)
        self.lengths = torch.tensor(np.asarray(prefix.lengths, dtype=np.int64), device=device)

    def at(self, position: int, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """(whether forced, to which token), each (R,), for these rows; None: no row any more."""
        if position >= self.longest:
            return None
        return self.lengths[rows] > position, self.ids[rows, position]
