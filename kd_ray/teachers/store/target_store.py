"""The target store: what every teacher says to every utterance of a split, in Parquet files.

    <store>/store.json                                             who, what, how (see `index.py`)
    <store>/_plans/<split>.parquet                                 utterances in order
    <store>/split=<split>/teacher=<digest>/part-<shard>.parquet    rows (see `rows.py`)

Rows are per teacher and at temperature 1, so that any strategy, scale and temperature can be fused
from them later. Dense rows are exact (up to `dtype`). Top-k rows are an approximation under fusion:
a token outside a teacher's top k gets an even share of that teacher's remaining mass; the mean KL
this costs is measured while writing and kept in `store.json`.

One process plans and appends (`writing()`); any number of processes write different shards; any
number read. A shard exists whole or not at all, and is never written twice.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kd_ray.config.data import TextColumn
from kd_ray.core.contracts import TeacherInfo, TeacherOutput
from kd_ray.storage import exists
from kd_ray.teachers.store.catalogue import Catalogue
from kd_ray.teachers.store.files import StoreError, remove_leftovers, writer_lock
from kd_ray.teachers.store.index import (
    INDEX_NAME,
    Plan,
    Shard,
    SplitEntry,
    StoreIndex,
    TopKGap,
    read_index,
    some,
    write_index,
)
from kd_ray.teachers.store.reader import GroupCache, RowPlace, gather
from kd_ray.teachers.store.rows import StoredRow, read_footer, write_shard_file

if TYPE_CHECKING:
    from kd_ray.speech.manifest import Utterance

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHARED = ("tokens_digest", "vocabulary_size", "blank", "bos", "eos", "precision")
"""What all teachers of a store must agree on."""


@dataclass(frozen=True, eq=False)
class StoredBatch:
    """What the teachers of a selection said to a batch."""

    outputs: tuple[TeacherOutput, ...]
    prefix_digests: tuple[tuple[str, ...], ...]
    """Per teacher and utterance: which prefix its decoder read."""


class TargetStore(Catalogue):
    """A target store on the disk; `create`, `open` or `prepare` one."""

    def __init__(self, folder: Path, index: StoreIndex, *, cache_mib: float) -> None:
        super().__init__(folder, index)
        self._holds_lock = False
        self._cache = GroupCache(int(cache_mib * 2**20), self.shard_path)

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: Path,
        teachers: Sequence[TeacherInfo],
        *,
        dtype: Literal["float32", "float16"] = "float32",
        top_k: int | None = None,
        cache_mib: float = 1024.0,
    ) -> "TargetStore":
        """Make an empty store for these teachers, in order.

        Raises:
            StoreError: the folder holds a store already, teachers do not share their tokens, or
                `top_k` is not below the vocabulary size.
        """
        if not teachers:
            raise StoreError("a target store needs at least one teacher")
        first = teachers[0]
        if top_k is not None and not 1 <= top_k < first.vocabulary_size:
            raise StoreError(
                f"top_k is {top_k}; it must be from 1 to {first.vocabulary_size - 1} for a "
                f"vocabulary of {first.vocabulary_size} (leave it out to store everything)"
            )
        index = StoreIndex(
            **{name: getattr(first, name) for name in _SHARED},
            dtype=dtype,
            top_k=top_k,
            teachers=(),
        )
        index = index.model_copy(update={"teachers": _joined(index, teachers)})
        with writer_lock(folder):
            if exists(folder / INDEX_NAME):
                raise StoreError(f"{folder} is a target store already; open or continue it")
            write_index(folder, index)
        return cls(folder, index, cache_mib=cache_mib)

    @classmethod
    def open(cls, folder: Path, *, cache_mib: float = 1024.0) -> "TargetStore":
        """Open a store for reading, or for writing shards.

        Args:
            folder: the store.
            cache_mib: decoded rows kept in memory, in MiB.

        Raises:
            StoreError: `store.json` or the plan of a split is missing, damaged, or of another
                version; says which.
        """
        store = cls(folder, read_index(folder), cache_mib=cache_mib)
        for split in store.index.splits:
            store._plan(split)
        return store

    @classmethod
    def prepare(
        cls,
        folder: Path,
        teachers: Sequence[TeacherInfo],
        *,
        dtype: Literal["float32", "float16"] = "float32",
        top_k: int | None = None,
    ) -> "TargetStore":
        """Create the store, or continue it if it exists; teachers it does not know are appended.

        Raises:
            StoreError: the store was made with another dtype, top k, precision or tokens.
        """
        if not exists(folder / INDEX_NAME):
            return cls.create(folder, teachers, dtype=dtype, top_k=top_k)
        store = cls.open(folder)
        for name, wanted in (("dtype", dtype), ("top_k", top_k)):
            if (held := getattr(store.index, name)) != wanted:
                raise StoreError(
                    f"{folder} was made with {name}: {held}, asked for is {wanted}; keep "
                    f"{name}: {held}, or give `store` another folder."
                )
        store._append(teachers)
        return store

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one process that plans writes; leftovers of a killed run are removed first.

        Raises:
            StoreError: another process is writing.
        """
        with writer_lock(self.folder):
            # Whoever held the lock before may have appended teachers or splits.
            self.index = read_index(self.folder)
            remove_leftovers(self.folder)
            self._holds_lock = True
            try:
                yield
            finally:
                self._holds_lock = False

    # -- writing ---------------------------------------------------------------------------------

    def append_teacher(self, info: TeacherInfo) -> TeacherInfo:
        """Add a teacher behind the others (its index is set so); one that is known is left alone.

        Raises:
            StoreError: it does not share the store's tokens.
        """
        self._append([info])
        return self.teacher(info.digest)

    def plan(
        self,
        split: str,
        utterances: "Sequence[Utterance]",
        shard_utterances: int,
        *,
        column: TextColumn,
    ) -> tuple[Shard, ...]:
        """Fix the shards of a split; the same call again gives the same shards.

        Args:
            split: its name; letters, digits, dot, dash, underscore.
            utterances: rows of the manifest, in order.
            shard_utterances: rows of a shard.
            column: the text that decoders read.

        Raises:
            StoreError: the name or a row cannot be used; the split is in the store with other
                utterances or another shard size; or another process is writing.
        """
        if not _SPLIT_NAME.fullmatch(split):
            raise StoreError(
                f"{split!r} cannot name a split: letters, digits, dot, dash and underscore can"
            )
        plan = Plan.of(split, utterances, column, shard_utterances)
        entry = SplitEntry(
            utterances=len(plan.ids),
            shard_utterances=shard_utterances,
            column=column,
            data_digest=plan.data_digest,
        )
        if split not in self.index.splits:
            with self._exclusive():
                if split not in self.index.splits:
                    plan.save(self.folder)
                    self._save(splits={**self.index.splits, split: entry})
        if (held := self.index.splits[split]) != entry:
            raise StoreError(
                f"split {split!r} of {self.folder} was planned as {held!r}; asked for is "
                f"{entry!r}. Restore the setting or the manifest, or give the store another "
                "folder or the split another name."
            )
        return self.shards(split)

    def write_shard(
        self, split: str, teacher: str, index: int, rows: Sequence[StoredRow]
    ) -> Path | None:
        """Commit a teacher's shard; rows may come in any order.

        Returns:
            The file, or None if the shard had been committed before (it is not touched then).

        Raises:
            StoreError: rows are not those of the shard, or are unusable (NaN, no distribution);
                names the teacher. Nothing is written then.
        """
        info, shard = self.teacher(teacher), self.shards(split)[index]
        if self.committed(shard, teacher):
            return None
        by_id = {row.utterance_id: row for row in rows}
        if len(rows) != len(shard.ids) or by_id.keys() != set(shard.ids):
            raise StoreError(
                f"shard {index} of split {split!r} has {len(shard.ids)} utterances, teacher "
                f"{info.name} brought {len(rows)} rows for {len(by_id)} utterances, "
                f"{len(by_id.keys() & set(shard.ids))} of them planned"
            )
        path = self.shard_path(split, teacher, index)
        ordered = [by_id[name] for name in shard.ids]
        try:
            write_shard_file(path, shard, teacher, ordered, self._encoding)
        except StoreError:
            raise
        except ValueError as error:
            raise StoreError(
                f"teacher {info.name} ({info.folder}), split {split!r}, shard {index}: {error}. "
                "Nothing was written; take the teacher off the list or train it again."
            ) from error
        self._complete.add((split, teacher, index))
        return path

    def update_gap(self) -> TopKGap | None:
        """Gather the measured cost of top-k over committed shards into `store.json`."""
        if self.index.top_k is None:
            return None
        with self._exclusive():
            footers = [
                read_footer(self.shard_path(split, info.digest, shard.index))
                for split in self.index.splits
                for info in self.teachers
                for shard in self.shards(split)
                if self.committed(shard, info.digest)
            ]
            nats = sum(footer.gap_nats for footer in footers)
            positions = sum(footer.gap_positions for footer in footers)
            gap = TopKGap(mean_kl_nats=nats / max(1, positions), positions=positions)
            self._save(top_k_gap=gap)
        return gap

    # -- reading ---------------------------------------------------------------------------------

    def batch(self, split: str, ids: Sequence[str], teachers: Sequence[str]) -> StoredBatch:
        """What these teachers (digests, in order) said to these utterances, in any order.

        Raises:
            StoreError: an utterance or a teacher's shard is missing; says how to make it.
        """
        places = self._places(split, ids)
        shards = {place.shard.index: place.shard for place in places}
        outputs, prefixes = [], []
        for number, digest in enumerate(teachers):
            if not all(self.committed(shard, digest) for shard in shards.values()):
                self.require(split, ids, teachers)
            output, digests = gather(self._cache, places, digest, number, self._encoding)
            outputs.append(output)
            prefixes.append(digests)
        return StoredBatch(tuple(outputs), tuple(prefixes))

    def read(
        self, split: str, ids: Sequence[str], teachers: Sequence[str]
    ) -> tuple[TeacherOutput, ...]:
        """As `batch`, without the prefix digests; `teacher` counts within the selection."""
        return self.batch(split, ids, teachers).outputs

    def _places(self, split: str, ids: Sequence[str]) -> list[RowPlace]:
        plan = self._plan(split)
        if unknown := [name for name in ids if name not in plan.rows]:
            raise StoreError(
                f"split {split!r} of {self.folder} does not have {some(unknown)}; run `kd-ray "
                "infer-teachers` with a manifest that has them."
            )
        size = plan.shard_utterances
        rows = [plan.rows[name] for name in ids]
        return [RowPlace(plan.shards[row // size], row % size) for row in rows]

    def _append(self, teachers: Sequence[TeacherInfo]) -> None:
        if _joined(self.index, teachers) != self.index.teachers:
            with self._exclusive():
                self._save(teachers=_joined(self.index, teachers))

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext() if self._holds_lock else self.writing()

    def _save(self, **changes: object) -> None:
        assert self._holds_lock, "store.json changes under the lock only"
        index = self.index.model_copy(update=changes)
        write_index(self.folder, index)
        self.index = index


def _joined(index: StoreIndex, teachers: Sequence[TeacherInfo]) -> tuple[TeacherInfo, ...]:
    """The store's teachers and behind them the new ones.

    Raises:
        StoreError: other tokens, or another precision.
    """
    known = list(index.teachers)
    for info in teachers:
        for name in _SHARED:
            mine, theirs = getattr(index, name), getattr(info, name)
            if mine != theirs:
                raise StoreError(
                    f"teacher {info.name} ({info.folder}) has {name} {theirs}, the store has "
                    f"{mine}; teachers with other tokens, or of another precision, need a store "
                    "of their own."
                )
        if info.digest not in {held.digest for held in known}:
            known.append(replace(info, index=len(known)))
    return tuple(known)
