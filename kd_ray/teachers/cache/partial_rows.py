"""One utterance of a partial, on its own: cut out of a batch, and laid into one again.

Shapes: M teachers of the partial, K of them kept apart, B utterances, U target positions,
V vocabulary, S label strings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.contracts import Fusion
from kd_ray.core.partials import Partial
from kd_ray.core.targets import FloatArray, IntArray
from kd_ray.teachers.cache.output_rows import own, own_ids, pad

PARTIAL_OVERHEAD: Final = 1536
"""Bytes of a row beside its arrays' data: objects, array headers, key, and place in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceRow:
    """The label strings of one utterance, and who wrote which."""

    labels: NDArray[np.int32]
    """End to end."""
    lengths: NDArray[np.int32]
    """(S,)"""
    choice: NDArray[np.int32]
    """(M,)"""


@dataclass(frozen=True, slots=True, eq=False)
class PartialRow:
    """One utterance of a `Partial`; (M,) are its columns of the (M, B) tables there."""

    probabilities: FloatArray | None
    """(U, V), or (K, U, V) where the best teachers are kept apart; None if nobody sent any."""
    kept: NDArray[np.int32] | None
    """(K,) where the best teachers are kept apart."""
    strings: ChoiceRow | None
    ctc_errors: NDArray[np.int32]
    decoder_errors: NDArray[np.int32]
    confidence: FloatArray
    chrf_errors: NDArray[np.int32] | None
    """None if they were not wanted."""
    reference_length: int
    positions: int


def partial_bytes(row: PartialRow) -> int:
    """What a row takes in a cache: its arrays' data and `PARTIAL_OVERHEAD`."""
    arrays: list[NDArray[Any] | None] = [
        row.probabilities,
        row.kept,
        row.ctc_errors,
        row.decoder_errors,
        row.confidence,
        row.chrf_errors,
    ]
    if row.strings is not None:
        arrays += [row.strings.labels, row.strings.lengths, row.strings.choice]
    return sum(array.nbytes for array in arrays if array is not None) + PARTIAL_OVERHEAD


def cut_partial(partial: Partial) -> list[PartialRow]:
    """The rows of a batch, each with arrays of its own."""
    ends = np.cumsum(partial.label_lengths)[:-1]
    table = np.split(partial.label_ids, ends) if len(partial.label_lengths) else []
    rows = []
    for row, positions in enumerate(partial.positions.tolist()):
        probabilities = None
        if partial.probabilities is not None:
            probabilities = own(partial.probabilities[..., row, :positions, :])
        chrf = partial.chrf_errors
        rows.append(
            PartialRow(
                probabilities=probabilities,
                kept=None if partial.kept is None else own_ids(partial.kept[:, row]),
                strings=None if partial.choice is None else _strings(table, partial.choice[:, row]),
                ctc_errors=own_ids(partial.ctc_errors[:, row]),
                decoder_errors=own_ids(partial.decoder_errors[:, row]),
                confidence=own(partial.confidence[:, row]),
                chrf_errors=None if chrf is None else own_ids(chrf[:, row]),
                reference_length=int(partial.reference_lengths[row]),
                positions=positions,
            )
        )
    return rows


def lay_partial(
    rows: Sequence[PartialRow], *, fusion: Fusion, num_teachers: int, teachers: Sequence[int]
) -> Partial:
    """Rows of one fusion of the same teachers as a batch: what `cut_partial` took apart.

    Label strings and chrF are there if every row has some, and are left out otherwise: then
    nobody asked for them.

    Args:
        rows: at least one.
        fusion: that all were made by.
        num_teachers: of the run.
        teachers: (M,) ascending indices, as the job counts them.

    Raises:
        ValueError: no row at all, or rows of other teachers or kinds.
    """
    _check_alike(rows, len(teachers))
    numbers: IntArray = np.array(teachers, dtype=np.int64)
    probabilities, kept = _lay_probabilities(rows, numbers)
    strings = [row.strings for row in rows if row.strings is not None]
    label_ids, label_lengths, choice = _lay_strings(strings if len(strings) == len(rows) else [])
    chrf = [row.chrf_errors for row in rows if row.chrf_errors is not None]
    return Partial(
        fusion=fusion,
        num_teachers=num_teachers,
        teachers=numbers,
        ctc_errors=np.stack([row.ctc_errors for row in rows], axis=1).astype(np.int64),
        decoder_errors=np.stack([row.decoder_errors for row in rows], axis=1).astype(np.int64),
        confidence=np.stack([row.confidence for row in rows], axis=1),
        reference_lengths=np.array([row.reference_length for row in rows], dtype=np.int64),
        positions=np.array([row.positions for row in rows], dtype=np.int64),
        probabilities=probabilities,
        kept=kept,
        label_ids=label_ids,
        label_lengths=label_lengths,
        choice=choice,
        chrf_errors=np.stack(chrf, axis=1).astype(np.int64) if len(chrf) == len(rows) else None,
    )


def _strings(table: Sequence[IntArray], choice: IntArray) -> ChoiceRow:
    wrote, places = np.unique(choice, return_inverse=True)
    strings = [table[index] for index in wrote.tolist()]
    return ChoiceRow(
        labels=own_ids(np.concatenate(strings)),
        lengths=own_ids([len(string) for string in strings]),
        choice=own_ids(places.reshape(-1)),
    )


def _lay_strings(rows: Sequence[ChoiceRow]) -> tuple[IntArray, IntArray, IntArray | None]:
    """Distinct strings end to end, their lengths, and who wrote which, (M, B)."""
    if not rows:
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64), None
    table: dict[bytes, int] = {}
    columns = []
    for row in rows:
        ends = np.cumsum(row.lengths)[:-1]
        keys = [string.tobytes() for string in np.split(row.labels, ends)]
        places = np.array([table.setdefault(key, len(table)) for key in keys], dtype=np.int64)
        columns.append(places[row.choice])
    width = np.dtype(np.int32).itemsize
    lengths = np.array([len(key) // width for key in table], dtype=np.int64)
    return np.frombuffer(b"".join(table), dtype=np.int32), lengths, np.stack(columns, axis=1)


def _lay_probabilities(
    rows: Sequence[PartialRow], teachers: IntArray
) -> tuple[FloatArray | None, IntArray | None]:
    """(B, U, V), or (K, B, U, V) with the teachers kept apart, (K, B); zero in padding."""
    pieces = [row.probabilities for row in rows if row.probabilities is not None]
    if not pieces:
        return None, None
    kept = [row.kept for row in rows if row.kept is not None]
    if not kept:
        return pad(pieces, np.dtype(np.float32)), None
    # Batches keep as many as their utterances need at most. What fills a row up has no weight.
    most = max(len(each) for each in kept)
    numbers = np.stack(
        [np.concatenate([each, np.setdiff1d(teachers, each)[: most - len(each)]]) for each in kept],
        axis=1,
    )
    slots = [
        pad(
            [piece[slot] if slot < len(piece) else np.zeros_like(piece[0]) for piece in pieces],
            np.dtype(np.float32),
        )
        for slot in range(most)
    ]
    return np.stack(slots), numbers.astype(np.int64)


def _check_alike(rows: Sequence[PartialRow], teachers: int) -> None:
    if not rows:
        raise ValueError("no row to make a partial of")
    kinds = {
        (
            len(row.ctc_errors),
            row.probabilities is None,
            row.kept is None,
            None if row.probabilities is None else row.probabilities.shape[-1],
        )
        for row in rows
    }
    if len(kinds) > 1 or next(iter(kinds))[0] != teachers:
        raise ValueError(
            f"rows of different teachers or kinds do not make a batch of {teachers} teachers: "
            "(teachers, without distributions, none kept apart, vocabulary) are "
            f"{sorted(kinds, key=repr)}"
        )
