"""Fills shards of a target store: reads audio, asks teachers, commits their rows.

A plain class; `kd_ray.cluster.offline` runs several of it as Ray actors.
Shapes: B utterances.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kd_ray.config.data import TextColumn
from kd_ray.core.contracts import Labels, TeacherInfo
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.host import ScoringTeacher
from kd_ray.teachers.readers import Inputs
from kd_ray.teachers.store import Shard, StoredRow, StoreError, TargetStore, rows_of
from kd_ray.teachers.teacher import load_teachers

logger = logging.getLogger(__name__)

LoadTeachers = Callable[[Sequence[Path], str], Sequence[ScoringTeacher]]
"""Checkpoint folders and a torch device to teachers, in order."""


@dataclass(frozen=True)
class InferenceJob:
    """What it takes to fill a store: all paths absolute, so that any process can read them."""

    store: Path
    root: Path
    """What audio paths of manifests are relative to."""
    manifests: Mapping[str, Path]
    """Split to manifest; every split has been planned in the store."""
    tokens: Path
    column: TextColumn
    folders: Mapping[str, Path]
    """Teacher digest to checkpoint folder."""
    reads: TextColumn | None = None
    """The column that text teachers read."""
    batch_size: int = 16
    device: str = "cpu"


@dataclass(frozen=True)
class ShardRecord:
    """One committed shard of one teacher."""

    split: str
    shard: int
    teacher: str
    """Digest."""
    rows: int
    seconds: float
    """Of the teacher's passes and of writing; 0 where the shard was there already."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Utterances of similar length, ready for every teacher."""

    ids: tuple[str, ...]
    references: Labels
    inputs: Mapping[str, Inputs]
    """Front-end digest to what such teachers read."""


class ShardScorer:
    """Scores shards with groups of teachers, of which one group is resident at a time.

    Args:
        job: where everything is.
        load: makes teachers of checkpoint folders.

    Raises:
        StoreError: the token file is not the one the store's teachers were trained on.
    """

    def __init__(self, job: InferenceJob, load: LoadTeachers = load_teachers) -> None:
        self.job = job
        self._load = load
        self._store = TargetStore.open(job.store)
        self._tokens = Tokens.load(job.tokens)
        check_tokens(self._tokens, self._store, job.tokens)
        self._utterances: dict[str, dict[str, Utterance]] = {}
        self._group: tuple[str, ...] = ()
        self._resident: dict[str, ScoringTeacher] = {}

    def run(
        self, split: str, shard: int, due: Sequence[str], group: Sequence[str]
    ) -> list[ShardRecord]:
        """Commit a shard for each teacher (digest) that is due; `group` stays resident.

        Raises:
            StoreError: a teacher's output is unusable, or the disk refused; names the teacher.
            AudioError: a recording cannot be read; names it.
        """
        planned = self._store.shards(split)[shard]
        # Ray repeats work whose actor died; what that one had committed stays.
        open_ = [digest for digest in due if not self._store.committed(planned, digest)]
        if open_:
            self._make_resident(tuple(group))
        batches = self._batches(planned, open_) if open_ else []
        return [
            self._score(planned, digest, batches)
            if digest in open_
            else ShardRecord(split, shard, digest, len(planned.ids), 0.0)
            for digest in due
        ]

    def _score(self, shard: Shard, digest: str, batches: Sequence[_Batch]) -> ShardRecord:
        started = time.perf_counter()
        teacher = self._resident[digest]
        rows: list[StoredRow] = []
        for batch in batches:
            inputs, lengths = batch.inputs[teacher.info.front_end_digest]
            output = teacher.score(
                inputs,
                lengths,
                batch.references,
                batch.references,
                frozenset({"tokens", "labels", "chrf"}),
            )
            rows += rows_of(batch.ids, output, batch.references)
        self._store.write_shard(shard.split, digest, shard.index, rows)
        seconds = time.perf_counter() - started
        return ShardRecord(shard.split, shard.index, digest, len(rows), seconds)

    def _make_resident(self, group: tuple[str, ...]) -> None:
        if group == self._group:
            return
        self._resident = {}
        if self.job.device != "cpu":
            torch.cuda.empty_cache()
        loaded = self._load([self.job.folders[digest] for digest in group], self.job.device)
        for digest, teacher in zip(group, loaded, strict=True):
            if teacher.info.digest != digest:
                raise StoreError(
                    f"teacher {teacher.info.name} ({teacher.info.folder}) has digest "
                    f"{teacher.info.digest}, the run was planned with {digest}: the checkpoint "
                    "changed meanwhile; start again."
                )
            if teacher.info.precision != self._store.index.precision:
                raise StoreError(
                    f"teacher {teacher.info.name} computes in {teacher.info.precision}, and "
                    f"{self.job.store} holds answers in {self._store.index.precision}; load it "
                    "in the store's precision, or fill another store"
                )
            self._resident[digest] = teacher
        self._group = group

    def _batches(self, shard: Shard, due: Sequence[str]) -> list[_Batch]:
        """Read a shard's audio once, and make inputs once per distinct front end.

        The cut into batches depends on the shard alone, so that a second run writes equal rows.
        """
        rows = self._rows(shard)
        resident = [self._resident[digest] for digest in due]
        readers = {teacher.info.front_end_digest: teacher.reader for teacher in resident}
        waveforms: dict[str, NDArray[np.int16]] = {}
        if any(reader.reads == "speech" for reader in readers.values()):
            waveforms = {row.id: read_waveform(row, self.job.root) for row in rows}
        rows.sort(key=lambda row: (len(waveforms.get(row.id, ())), row.id))
        batches = []
        for start in range(0, len(rows), self.job.batch_size):
            chunk = rows[start : start + self.job.batch_size]
            audio = [waveforms[row.id] for row in chunk if row.id in waveforms]
            texts = None if self.job.reads is None else [self._source(row) for row in chunk]
            batches.append(
                _Batch(
                    ids=tuple(row.id for row in chunk),
                    references=Labels.of([self._encode(row) for row in chunk]),
                    inputs={key: reader(audio, texts) for key, reader in readers.items()},
                )
            )
        return batches

    def _rows(self, shard: Shard) -> list[Utterance]:
        if shard.split not in self._utterances:
            rows = read_manifest(self.job.manifests[shard.split])
            self._store.check_data(shard.split, rows, self.job.column)
            self._utterances = {shard.split: {row.id: row for row in rows}}
        return [self._utterances[shard.split][name] for name in shard.ids]

    def _source(self, row: Utterance) -> str:
        assert self.job.reads is not None
        text = row.text(self.job.reads)
        if text is None:
            raise StoreError(f"{row.id} has no {self.job.reads}, which text teachers read")
        return text

    def _encode(self, row: Utterance) -> list[int]:
        text = row.text(self.job.column)
        assert text is not None, "the plan refuses rows without text"
        return self._tokens.encode(text)


def check_hears(teachers: Sequence[TeacherInfo]) -> None:
    """Refuse teachers that read: a store of theirs would not know which text they read.

    Raises:
        UnusableSystem: names them, and the way out.
    """
    reading = [info.name for info in teachers if info.reads == "text"]
    if reading:
        raise UnusableSystem(
            f"teachers: {', '.join(reading)} read text, and `kd-ray infer-teachers` stores what "
            "teachers say that hear; ask these while training (teachers.source local or pool)"
        )


def check_tokens(tokens: Tokens, store: TargetStore, path: Path) -> None:
    """Refuse a token file that the store's teachers do not share; raises `StoreError`."""
    if tokens.digest != store.index.tokens_digest:
        raise StoreError(
            f"{path} has token digest {tokens.digest}, the teachers of {store.folder} have "
            f"{store.index.tokens_digest}; use the token file in the teachers' folders."
        )
