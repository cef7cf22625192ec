"""A small target store that lives as long as a test or a measurement."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from kd_ray.config.data import TextColumn
from kd_ray.config.sources import DEFAULT_COMPUTATION, Computation
from kd_ray.speech.manifest import Utterance, write_manifest
from kd_ray.teachers.inference import InferenceJob, ShardScorer
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.store_source import StoreSource
from kd_ray.teachers.teacher import load_teachers

_SPLIT = "few"


@contextmanager
def temporary_store(
    folders: Sequence[Path],
    utterances: Sequence[Utterance],
    *,
    root: Path,
    tokens: Path,
    column: TextColumn,
    dtype: Literal["float32", "float16"] = "float32",
    reads: TextColumn | None = None,
    computation: Computation = DEFAULT_COMPUTATION,
) -> Iterator[StoreSource]:
    """Score `utterances` by the teachers in `folders`, in this process, and serve the answers.

    `reads`: the column that text teachers read. `computation`: how teachers compute.
    """
    load = partial(load_teachers, computation=computation)
    teachers = load(folders)
    infos = [teacher.info for teacher in teachers]
    digests = [info.digest for info in infos]
    with tempfile.TemporaryDirectory(prefix="kd-ray-store-") as temporary:
        store = TargetStore.prepare(Path(temporary) / "store", infos, dtype=dtype)
        manifest = Path(temporary) / "few.parquet"
        write_manifest(manifest, utterances)
        store.plan(_SPLIT, utterances, len(utterances), column=column)
        job = InferenceJob(
            store=store.folder,
            root=root,
            manifests={_SPLIT: manifest},
            tokens=tokens,
            column=column,
            folders=dict(zip(digests, folders, strict=True)),
            reads=reads,
        )
        ShardScorer(job, load).run(_SPLIT, 0, digests, digests)
        source = StoreSource(store, utterances, column=column, teachers=digests)
        try:
            yield source
        finally:
            source.close()
