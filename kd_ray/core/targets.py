"""What losses read: distributions over tokens, and weighted label strings.

Shapes: B utterances, U target positions, V vocabulary, K kept tokens, S label strings, L labels.
numpy throughout: targets travel between processes; torch starts inside the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class TokenTarget:
    """One distribution over the vocabulary for each position.

    Dense: `log_probs` is (B, U, V) and `ids`, `log_tail` are None. Sparse: `log_probs` is
    (B, U, K) for the tokens `ids` (B, U, K), and `log_tail` (B, U) is the log of the mass of all
    other tokens. Positions at or beyond `lengths` (B,) hold anything and count for nothing.
    """

    log_probs: FloatArray
    lengths: IntArray
    ids: IntArray | None = None
    log_tail: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class LabelStrings:
    """Weighted label strings, for CTC.

    `labels` (S, L) padded with anything, `lengths` (S,), `utterance` (S,) the row of the batch
    that the string belongs to, ascending; `weights` (S,). `dropped_weight` (B,) is what
    `max_strings` cut off.
    """

    labels: IntArray
    lengths: IntArray
    utterance: IntArray
    weights: FloatArray
    dropped_weight: FloatArray


def pad_labels(strings: Sequence[Sequence[int] | IntArray]) -> tuple[IntArray, IntArray]:
    """Lay strings into a (len(strings), longest) int64 array padded with 0; also their lengths."""
    lengths = np.array([len(string) for string in strings], dtype=np.int64)
    padded = np.zeros((len(strings), int(lengths.max(initial=0))), dtype=np.int64)
    for row, string in enumerate(strings):
        padded[row, : len(string)] = string
    return padded, lengths


def truncate(target: TokenTarget, k: int) -> TokenTarget:
    """Keep the `k` likeliest tokens of each position, heaviest first, and the mass of the rest.

    Truncate after fusing: the k likeliest tokens of a mixture are not those of its parts. A target
    that has at most `k` tokens per position, or is sparse already, is refused or returned as is.

    Args:
        target: dense, (B, U, V).
        k: tokens to keep, at least 1.

    Raises:
        ValueError: if `target` is sparse or `k` is below 1.
    """
    if target.ids is not None:
        raise ValueError("truncate needs a dense target (B, U, V); this one is sparse already")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    log_probs = target.log_probs
    k = min(k, log_probs.shape[-1])
    keep = np.arange(log_probs.shape[1]) < target.lengths[:, None]
    log_probs = np.where(keep[..., None], log_probs, 0.0).astype(log_probs.dtype)
    order = np.argsort(-log_probs, axis=-1, kind="stable")
    kept = np.take_along_axis(log_probs, order[..., :k], axis=-1)
    rest = np.take_along_axis(log_probs, order[..., k:], axis=-1)
    # The sum of what is left, not 1 minus what is kept: exact however small the tail is.
    with np.errstate(divide="ignore"):
        log_tail = np.log(np.exp(rest, dtype=np.float64).sum(axis=-1)).astype(log_probs.dtype)
    return TokenTarget(kept, target.lengths, order[..., :k], log_tail)
