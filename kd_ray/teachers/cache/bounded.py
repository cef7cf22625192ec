"""Rows in memory, bounded by bytes: the least recently used go first."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kd_ray.teachers.cache.keys import narrower, wider

Group = TypeVar("Group", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True)
class Lookups:
    """Rows that were asked for, by whether they were there."""

    hits: int = 0
    misses: int = 0

    def __add__(self, other: "Lookups") -> "Lookups":
        return Lookups(self.hits + other.hits, self.misses + other.misses)

    @property
    def hit_share(self) -> float:
        """0 where nothing was asked."""
        return self.hits / max(1, self.hits + self.misses)


@dataclass(frozen=True)
class CacheStatistics:
    """A level of the cache at a moment; counts are of rows, since it was made."""

    entries: int = 0
    num_bytes: int = 0
    max_bytes: int = 0
    lookups: Lookups = Lookups()
    evictions: int = 0
    """Rows that gave way to newer ones."""
    forgotten: int = 0
    """Rows of teachers that changed or left."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Rows that were not kept, by reason: `too_large`, `not_finite`, `incomplete`,
    `batch_scope`."""
    jobs: Mapping[str, Lookups] = field(default_factory=dict)


class BoundedRows(Generic[Group, R]):
    """Rows by group and row key (`keys.py`); safe for several threads, each operation O(1) a row.

    Rows must never be changed after they were put: readers get the very object.

    Args:
        max_bytes: of all rows, overhead included, as `size_of` counts.
        size_of: bytes that a row takes, its key and place included.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[R], int]) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes of a cache must not be negative, got {max_bytes}")
        self.max_bytes = max_bytes
        self._size_of = size_of
        self._rows: OrderedDict[tuple[Group, bytes], R] = OrderedDict()
        self._groups: dict[Group, set[bytes]] = {}
        self._bytes = 0
        self._evictions = 0
        self._forgotten = 0
        self._refused: Counter[str] = Counter()
        self._jobs: dict[str, Lookups] = {}
        self._lock = threading.Lock()

    def get(self, group: Group, keys: Sequence[bytes], job: str = "") -> list[R | None]:
        """For each key the row that answers it, which may hold more than was asked."""
        with self._lock:
            found = [self._find(group, key) for key in keys]
            self._count(job, found)
        return found

    def miss(self, rows: int, job: str = "") -> None:
        """Count rows that were asked for and that no group can hold."""
        with self._lock:
            self._count(job, [None] * rows)

    def put(self, group: Group, rows: Sequence[tuple[bytes, R]]) -> None:
        """Keep rows; one that is there already, or that a kept row answers, stays as it is."""
        sizes = [self._size_of(row) for _, row in rows]
        with self._lock:
            for (key, row), size in zip(rows, sizes, strict=True):
                if size > self.max_bytes:
                    self._refused["too_large"] += 1
                elif self._find(group, key) is None:
                    self._insert(group, key, row, size)

    def refuse(self, reason: str, rows: int) -> None:
        """Count rows that are not to be kept."""
        if rows:
            with self._lock:
                self._refused[reason] += rows

    def forget(self, group: Group) -> int:
        """Drop all rows of a group; how many there were."""
        with self._lock:
            keys = list(self._groups.get(group, ()))
            for key in keys:
                self._drop(group, key)
            self._forgotten += len(keys)
            return len(keys)

    def holds(self, group: Group) -> bool:
        """Whether any row of the group is there."""
        with self._lock:
            return group in self._groups

    @property
    def statistics(self) -> CacheStatistics:
        """As of now."""
        with self._lock:
            return CacheStatistics(
                entries=len(self._rows),
                num_bytes=self._bytes,
                max_bytes=self.max_bytes,
                lookups=sum(self._jobs.values(), Lookups()),
                evictions=self._evictions,
                forgotten=self._forgotten,
                refused=dict(self._refused),
                jobs=dict(self._jobs),
            )

    def _find(self, group: Group, key: bytes) -> R | None:
        for candidate in wider(key):
            place = (group, candidate)
            row = self._rows.get(place)
            if row is not None:
                self._rows.move_to_end(place)
                return row
        return None

    def _insert(self, group: Group, key: bytes, row: R, size: int) -> None:
        for less in narrower(key):
            if (group, less) in self._rows:
                self._drop(group, less)
        while self._bytes + size > self.max_bytes:
            self._drop(*next(iter(self._rows)))
            self._evictions += 1
        self._rows[group, key] = row
        self._groups.setdefault(group, set()).add(key)
        self._bytes += size

    def _drop(self, group: Group, key: bytes) -> None:
        self._bytes -= self._size_of(self._rows.pop((group, key)))
        keys = self._groups[group]
        keys.remove(key)
        if not keys:
            del self._groups[group]

    def _count(self, job: str, found: Sequence[R | None]) -> None:
        hits = sum(row is not None for row in found)
        self._jobs[job] = self._jobs.get(job, Lookups()) + Lookups(hits, len(found) - hits)
