"""The second level: what is fused, for pools whose per-teacher rows do not fit.

A host that has all of a job's teachers keeps finished targets; one that has some of them keeps the
partials of its own, which are merged with those of other hosts as ever. An entry is good for one
fusion, one list of teachers in one order, and one row key. It exists only where every teacher of
the list answered, and only for fusions that look at each utterance by itself.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from pydantic import BaseModel

from kd_ray.core.contracts import Fusion
from kd_ray.core.partials import Partial
from kd_ray.core.strategies import FusedTargets
from kd_ray.core.trust import rules
from kd_ray.teachers.cache.bounded import BoundedRows, CacheStatistics
from kd_ray.teachers.cache.fused_rows import FusedRow, cut_fused, fused_bytes
from kd_ray.teachers.cache.keys import DIGEST_BYTES, asks_chrf, asks_tokens
from kd_ray.teachers.cache.partial_rows import PartialRow, cut_partial, partial_bytes

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=256)
def fusion_digest(fusion: Fusion) -> bytes:
    """Of everything that a fusion says: strategy with scale and table, temperature, dtype, ..."""
    parts = {field.name: getattr(fusion, field.name) for field in dataclasses.fields(fusion)}
    said = {
        name: part.model_dump(mode="json") if isinstance(part, BaseModel) else part
        for name, part in parts.items()
    }
    text = json.dumps(said, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def looks_at_batches(fusion: Fusion, num_teachers: int) -> bool:
    """Whether an utterance's target depends on the other utterances of its request.

    So it does with trust of scope `batch`, which the published recipe has too. Such targets
    cannot be kept by the row. Their teachers' own rows can.

    Raises:
        TrustError: a strategy that cannot be had with so many teachers.
    """
    return any(rule.scope == "batch" for rule in rules(fusion, num_teachers))


def group_of(teachers: Mapping[int, str], num_teachers: int) -> tuple[str, ...]:
    """What `FusedCache` takes for a list of teachers where they are some of a job's.

    Args:
        teachers: digests by the numbers that the job gives them.
        num_teachers: of the job.
    """
    numbers = sorted(teachers)
    return f"{numbers} of {num_teachers}", *(teachers[number] for number in numbers)


class FusedCache:
    """Rows of fused targets, the least recently used going first; safe for several threads.

    Partials are kept by `put_partial_rows` and read by `get_partial_rows`; all that is said of
    targets holds for them, too. Their list of teachers is a `group_of` some.

    Where a recogniser transcribes for text teachers, its digest belongs into the list of
    teachers, behind them: another recogniser makes other targets.

    Args:
        max_bytes: of all rows, overhead included.
    """

    def __init__(self, max_bytes: int) -> None:
        self._rows: BoundedRows[int, FusedRow | PartialRow] = BoundedRows(max_bytes, _bytes)
        # Hundreds of digests make a long key: each list of teachers has a number instead.
        self._pools: dict[tuple[str, ...], int] = {}
        self._numbers = count()
        self._told: set[bytes] = set()
        self._lock = threading.Lock()

    def get_rows(
        self, fusion: Fusion, teachers: Sequence[str], keys: Sequence[bytes], job: str = ""
    ) -> list[FusedRow | None]:
        """The fused row of each key, or None where teachers must be asked.

        Args:
            fusion: of the request.
            teachers: digests of the whole pool, in the order that strategies count them.
            keys: of the request's utterances (`row_keys`).
            job: who the lookup is counted for.
        """
        found = self._get(fusion, teachers, keys, job)
        return [
            _narrowed(row, key) if isinstance(row, FusedRow) else None
            for key, row in zip(keys, found, strict=True)
        ]

    def get_partial_rows(
        self, fusion: Fusion, group: Sequence[str], keys: Sequence[bytes], job: str = ""
    ) -> list[PartialRow | None]:
        """As `get_rows`, of the partials of a `group_of` teachers."""
        found = self._get(fusion, group, keys, job)
        return [
            _narrowed_partial(row, key) if isinstance(row, PartialRow) else None
            for key, row in zip(keys, found, strict=True)
        ]

    def put_rows(
        self,
        fusion: Fusion,
        teachers: Sequence[str],
        keys: Sequence[bytes],
        targets: FusedTargets,
    ) -> None:
        """Keep what `finish` made for `keys`; copies.

        Nothing is kept, and the rows are counted as refused, if teachers are missing in the
        target (`incomplete`) or the fusion looks at whole batches (`batch_scope`); rows that are
        not finite are left out.

        Raises:
            ValueError: the targets have another number of rows than there are keys, or more
                teachers than were named.
        """
        rows = len(targets.reference_lengths)
        if rows != len(keys) or targets.num_teachers > len(teachers):
            raise ValueError(
                f"{len(keys)} keys and {len(teachers)} teachers for fused targets of {rows} "
                f"utterances by {targets.num_teachers} teachers"
            )
        if targets.answered != tuple(range(targets.num_teachers)):
            self._rows.refuse("incomplete", rows)
            return
        self._put(fusion, targets.num_teachers, teachers, keys, cut_fused(targets))

    def put_partial_rows(
        self, group: Sequence[str], keys: Sequence[bytes], partial: Partial
    ) -> None:
        """Keep what `local` made for `keys` of all teachers of a `group_of` some; copies.

        Refused as `put_rows` says.

        Raises:
            ValueError: the partial has another number of rows than there are keys.
        """
        if len(partial.positions) != len(keys):
            raise ValueError(f"{len(keys)} keys for a partial of {len(partial.positions)} rows")
        if len(partial.teachers) != len(group) - 1:
            self._rows.refuse("incomplete", len(keys))
            return
        rows = cut_partial(partial)
        self._put(partial.fusion, partial.num_teachers, group, keys, rows)

    def forget_teacher(self, teacher: str) -> int:
        """Drop all rows that a teacher (digest) has a part in; how many there were."""
        with self._lock:
            pools = [(pool, number) for pool, number in self._pools.items() if teacher in pool]
            for pool, _ in pools:
                del self._pools[pool]
            return sum(self._rows.forget(number) for _, number in pools)

    @property
    def statistics(self) -> CacheStatistics:
        """Counts and bytes as of now."""
        return self._rows.statistics

    def _get(
        self, fusion: Fusion, teachers: Sequence[str], keys: Sequence[bytes], job: str
    ) -> Sequence[FusedRow | PartialRow | None]:
        with self._lock:
            pool = self._pools.get(tuple(teachers))
        if pool is None:
            self._rows.miss(len(keys), job)
            return [None] * len(keys)
        digest = fusion_digest(fusion)
        return self._rows.get(pool, [digest + key for key in keys], job)

    def _put(
        self,
        fusion: Fusion,
        num_teachers: int,
        teachers: Sequence[str],
        keys: Sequence[bytes],
        rows: Sequence[FusedRow | PartialRow],
    ) -> None:
        digest = fusion_digest(fusion)
        if looks_at_batches(fusion, num_teachers):
            self._tell(fusion, digest)
            self._rows.refuse("batch_scope", len(rows))
            return
        kept = [(digest + key, row) for key, row in zip(keys, rows, strict=True) if _finite(row)]
        self._rows.refuse("not_finite", len(rows) - len(kept))
        with self._lock:
            self._rows.put(self._number(tuple(teachers)), kept)

    def _number(self, pool: tuple[str, ...]) -> int:
        """The number of a list of teachers; lists without rows are cleared away meanwhile."""
        number = self._pools.get(pool)
        if number is None:
            self._pools = {p: n for p, n in self._pools.items() if self._rows.holds(n)}
            number = self._pools[pool] = next(self._numbers)
        return number

    def _tell(self, fusion: Fusion, digest: bytes) -> None:
        with self._lock:
            news = digest not in self._told
            self._told.add(digest)
        if news:
            logger.info(
                "fused targets of strategy %r are not cached: its trust is of scope 'batch', so "
                "an utterance's target depends on the rest of its request; the teachers' own "
                "rows are cached as ever",
                fusion.strategy.type,
            )


def _bytes(row: FusedRow | PartialRow) -> int:
    return fused_bytes(row) if isinstance(row, FusedRow) else partial_bytes(row)


def _finite(row: FusedRow | PartialRow) -> bool:
    values = row.probabilities if isinstance(row, PartialRow) else None
    if isinstance(row, FusedRow) and row.tokens is not None:
        values = row.tokens.log_probs
    # The maximum keeps NaN and +inf, and is -inf where no token has any mass.
    return values is None or bool(np.isfinite(values.max(axis=-1)).all())


def _narrowed(row: FusedRow, key: bytes) -> FusedRow:
    """Without what nobody asked for; weights of distributions are then zero, as fused."""
    if row.tokens is not None and not asks_tokens(key):
        nothing = np.zeros_like(row.weights_tokens)
        row = dataclasses.replace(row, tokens=None, weights_tokens=nothing)
    if row.chrf_errors is not None and not asks_chrf(key):
        row = dataclasses.replace(row, chrf_errors=None)
    return row


def _narrowed_partial(row: PartialRow, key: bytes) -> PartialRow:
    """Without what nobody asked for."""
    if row.probabilities is not None and not asks_tokens(key):
        row = dataclasses.replace(row, probabilities=None, kept=None)
    if row.chrf_errors is not None and not asks_chrf(key):
        row = dataclasses.replace(row, chrf_errors=None)
    return row
