"""Random access to the shards of a store: any utterances, any teachers, any order.

Row groups are decoded once and kept in memory up to a byte budget, the least recently used leaving
first. A store that fits the budget is read from the disk once in a training.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.core.contracts import TeacherOutput
from kd_ray.core.targets import IntArray
from kd_ray.storage import open_seekable, shown
from kd_ray.teachers.store.files import StoreError
from kd_ray.teachers.store.index import Shard
from kd_ray.teachers.store.rows import GROUP_ROWS, Encoding, RowGroup, dense_batch, read_group


@dataclass(frozen=True)
class RowPlace:
    """Where the row of an utterance is: which shard, and its number in it."""

    shard: Shard
    row: int


class GroupCache:
    """Decoded row groups, least recently used leaving first; safe for several threads.

    Args:
        budget_bytes: of row groups in memory; one group is always kept.
        path_of: split, teacher and shard to the file.
    """

    def __init__(self, budget_bytes: int, path_of: Callable[[str, str, int], Path]) -> None:
        self._budget_bytes = budget_bytes
        self._path_of = path_of
        self._groups: OrderedDict[tuple[str, str, int, int], RowGroup] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, split: str, teacher: str, shard: int, group: int) -> RowGroup:
        """A row group of a teacher's shard.

        Raises:
            StoreError: the file cannot be read.
            StorageError: nor can its address.
        """
        key = (split, teacher, shard, group)
        with self._lock:
            held = self._groups.get(key)
            if held is not None:
                self._groups.move_to_end(key)
                return held
            path = self._path_of(split, teacher, shard)
            try:
                with open_seekable(path) as source, pq.ParquetFile(source) as file:
                    read = read_group(file, group)
            except (OSError, pa.ArrowException, KeyError) as error:
                raise StoreError(
                    f"{shown(path)} cannot be read: {error}. Delete the file and run the same "
                    "`kd-ray infer-teachers` again: only this shard is made anew."
                ) from error
            self._groups[key] = read
            self._bytes += read.num_bytes
            while self._bytes > self._budget_bytes and len(self._groups) > 1:
                _, gone = self._groups.popitem(last=False)
                self._bytes -= gone.num_bytes
            return read


def gather(
    cache: GroupCache, places: Sequence[RowPlace], digest: str, teacher: int, encoding: Encoding
) -> tuple[TeacherOutput, tuple[str, ...]]:
    """Lay one teacher's rows together as a batch.

    Args:
        cache: where row groups come from.
        places: where each utterance of the batch is.
        digest: of the teacher.
        teacher: index that the output carries.
        encoding: how distributions are stored.

    Returns:
        The output (log-probabilities float32, 0 beyond `positions`) and each row's prefix digest.
    """
    found = [
        (
            cache.get(place.shard.split, digest, place.shard.index, place.row // GROUP_ROWS),
            place.row % GROUP_ROWS,
        )
        for place in places
    ]

    def column(name: str) -> IntArray:
        return np.array([group.scalars[name][row] for group, row in found], dtype=np.int64)

    positions = column("positions")
    confidence = [group.scalars["confidence"][row] for group, row in found]
    output = TeacherOutput(
        teacher=teacher,
        log_probs=dense_batch(found, positions, encoding),
        positions=positions,
        strings=tuple(group.strings[row] for group, row in found),
        frames=column("frames"),
        ctc_errors=column("ctc_errors"),
        decoder_errors=column("decoder_errors"),
        reference_lengths=column("reference_length"),
        confidence=np.array(confidence, dtype=np.float32),
        chrf_errors=column("chrf_errors"),
    )
    return output, tuple(group.prefix_digests[row] for group, row in found)
