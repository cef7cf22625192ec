"""A target store as a further level: rows that were computed before any job began.

A store knows utterances by id and by what its manifest said of them, not by their samples. So it
answers only who names the digest of the very data that it was made of, shows clean audio, and has
decoders read the stored prefix.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from kd_ray.config.data import TextColumn
from kd_ray.core.contracts import Generate, Score
from kd_ray.speech.manifest import Utterance, read_manifest
from kd_ray.teachers.cache.bounded import CacheStatistics, Lookups
from kd_ray.teachers.cache.output_rows import Row, ScoredRow
from kd_ray.teachers.store.files import StoreError
from kd_ray.teachers.store.index import Plan
from kd_ray.teachers.store.rows import prefix_digest
from kd_ray.teachers.store.target_store import StoredBatch, TargetStore

_UNKNOWN: Final = -1
"""Length of a reference that there is none of."""


def data_digest(split: str, utterances: Sequence[Utterance], column: TextColumn) -> str:
    """What a job says its utterance ids mean: the manifest that it reads, as a store digests it.

    Raises:
        StoreError: rows that no store could hold, named.
    """
    return Plan.of(split, utterances, column, len(utterances)).data_digest


def manifest_digest(manifest: Path, column: TextColumn) -> str:
    """The data digest of a manifest; empty where no store could hold its rows.

    All rows count, those that a student cannot use, too: they are what a store was made of.

    Raises:
        ValueError, OSError: the manifest cannot be read.
    """
    try:
        return data_digest("", read_manifest(manifest, allow_duplicate_ids=True), column)
    except StoreError:
        return ""


class StoreLevel:
    """Answers for one split of a target store; safe for several threads.

    Reads from the disk, so call it from a thread that may wait. Shards that are not there when
    first asked for are not looked for again: open the store anew when more was made.

    Args:
        store: open; keeps decoded row groups in memory up to its own bound.
        split: whose rows are meant.

    Raises:
        ValueError: the store keeps the top k only, which is an approximation of what a teacher
            says: it must not stand beside exact rows unnoticed.
        StoreError: the store has no such split.
    """

    def __init__(self, store: TargetStore, split: str) -> None:
        if store.index.top_k is not None:
            raise ValueError(
                f"{store.folder} keeps the {store.index.top_k} likeliest tokens of each position, "
                "and a cache holds what teachers said exactly; use the store as teachers.source, "
                "or make one without top_k"
            )
        self._store = store
        self._split = split
        self._shards = store.shards(split)
        self._shard_of = {name: shard.index for shard in self._shards for name in shard.ids}
        self._digests = {info.answers_digest: info.digest for info in store.teachers}
        self._missing: set[tuple[str, int]] = set()
        self._jobs: dict[str, Lookups] = {}
        self._lock = threading.Lock()

    def get_rows(
        self,
        teacher: str,
        request: Score | Generate,
        data: str,
        rows: Sequence[int] | None = None,
        job: str = "",
    ) -> list[Row | None]:
        """What the store has of a teacher for rows of a request; None where it must be asked.

        Args:
            teacher: `TeacherInfo.answers_digest`.
            request: as it came.
            data: `data_digest` of the job that asks.
            rows: numbers of the request's utterances; None: all.
            job: who the lookup is counted for.

        Raises:
            StoreError: a shard cannot be read; names it.
        """
        asked = range(len(request.utterance_ids)) if rows is None else rows
        found: dict[int, ScoredRow] = {}
        digest = self._digests.get(teacher)
        if isinstance(request, Score) and digest and self._speaks_of(digest, request, data):
            found = self._read(digest, request, asked)
        with self._lock:
            now = Lookups(len(found), len(asked) - len(found))
            self._jobs[job] = self._jobs.get(job, Lookups()) + now
        return [found.get(row) for row in asked]

    def count_teachers(self, digests: Iterable[str]) -> int:
        """How many of these teachers the store holds, of shards that are there or still missing."""
        return len(set(digests) & set(self._store.index.digests))

    @property
    def statistics(self) -> CacheStatistics:
        """Lookups; what is in memory is the store's own matter."""
        with self._lock:
            return CacheStatistics(
                lookups=sum(self._jobs.values(), Lookups()), jobs=dict(self._jobs)
            )

    def _speaks_of(self, teacher: str, request: Score, data: str) -> bool:
        """Whether the store can have anything for such a request."""
        index = self._store.index
        rounds = request.fusion.dtype == "float16" and not request.per_teacher
        return (
            # What text teachers read is no part of the data digest.
            self._store.teacher(teacher).reads == "speech"
            and data == index.splits[self._split].data_digest
            and request.view.is_clean
            and (index.dtype == "float32" or rounds or "tokens" not in request.wanted)
            and (request.prefix is not None or request.references is not None)
        )

    def _read(self, teacher: str, request: Score, asked: Sequence[int]) -> dict[int, ScoredRow]:
        names = request.utterance_ids
        there = [row for row in asked if self._committed(teacher, names[row])]
        if not there:
            return {}
        batch = self._store.batch(self._split, [names[row] for row in there], [teacher])
        has_ctc = self._store.teacher(teacher).has_ctc
        prefix = request.decoder_prefix().strings()
        references = None if request.references is None else request.references.strings()
        found = {}
        for place, row in enumerate(there):
            read = prefix_digest(prefix[row])
            length = _UNKNOWN if references is None else len(references[row])
            # Errors are against the reference, which for stored rows is the prefix.
            own = references is None or prefix_digest(references[row]) == read
            held = batch.outputs[0].reference_lengths[place]
            if batch.prefix_digests[0][place] == read and own and held == length:
                found[row] = _row(batch, place, request, has_ctc=has_ctc)
        return found

    def _committed(self, teacher: str, name: str) -> bool:
        shard = self._shard_of.get(name)
        if shard is None or (teacher, shard) in self._missing:
            return False
        if self._store.committed(self._shards[shard], teacher):
            return True
        self._missing.add((teacher, shard))
        return False


def open_levels(folder: Path, *, cache_mib: float = 256.0) -> dict[str, StoreLevel]:
    """All splits of a target store, by the digest of the data that they were made of.

    Args:
        folder: the store.
        cache_mib: of decoded rows kept in memory, all splits together.

    Raises:
        StoreError: there is no store, or it is damaged.
        ValueError: it keeps the top k only.
    """
    store = TargetStore.open(folder, cache_mib=cache_mib)
    splits = store.index.splits.items()
    return {entry.data_digest: StoreLevel(store, split) for split, entry in splits}


def _row(batch: StoredBatch, place: int, request: Score, *, has_ctc: bool) -> ScoredRow:
    output = batch.outputs[0]
    positions = int(output.positions[place])
    log_probs = None
    if output.log_probs is not None and "tokens" in request.wanted:
        log_probs = output.log_probs[place, :positions]
    return ScoredRow(
        log_probs=log_probs,
        positions=positions,
        string=output.strings[place] if has_ctc else None,
        frames=int(output.frames[place]),
        ctc_errors=int(output.ctc_errors[place]),
        decoder_errors=int(output.decoder_errors[place]),
        reference_length=int(output.reference_lengths[place]),
        confidence=float(output.confidence[place]),
        chrf_errors=(
            int(output.chrf_errors[place])
            if output.chrf_errors is not None and "chrf" in request.wanted
            else None
        ),
    )
