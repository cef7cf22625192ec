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
    (B, U, K) for the tokens `ids` (B, U, K), heaviest first, and `log_tail` (B, U) is the log of
    the mass of all other tokens. Positions at or beyond `lengths` (B,) hold anything and count for
    nothing.
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
    valid = np.arange(log_probs.shape[1]) < target.lengths[:, None]
    log_probs = np.where(valid[..., None], log_probs, 0.0).astype(log_probs.dtype)
    keep = k_likeliest(log_probs, k)
    ids = np.nonzero(keep)[-1].reshape(*log_probs.shape[:2], k)
    kept = np.take_along_axis(log_probs, ids, axis=-1)
    order = np.argsort(-kept, axis=-1, kind="stable")
    # The sum of what is left, not 1 minus what is kept: exact however small the tail is.
    rest = np.where(keep, -np.inf, log_probs)
    with np.errstate(divide="ignore"):
        log_tail = np.log(np.exp(rest, dtype=np.float64).sum(axis=-1)).astype(log_probs.dtype)
    return TokenTarget(
        np.take_along_axis(kept, order, axis=-1),
        target.lengths,
        np.take_along_axis(ids, order, axis=-1).astype(np.int32),
        log_tail,
    )


def k_likeliest(log_probs: FloatArray, k: int) -> NDArray[np.bool_]:
    """(B, U, V) true at the k largest of each position; of equal ones the lowest ids."""
    # A partition, not a sort, which takes many times as long for a large vocabulary.
    threshold = -np.partition(-log_probs, k - 1, axis=-1)[..., k - 1 : k]
    above, equal = log_probs > threshold, log_probs == threshold
    wanted = k - above.sum(axis=-1, keepdims=True)
    if (equal.sum(axis=-1, keepdims=True) == wanted).all():
        return np.asarray(above | equal)
    return np.asarray(above | (equal & (np.cumsum(equal, axis=-1) <= wanted)))


def renormalise_top_k(target: TokenTarget, k: int) -> TokenTarget:
    """The `k` likeliest tokens of each position, heaviest first, as a distribution of their own.

    Their probabilities are divided by their sum, and nothing is left for other tokens (log tail
    minus infinity). A sparse target must keep at least `k` tokens, heaviest first.

    Raises:
        ValueError: if `k` is below 1, or a sparse target keeps fewer tokens.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if target.ids is None:
        target = truncate(target, k)
    elif target.ids.shape[-1] < k:
        raise ValueError(
            f"top_k is {k}, but the signal keeps only {target.ids.shape[-1]} tokens a position; "
            "store more of them (`top_k` of infer-teachers), or learn fewer"
        )
    assert target.ids is not None
    valid = np.arange(target.log_probs.shape[1]) < target.lengths[:, None]
    kept = np.where(valid[..., None], target.log_probs[..., :k], 0.0).astype(np.float64)
    highest = kept.max(axis=-1, keepdims=True, initial=-np.inf)
    total = highest + np.log(np.exp(kept - highest).sum(axis=-1, keepdims=True))
    log_probs = (kept - total).astype(target.log_probs.dtype)
    tail = np.full(log_probs.shape[:2], -np.inf, dtype=log_probs.dtype)
    return TokenTarget(log_probs, target.lengths, target.ids[..., :k], tail)


def likeliest(target: TokenTarget) -> IntArray:
    """(B, U) the likeliest token of each position, the lowest id among equals; 0 in padding."""
    valid = np.arange(target.log_probs.shape[1]) < target.lengths[:, None]
    log_probs = np.where(valid[..., None], target.log_probs, 0.0)
    best = log_probs.argmax(axis=-1)
    if target.ids is not None:
        best = np.take_along_axis(target.ids, best[..., None], axis=-1)[..., 0]
    return np.where(valid, best, 0)


def take_rows(target: TokenTarget, rows: IntArray) -> TokenTarget:
    """Some rows of a target."""
    return TokenTarget(
        target.log_probs[rows],
        target.lengths[rows],
        None if target.ids is None else target.ids[rows],
        None if target.log_tail is None else target.log_tail[rows],
    )
