"""One utterance of a fused target, on its own: cut out of a batch, and laid into one again.

Shapes: N teachers, B utterances, U target positions, V vocabulary, K kept tokens, S label strings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.strategies import Fusing
from kd_ray.core.strategies import FusedTargets
from kd_ray.core.targets import FloatArray, IntArray, LabelStrings, TokenTarget
from kd_ray.teachers.cache.output_rows import own, own_ids, pad

FUSED_OVERHEAD: Final = 1408
"""Bytes of a row beside its arrays' data: objects, array headers, key, and place in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenRow:
    """One row of a `TokenTarget`, padding cut off."""

    log_probs: FloatArray
    """(U, V), or (U, K) where sparse."""
    ids: NDArray[np.int32] | None
    """(U, K), where sparse."""
    log_tail: FloatArray | None
    """(U,), where sparse."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelRow:
    """The label strings of one utterance."""

    labels: NDArray[np.int32]
    """End to end."""
    lengths: NDArray[np.int32]
    """(S,)"""
    weights: FloatArray
    """(S,)"""
    dropped_weight: float


@dataclass(frozen=True, slots=True, eq=False)
class FusedRow:
    """One utterance of `FusedTargets`; (N,) are its columns of the (N, B) tables there."""

    tokens: TokenRow | None
    labels: LabelRow | None
    weights_tokens: FloatArray
    weights_labels: FloatArray
    """The very object that `weights_tokens` is, where both heads are weighed alike."""
    ctc_errors: NDArray[np.int32]
    decoder_errors: NDArray[np.int32]
    reference_length: int
    chrf_errors: NDArray[np.int32] | None
    """None if they were not wanted."""


def fused_bytes(row: FusedRow) -> int:
    """What a row takes in a cache: its arrays' data and `FUSED_OVERHEAD`."""
    arrays: list[NDArray[Any] | None] = [row.weights_tokens, row.ctc_errors, row.decoder_errors]
    arrays.append(row.chrf_errors)
    if row.weights_labels is not row.weights_tokens:
        arrays.append(row.weights_labels)
    if row.tokens is not None:
        arrays += [row.tokens.log_probs, row.tokens.ids, row.tokens.log_tail]
    if row.labels is not None:
        arrays += [row.labels.labels, row.labels.lengths, row.labels.weights]
    return sum(array.nbytes for array in arrays if array is not None) + FUSED_OVERHEAD


def cut_fused(targets: FusedTargets) -> list[FusedRow]:
    """The rows of a batch, each with arrays of its own."""
    rows = []
    alike = (targets.weights_tokens == targets.weights_labels).all(axis=0).tolist()
    for row, reference_length in enumerate(targets.reference_lengths.tolist()):
        weights = own(targets.weights_tokens[:, row])
        rows.append(
            FusedRow(
                tokens=None if targets.tokens is None else _cut_tokens(targets.tokens, row),
                labels=None if targets.labels is None else _cut_labels(targets.labels, row),
                weights_tokens=weights,
                weights_labels=weights if alike[row] else own(targets.weights_labels[:, row]),
                ctc_errors=own_ids(targets.ctc_errors[:, row]),
                decoder_errors=own_ids(targets.decoder_errors[:, row]),
                reference_length=reference_length,
                chrf_errors=(
                    None if targets.chrf_errors is None else own_ids(targets.chrf_errors[:, row])
                ),
            )
        )
    return rows


def lay_fused(
    rows: Sequence[FusedRow], *, answered: tuple[int, ...], fusing: Fusing
) -> FusedTargets:
    """Rows of one fusion of the same teachers as a batch: what `cut_fused` took apart.

    Distributions are zero in padding. Label strings are there if every row has some, and are left
    out otherwise: then nobody asked for them.

    Args:
        rows: at least one.
        answered: the teachers that all rows are made of.
        fusing: what token targets are over several teachers.

    Raises:
        ValueError: no row at all, or rows of different teachers or kinds of target.
    """
    _check_alike(rows)
    tokens = [row.tokens for row in rows if row.tokens is not None]
    labels = [row.labels for row in rows if row.labels is not None]
    labelled = len(labels) == len(rows)
    chrf = [row.chrf_errors for row in rows if row.chrf_errors is not None]
    weights_labels = np.stack([row.weights_labels for row in rows], axis=1)
    return FusedTargets(
        tokens=_lay_tokens(tokens) if tokens else None,
        labels=_lay_labels(labels) if labelled else None,
        weights_tokens=np.stack([row.weights_tokens for row in rows], axis=1),
        weights_labels=weights_labels if labelled else np.zeros_like(weights_labels),
        ctc_errors=np.stack([row.ctc_errors for row in rows], axis=1).astype(np.int64),
        decoder_errors=np.stack([row.decoder_errors for row in rows], axis=1).astype(np.int64),
        chrf_errors=np.stack(chrf, axis=1).astype(np.int64) if len(chrf) == len(rows) else None,
        reference_lengths=np.array([row.reference_length for row in rows], dtype=np.int64),
        answered=answered,
        num_teachers=len(rows[0].weights_tokens),
        fusing=fusing,
    )


def _cut_tokens(target: TokenTarget, row: int) -> TokenRow:
    valid = slice(int(target.lengths[row]))
    return TokenRow(
        log_probs=own(target.log_probs[row, valid]),
        ids=None if target.ids is None else own_ids(target.ids[row, valid]),
        log_tail=None if target.log_tail is None else own(target.log_tail[row, valid]),
    )


def _lay_tokens(rows: Sequence[TokenRow]) -> TokenTarget:
    ids = [row.ids for row in rows if row.ids is not None]
    tails = [row.log_tail for row in rows if row.log_tail is not None]
    return TokenTarget(
        log_probs=pad([row.log_probs for row in rows], rows[0].log_probs.dtype),
        lengths=np.array([len(row.log_probs) for row in rows], dtype=np.int64),
        ids=pad(ids, np.dtype(np.int32)) if ids else None,
        log_tail=pad(tails, tails[0].dtype) if tails else None,
    )


def _cut_labels(strings: LabelStrings, row: int) -> LabelRow:
    start, stop = np.searchsorted(strings.utterance, [row, row + 1]).tolist()
    labels, lengths = strings.labels[start:stop], strings.lengths[start:stop]
    return LabelRow(
        labels=own_ids(labels[_valid(lengths, labels.shape[1])]),
        lengths=own_ids(lengths),
        weights=own(strings.weights[start:stop]),
        dropped_weight=float(strings.dropped_weight[row]),
    )


def _lay_labels(rows: Sequence[LabelRow]) -> LabelStrings:
    lengths = np.concatenate([row.lengths for row in rows]).astype(np.int64)
    longest = int(lengths.max(initial=0))
    labels = np.zeros((len(lengths), longest), dtype=np.int64)
    labels[_valid(lengths, longest)] = np.concatenate([row.labels for row in rows])
    counts = [len(row.lengths) for row in rows]
    return LabelStrings(
        labels=labels,
        lengths=lengths,
        utterance=np.repeat(np.arange(len(rows), dtype=np.int64), counts),
        weights=np.concatenate([row.weights for row in rows]),
        dropped_weight=np.array([row.dropped_weight for row in rows], dtype=np.float64),
    )


def _valid(lengths: IntArray, longest: int) -> NDArray[np.bool_]:
    """(S, longest) true within each string."""
    return np.asarray(np.arange(longest) < lengths[:, None])


def _check_alike(rows: Sequence[FusedRow]) -> None:
    if not rows:
        raise ValueError("no row to make a fused target of")
    kinds = {
        (
            len(row.weights_tokens),
            row.tokens is None,
            row.tokens is not None and row.tokens.ids is not None,
            None if row.tokens is None else row.tokens.log_probs.shape[1:],
        )
        for row in rows
    }
    if len(kinds) > 1:
        raise ValueError(
            "rows of different teachers or kinds of target do not make a batch: (teachers, without "
            f"tokens, sparse, tokens a position) are {sorted(kinds, key=repr)}"
        )
