"""What the cache would take, before anything is computed."""

from dataclasses import dataclass
from typing import Final, Literal

from kd_ray.teachers.cache.fused_rows import FUSED_OVERHEAD
from kd_ray.teachers.cache.output_rows import ROW_OVERHEAD

_WIDTH: Final = {"float32": 4, "float16": 2}
_ID: Final = 4
_WEIGHT: Final = 8


@dataclass(frozen=True)
class LevelEstimate:
    """Bytes in memory of one level, overhead included."""

    bytes_per_utterance: int
    total_bytes: int


@dataclass(frozen=True)
class CacheEstimate:
    """Bytes of both levels, each by itself."""

    outputs: LevelEstimate
    """All teachers' rows (`OutputCache`)."""
    fused: LevelEstimate
    """One fused row (`FusedCache`)."""


def estimate_cache(
    *,
    utterances: int,
    positions: float,
    vocabulary_size: int,
    teachers: int,
    labels: float | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    top_k: int | None = None,
    strings: float | None = None,
) -> CacheEstimate:
    """How many bytes the rows of a data set take if each is asked for in one way.

    Another prefix, view or reference is another row: rollouts, and views with a new seed in each
    epoch, take as much again each time, until the bound.

    Args:
        utterances: of the data set.
        positions: mean number of decoder positions of an utterance (target length + 1).
        vocabulary_size: tokens.
        teachers: of the pool.
        labels: mean length of a label string; None: as the target, 0: teachers have no CTC head.
        dtype: of teachers' distributions (`OutputCache`); fused ones are float32.
        top_k: of fused distributions; None: dense.
        strings: mean number of distinct label strings in a fused row; None: one for each teacher.
    """
    length = max(0.0, positions - 1) if labels is None else labels
    tokens = positions * vocabulary_size * _WIDTH[dtype]
    output = tokens + length * _ID + ROW_OVERHEAD
    if top_k is None:
        fused_tokens = positions * vocabulary_size * _WIDTH["float32"]
    else:
        fused_tokens = positions * (top_k * (_WIDTH["float32"] + _ID) + _WIDTH["float32"])
    distinct = (teachers if strings is None else strings) if length else 0.0
    fused_labels = distinct * (length * _ID + _ID + _WEIGHT)
    # Two error counts and the weights, which both heads share.
    table = teachers * (2 * _ID + _WEIGHT)
    fused = fused_tokens + fused_labels + table + FUSED_OVERHEAD
    return CacheEstimate(
        outputs=_level(output * teachers, utterances), fused=_level(fused, utterances)
    )


def _level(bytes_per_utterance: float, utterances: int) -> LevelEstimate:
    return LevelEstimate(round(bytes_per_utterance), round(bytes_per_utterance * utterances))
