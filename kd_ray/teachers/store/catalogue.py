"""What a store has and lacks: teachers, splits, shards, and whether they fit a student's data."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kd_ray.config.data import TextColumn
from kd_ray.config.places import local_path
from kd_ray.core.contracts import TeacherInfo
from kd_ray.storage import exists
from kd_ray.teachers.store.files import StoreError
from kd_ray.teachers.store.index import Plan, Shard, StoreIndex, row_digest, some
from kd_ray.teachers.store.rows import Encoding, footer_fault, read_footer

if TYPE_CHECKING:
    from kd_ray.speech.manifest import Utterance

logger = logging.getLogger(__name__)


class Catalogue:
    """The part of a target store that only looks."""

    def __init__(self, folder: Path, index: StoreIndex) -> None:
        self.folder = local_path(folder)
        self.index = index
        self._encoding = Encoding(index.vocabulary_size, index.dtype, index.top_k)
        self._plans: dict[str, Plan] = {}
        self._complete: set[tuple[str, str, int]] = set()

    @property
    def teachers(self) -> tuple[TeacherInfo, ...]:
        """The teachers, in order."""
        return self.index.teachers

    def teacher(self, digest: str) -> TeacherInfo:
        """A teacher of the store; `StoreError` names those there are."""
        for info in self.teachers:
            if info.digest == digest:
                return info
        known = ", ".join(f"{info.digest} ({info.name})" for info in self.teachers)
        raise StoreError(
            f"{self.folder} has no teacher {digest}; it has {known}. Add it with `kd-ray "
            "infer-teachers`, which appends teachers to a store."
        )

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The planned shards of a split."""
        return self._plan(split).shards

    def missing(self, split: str, teacher: str) -> list[Shard]:
        """Shards of a split that a teacher (digest) has not committed yet."""
        self.teacher(teacher)
        return [s for s in self.shards(split) if not self.committed(s, teacher)]

    def committed(self, shard: Shard, teacher: str) -> bool:
        """Whether a teacher's shard is there, whole, and as planned."""
        key = (shard.split, teacher, shard.index)
        if key in self._complete:
            return True
        path = self.shard_path(shard.split, teacher, shard.index)
        if not exists(path):
            return False
        try:
            fault = footer_fault(read_footer(path), shard, teacher, self._encoding)
        except StoreError as error:
            fault = str(error)
        if fault:
            logger.warning("%s does not count as committed: %s", path, fault)
            return False
        self._complete.add(key)
        return True

    def shard_path(self, split: str, teacher: str, index: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"split={split}" / f"teacher={teacher}" / f"part-{index:05d}.parquet"

    def coverage(
        self, split: str, ids: Sequence[str], teachers: Sequence[str] | None = None
    ) -> dict[str, list[str]]:
        """Ids that have no row yet, per teacher digest (every teacher is a key)."""
        plan = self._plan(split)
        missing: dict[str, list[str]] = {}
        for digest in self.index.digests if teachers is None else teachers:
            self.teacher(digest)
            there = [self.committed(shard, digest) for shard in plan.shards]
            missing[digest] = [
                name
                for name in ids
                if name not in plan.rows or not there[plan.rows[name] // plan.shard_utterances]
            ]
        return missing

    def require(
        self, split: str, ids: Sequence[str], teachers: Sequence[str] | None = None
    ) -> None:
        """Raise `StoreError` unless every teacher has a row for every id."""
        gaps = {d: names for d, names in self.coverage(split, ids, teachers).items() if names}
        if gaps:
            lines = [f"{self.teacher(d).name} ({d}): {some(names)}" for d, names in gaps.items()]
            raise StoreError(
                f"split {split!r} of {self.folder} lacks rows of {len(lines)} teacher(s):\n  "
                + "\n  ".join(lines)
                + "\nRun `kd-ray infer-teachers CONFIG` with this store, split and teachers again: "
                "it makes only what is missing."
            )

    def split_for(self, ids: Sequence[str]) -> str:
        """The split whose plan holds all these ids.

        Raises:
            StoreError: none does (names the closest), or several do.
        """
        lacking = {
            split: [name for name in ids if name not in self._plan(split).rows]
            for split in self.index.splits
        }
        holding = [split for split, names in lacking.items() if not names]
        if len(holding) == 1:
            return holding[0]
        if holding:
            raise StoreError(f"splits {', '.join(holding)} of {self.folder} all hold these ids")
        if not lacking:
            raise StoreError(f"{self.folder} has no split yet; run `kd-ray infer-teachers` with it")
        closest = min(lacking, key=lambda split: len(lacking[split]))
        raise StoreError(
            f"no split of {self.folder} ({', '.join(lacking)}) holds all {len(ids)} utterances; "
            f"{closest!r} lacks {some(lacking[closest])}. Run `kd-ray infer-teachers` with this "
            "manifest as a split of its own."
        )

    def check_data(self, split: str, utterances: "Sequence[Utterance]", column: TextColumn) -> None:
        """Refuse utterances that are not what the teachers heard and read.

        Raises:
            StoreError: text column, audio reference or text differ; says which utterances.
        """
        held = self.index.splits[split].column
        if held != column:
            raise StoreError(
                f"teachers read column {held!r} of split {split!r}, the student learns {column!r}"
            )
        plan = self._plan(split)
        changed = [
            row.id
            for row in utterances
            if row.id in plan.rows
            and row_digest(row, column) != plan.row_digests[plan.rows[row.id]]
        ]
        if changed:
            raise StoreError(
                f"audio or text of {some(changed)} changed since {self.folder} was made from "
                f"split {split!r}; restore the manifest or make a new store."
            )

    def _plan(self, split: str) -> Plan:
        if split not in self.index.splits:
            raise StoreError(
                f"{self.folder} has no split {split!r}, only {sorted(self.index.splits)}"
            )
        if split not in self._plans:
            self._plans[split] = Plan.load(self.folder, split, self.index.splits[split])
        return self._plans[split]
