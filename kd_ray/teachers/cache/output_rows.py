"""A teacher's output for one utterance, on its own: cut out of a batch, and laid into one again.

Shapes: B utterances, U target positions, V vocabulary, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.contracts import Labels, TeacherOutput, Written
from kd_ray.core.targets import FloatArray, IntArray
from kd_ray.teachers.rows import Output

ROW_OVERHEAD: Final = 704
"""Bytes of a row beside its arrays' data: objects, array headers, key, and place in the cache."""

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRow:
    """One row of a `TeacherOutput`, padding cut off; fields as there."""

    log_probs: FloatArray | None
    """(U, V), float32 or float16; None if they were not wanted."""
    positions: int
    string: IntArray | None
    """(L,), or None from a teacher without a CTC head."""
    frames: int
    ctc_errors: int
    decoder_errors: int
    reference_length: int
    confidence: float
    chrf_errors: int | None
    """None if they were not wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class WrittenRow:
    """One row of a `Written`."""

    string: IntArray
    mean_log_prob: float


Row: TypeAlias = ScoredRow | WrittenRow


def row_bytes(row: Row) -> int:
    """What a row takes in a cache: its arrays' data and `ROW_OVERHEAD`."""
    data = 0 if row.string is None else row.string.nbytes
    if isinstance(row, ScoredRow) and row.log_probs is not None:
        data += row.log_probs.nbytes
    return data + ROW_OVERHEAD


def own(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """A read-only copy that keeps no larger array alive."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def own_ids(ids: Sequence[int] | IntArray) -> NDArray[np.int32]:
    """A read-only copy of token ids, in int32."""
    copy = np.array(ids, dtype=np.int32)
    copy.flags.writeable = False
    return copy


def cut(output: Output, dtype: Literal["float32", "float16"] = "float32") -> list[Row]:
    """The rows of a batch, each with arrays of its own.

    Args:
        output: of one teacher.
        dtype: of log-probabilities; float16 rounds as fusing does with `Fusion.dtype` float16.
    """
    if isinstance(output, Written):
        means = output.mean_log_probs.tolist()
        pairs = zip(output.strings.strings(), means, strict=True)
        return [WrittenRow(own_ids(string), mean) for string, mean in pairs]
    positions = output.positions.tolist()
    rows = len(positions)
    strings = [own_ids(s) for s in output.strings] if output.strings else [None] * rows
    log_probs: list[FloatArray | None] = [None] * rows
    if output.log_probs is not None:
        log_probs = [
            _rounded(output.log_probs[row, :length], dtype) for row, length in enumerate(positions)
        ]
    chrf: list[int | None] = [None] * rows
    if output.chrf_errors is not None:
        chrf = output.chrf_errors.tolist()
    return [
        ScoredRow(*fields)
        for fields in zip(
            log_probs,
            positions,
            strings,
            output.frames.tolist(),
            output.ctc_errors.tolist(),
            output.decoder_errors.tolist(),
            output.reference_lengths.tolist(),
            output.confidence.tolist(),
            chrf,
            strict=True,
        )
    ]


def lay(rows: Sequence[Row], teacher: int) -> Output:
    """Rows of one teacher as a batch; `teacher` is its number in the pool that asks.

    Distributions come back in float32, zero in padding. Label strings are there if every row has
    one, and are left out otherwise: then nobody asked for them.

    Raises:
        ValueError: no row at all, scores beside strings, or distributions in some rows only.
    """
    written = [row for row in rows if isinstance(row, WrittenRow)]
    scored = [row for row in rows if isinstance(row, ScoredRow)]
    if not rows or (written and scored):
        raise ValueError(
            f"{len(scored)} scored and {len(written)} written rows do not make a batch"
        )
    if written:
        return Written(
            strings=Labels.of([row.string for row in written]),
            mean_log_probs=np.array([row.mean_log_prob for row in written], dtype=np.float32),
            teachers=np.full(len(written), teacher, dtype=np.int64),
        )
    strings = [row.string for row in scored if row.string is not None]
    chrf = [row.chrf_errors for row in scored if row.chrf_errors is not None]
    return TeacherOutput(
        teacher=teacher,
        log_probs=_log_probs(scored),
        positions=np.array([row.positions for row in scored], dtype=np.int64),
        strings=tuple(strings) if len(strings) == len(scored) else (),
        frames=np.array([row.frames for row in scored], dtype=np.int64),
        ctc_errors=np.array([row.ctc_errors for row in scored], dtype=np.int64),
        decoder_errors=np.array([row.decoder_errors for row in scored], dtype=np.int64),
        reference_lengths=np.array([row.reference_length for row in scored], dtype=np.int64),
        confidence=np.array([row.confidence for row in scored], dtype=np.float32),
        chrf_errors=np.array(chrf, dtype=np.int64) if len(chrf) == len(scored) else None,
    )


def _log_probs(rows: Sequence[ScoredRow]) -> FloatArray | None:
    """(B, U, V) float32, zero in padding."""
    pieces = [row.log_probs for row in rows if row.log_probs is not None]
    if not pieces:
        return None
    if len(pieces) < len(rows):
        raise ValueError(f"{len(pieces)} of {len(rows)} rows have distributions, not all")
    return pad(pieces, np.dtype(np.float32))


def pad(pieces: Sequence[NDArray[np.generic]], dtype: np.dtype[_Scalar]) -> NDArray[_Scalar]:
    """Arrays (U_i, ...) as one (B, U, ...) of `dtype`, zero behind each."""
    longest = max(len(piece) for piece in pieces)
    padded = np.zeros((len(pieces), longest, *pieces[0].shape[1:]), dtype=dtype)
    for row, piece in enumerate(pieces):
        padded[row, : len(piece)] = piece
    return padded


def _rounded(log_probs: FloatArray, dtype: Literal["float32", "float16"]) -> FloatArray:
    # Beyond float16 lies minus infinity, a probability of zero, as in fusing.
    with np.errstate(over="ignore"):
        rounded: FloatArray = np.array(log_probs, dtype=dtype, order="C")
    rounded.flags.writeable = False
    return rounded
