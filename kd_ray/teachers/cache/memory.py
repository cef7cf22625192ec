"""The first level: each teacher's own rows at temperature 1, with their trust.

Whatever a fusion does comes after: another strategy, scale, temperature or top-k finds its rows
here, and no teacher computes anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from kd_ray.teachers.cache.bounded import BoundedRows, CacheStatistics
from kd_ray.teachers.cache.keys import allows_float16, asks_chrf, asks_tokens, at_full_precision
from kd_ray.teachers.cache.output_rows import Row, ScoredRow, cut, row_bytes
from kd_ray.teachers.rows import Output, broken_rows


class OutputCache:
    """Rows of teachers' outputs, the least recently used going first; safe for several threads.

    Teachers are told apart by digest. Hosts that compute in different precisions must not share a
    cache, or must put the precision into the digest that they name.

    Args:
        max_bytes: of all rows, overhead included.
        dtype: `float16` keeps distributions in half the bytes for requests whose fusion rounds to
            float16 anyway (so nothing is lost), and in float32 for all others; `float32` keeps
            them exact for everybody.
    """

    def __init__(self, max_bytes: int, *, dtype: Literal["float32", "float16"] = "float32") -> None:
        self._dtype = dtype
        self._rows: BoundedRows[str, Row] = BoundedRows(max_bytes, row_bytes)

    def get_rows(self, teacher: str, keys: Sequence[bytes], job: str = "") -> list[Row | None]:
        """What a teacher (digest) says to each key, or None where it must be asked.

        Rows are read-only and hold what was asked, no distributions beyond it. `job` is who the
        lookup is counted for.
        """
        found = self._rows.get(teacher, keys, job)
        return [
            None if row is None else _narrowed(row, key)
            for key, row in zip(keys, found, strict=True)
        ]

    def put_rows(self, teacher: str, keys: Sequence[bytes], output: Output) -> None:
        """Keep what a teacher (digest) answered to `keys`; copies, and never rows with NaN.

        Raises:
            ValueError: the output has another number of rows.
        """
        broken = broken_rows(output)
        if len(broken) != len(keys):
            raise ValueError(f"{len(keys)} keys for an output of {len(broken)} utterances")
        self._rows.refuse("not_finite", int(broken.sum()))
        round_off = self._dtype == "float16" and all(map(allows_float16, keys))
        rows = cut(output, "float16" if round_off else "float32")
        self._rows.put(
            teacher,
            [
                (key if round_off else at_full_precision(key), row)
                for key, row, bad in zip(keys, rows, broken, strict=True)
                if not bad
            ],
        )

    def forget_teacher(self, teacher: str) -> int:
        """Drop all rows of a teacher that changed or left; how many there were."""
        return self._rows.forget(teacher)

    @property
    def statistics(self) -> CacheStatistics:
        """Counts and bytes as of now."""
        return self._rows.statistics


def _narrowed(row: Row, key: bytes) -> Row:
    """Without distributions and chrF that nobody asked for."""
    if not isinstance(row, ScoredRow):
        return row
    if row.log_probs is not None and not asks_tokens(key):
        row = replace(row, log_probs=None)
    if row.chrf_errors is not None and not asks_chrf(key):
        row = replace(row, chrf_errors=None)
    return row
