"""`kd-ray infer-teachers`: the teachers' outputs for whole splits into a target store."""

import logging
from functools import partial
from pathlib import Path

from kd_ray.cluster.offline import OfflineSummary, run_offline
from kd_ray.cluster.runtime import ensure_ray, require_cluster
from kd_ray.config.commands import InferTeachersConfig
from kd_ray.config.sources import Computation
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.report.progress import progress
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.cards import Blueprints, card_of
from kd_ray.teachers.inference import InferenceJob, check_hears, check_tokens
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.teacher import load_teachers

logger = logging.getLogger(__name__)


def infer_teachers(config: InferTeachersConfig, root: Path) -> OfflineSummary:
    """Fill the store for every teacher of the list and every split.

    A teacher that the store does not know is appended; shards that are there stay; a killed run
    goes on where it was.

    Raises:
        UnusableSystem: a teacher reads text.
    """
    folders = read_teacher_list(config.teachers, root)
    computation = Computation(precision=config.precision, compile=config.compile)
    blueprints = Blueprints()
    infos = [
        card_of(folder, index, blueprints, computation.precision).info
        for index, folder in enumerate(folders)
    ]
    check_hears(infos)
    store = TargetStore.prepare(root / config.store, infos, dtype=config.dtype, top_k=config.top_k)
    check_tokens(Tokens.load(root / config.tokens), store, root / config.tokens)
    for split, manifest in config.splits.items():
        store.plan(
            split,
            read_manifest(root / manifest),
            config.shard_utterances,
            column=config.column,
        )
    job = InferenceJob(
        store=store.folder,
        root=root,
        manifests={split: root / manifest for split, manifest in config.splits.items()},
        tokens=root / config.tokens,
        column=config.column,
        folders={info.digest: folder for info, folder in zip(infos, folders, strict=True)},
        batch_size=config.batch_size,
    )
    if config.placed:
        require_cluster("resources_per_actor or label_selector")
    with (
        ensure_ray(cpus=max(2, round(config.actors * config.cpus_per_actor) + 1)),
        progress("teachers answer", "shards") as task,
    ):
        summary = run_offline(
            job,
            actors=config.actors,
            cpus_per_actor=config.cpus_per_actor,
            gpus_per_actor=config.gpus_per_actor,
            resources_per_actor=config.resources_per_actor,
            label_selector=config.label_selector,
            teachers_per_actor=config.teachers_per_actor,
            progress=task.at,
            load=partial(load_teachers, computation=computation),
        )
    rows = sum(record.rows for record in summary.records)
    logger.info(
        "store %s: %d teachers, %d new shards (%d rows), %d were there, %.0f s",
        store.folder, len(infos), len(summary.records), rows, summary.kept, summary.wall_s,
    )  # fmt: skip
    return summary
