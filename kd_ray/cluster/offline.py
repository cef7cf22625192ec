"""Teachers over whole splits, through Ray Data: actors fill the shards of a target store."""

import json
import logging
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray
from ray.data import ActorPoolStrategy, DataContext

from kd_ray.cluster.actors import as_many_as_fit
from kd_ray.cluster.room import Wish
from kd_ray.config.places import local_path
from kd_ray.teachers.inference import InferenceJob, LoadTeachers, ShardRecord, ShardScorer
from kd_ray.teachers.store import StoreError, TargetStore
from kd_ray.teachers.teacher import load_teachers

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How often a work item may take its process down with it (out of memory, lost node).

Ray Data starts actors again without end, and the remote arguments that would bound it are
deprecated; so attempts are counted in files beside the shards (with a store at an address: on each
node those of that node).
"""
_ATTEMPTS_FOLDER = "_attempts"
_ANYWHERE: Mapping[str, Any] = {}
_TALK = (
    "enable_progress_bars",
    "print_on_execution_start",
    "enable_auto_log_stats",
    "verbose_stats_logs",
)
"""What Ray Data prints by itself (settings of its context)."""


@dataclass(frozen=True)
class WorkItem:
    """A shard that teachers of one group have to score."""

    split: str
    shard: int
    group: tuple[str, ...]
    """Digests of the teachers that are resident together."""
    due: tuple[str, ...]
    """Those of them that have not committed the shard."""


@dataclass(frozen=True)
class OfflineSummary:
    """What a run did."""

    records: tuple[ShardRecord, ...]
    """Shards committed in this run, one record per shard and teacher."""
    kept: int
    """Shards (times teachers) that were there already."""
    wall_s: float


class OfflineError(RuntimeError):
    """A shard could not be made; shards committed so far are kept."""


def plan_work(
    store: TargetStore, splits: Sequence[str], teachers: Sequence[str], teachers_per_actor: int
) -> list[WorkItem]:
    """What is missing, group of teachers by group, so that an actor seldom changes its group.

    Args:
        store: splits planned.
        splits: which to fill.
        teachers: digests, in order.
        teachers_per_actor: size of a group.
    """
    unfinished = [
        digest for digest in teachers if any(store.missing(split, digest) for split in splits)
    ]
    items = []
    for start in range(0, len(unfinished), teachers_per_actor):
        group = tuple(unfinished[start : start + teachers_per_actor])
        for split in splits:
            for shard in store.shards(split):
                due = tuple(digest for digest in group if not store.committed(shard, digest))
                if due:
                    items.append(WorkItem(split, shard.index, group, due))
    return items


def run_offline(
    job: InferenceJob,
    *,
    actors: int = 1,
    cpus_per_actor: float = 1,
    gpus_per_actor: float = 0,
    resources_per_actor: Mapping[str, float] = _ANYWHERE,
    label_selector: Mapping[str, str] = _ANYWHERE,
    teachers_per_actor: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
    load: LoadTeachers = load_teachers,
) -> OfflineSummary:
    """Fill every planned split of `job.manifests` for every teacher of `job.folders`.

    Needs a running Ray (`kd_ray.cluster.runtime.ensure_ray`), unless nothing is missing. What a
    killed run has committed is kept; its half-written files are removed. Runs on GPUs if
    `gpus_per_actor` is above 0.

    Args:
        job: what to do; its `device` is chosen here.
        actors: processes that score side by side.
        cpus_per_actor: that each reserves.
        gpus_per_actor: likewise; fractions share a device.
        resources_per_actor: likewise, custom resources of the cluster.
        label_selector: labels that an actor's node must have.
        teachers_per_actor: teachers resident at a time in an actor.
        progress: gets shards done and shards in all (times teachers), after each work item.
        load: makes teachers of checkpoint folders; importable by the actors.

    Raises:
        OfflineError: a shard could not be made; names split, shard and cause (with the teacher).
        StoreError: another process is writing this store, or it cannot be read.
        ValueError: the cluster does not have what one actor asks for.
    """
    started = time.perf_counter()
    store = TargetStore.open(job.store)
    splits, teachers = list(job.manifests), list(job.folders)
    total = sum(len(store.shards(split)) for split in splits) * len(teachers)
    records: list[ShardRecord] = []
    with store.writing():
        items = plan_work(store, splits, teachers, teachers_per_actor)
        kept = total - sum(len(item.due) for item in items)
        logger.info("%d of %d shards are there already", kept, total)
        progress(kept, total)

        def collect(done: Sequence[ShardRecord]) -> None:
            records.extend(done)
            progress(kept + len(records), total)

        if items:
            job = replace(job, device="cuda" if gpus_per_actor else "cpu")
            each = {"CPU": cpus_per_actor, "GPU": gpus_per_actor, **resources_per_actor}
            wish = Wish("actors", min(actors, len(items)), each, label_selector)
            size = as_many_as_fit(wish)
            attempts = local_path(job.store) / _ATTEMPTS_FOLDER
            shutil.rmtree(attempts, ignore_errors=True)
            # Marks of an earlier run, which another node may still have, do not count.
            marks = attempts / uuid.uuid4().hex[:8]
            _work_off(job, items, replace(wish, count=size), load, marks, collect)
            shutil.rmtree(attempts, ignore_errors=True)
        store.update_gap()
    return OfflineSummary(tuple(records), kept, time.perf_counter() - started)


class ShardActor:
    """What Ray Data calls: one work item in, the records of its shards out."""

    def __init__(self, job: InferenceJob, load: LoadTeachers, attempts: Path) -> None:
        self._job = job
        self._load = load
        self._attempts = attempts
        self._scorer: ShardScorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Fill the shards of the batch's items; a failure travels back as a result.

        An exception would reach the driver wrapped in Ray Data's own, with its cause as text.
        """
        answers = []
        for text in batch["item"]:
            item = WorkItem(**json.loads(str(text)))
            answer: dict[str, Any]
            try:
                with _counted_attempt(self._attempts, item):
                    if self._scorer is None:
                        self._scorer = ShardScorer(self._job, self._load)
                    records = self._scorer.run(item.split, item.shard, item.due, item.group)
                answer = {"records": [asdict(record) for record in records]}
            except Exception as error:
                answer = {
                    "error": f"{type(error).__name__}: {error}",
                    "expected": isinstance(error, (StoreError, OSError, ValueError)),
                    "traceback": traceback.format_exc(),
                    "item": asdict(item),
                }
            answers.append(json.dumps(answer))
        return {"answer": answers}


@contextmanager
def _counted_attempt(attempts: Path, item: WorkItem) -> Iterator[None]:
    """Count the times that a work item was begun and its process never came back from it.

    Args:
        attempts: folder of this run's marks.
        item: about to be begun.

    Raises:
        OfflineError: it has happened `MAX_ATTEMPTS` times.
    """
    # The cache of this node may lie elsewhere.
    marks = local_path(attempts) / f"{item.split}-{item.shard}-{item.due[0]}"
    begun = marks.stat().st_size if marks.exists() else 0
    if begun >= MAX_ATTEMPTS:
        raise OfflineError(
            f"the process that scored it died {begun} times, with teachers {', '.join(item.due)}; "
            "is memory short? Lower teachers_per_actor, batch_size or actors"
        )
    marks.parent.mkdir(parents=True, exist_ok=True)
    with marks.open("ab") as file:
        file.write(b".")
    try:
        yield
    finally:
        marks.unlink(missing_ok=True)


def _work_off(
    job: InferenceJob,
    items: Sequence[WorkItem],
    actors: Wish,
    load: LoadTeachers,
    attempts: Path,
    collect: Callable[[Sequence[ShardRecord]], None],
) -> None:
    """Run all items through a pool of actors; `collect` gets each item's records."""
    custom = {name: value for name, value in actors.resources.items() if name not in ("CPU", "GPU")}
    with _quiet_ray_data():
        texts = [json.dumps(asdict(item)) for item in items]
        # One item a block: Ray Data hands out blocks, and an item is a good piece of work.
        dataset = ray.data.from_items(texts, override_num_blocks=len(texts)).map_batches(
            ShardActor,
            batch_size=1,
            compute=ActorPoolStrategy(size=actors.count, max_tasks_in_flight_per_actor=2),
            fn_constructor_kwargs={"job": job, "load": load, "attempts": attempts},
            num_cpus=actors.resources["CPU"],
            num_gpus=actors.resources["GPU"],
            resources=custom or None,
            label_selector=dict(actors.labels) or None,
        )
        # Without prefetching, a shard is told of when it is done, not when the next one is. Closing
        # ends the actors at once where a failure (or Ctrl-C) leaves the loop.
        batches = iter(dataset.iter_batches(batch_size=None, prefetch_batches=0))
        with closing(cast(Generator[dict[str, Any], None, None], batches)):
            for batch in batches:
                for answer in batch["answer"]:
                    collect(_records(json.loads(str(answer))))


def _records(answer: dict[str, Any]) -> list[ShardRecord]:
    """The records in an actor's answer; `OfflineError` if it failed."""
    if "error" in answer:
        item = answer["item"]
        if not answer["expected"]:
            logger.error("unexpected failure in an actor:\n%s", answer["traceback"])
        raise OfflineError(
            f"shard {item['shard']} of split {item['split']!r}: {answer['error']}\n"
            "Shards committed so far are kept: the same command goes on from here."
        )
    records = [ShardRecord(**record) for record in answer["records"]]
    for record in records:
        logger.debug(
            "split %s shard %d teacher %s: %d rows in %.2f s",
            record.split, record.shard, record.teacher, record.rows, record.seconds,
        )  # fmt: skip
    return records


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """No progress bars or execution plans of Ray Data: progress is reported shard by shard."""
    context = DataContext.get_current()
    ray_logger = logging.getLogger("ray.data")
    level, before = ray_logger.level, {name: getattr(context, name) for name in _TALK}
    ray_logger.setLevel(logging.ERROR)
    for name in _TALK:
        setattr(context, name, False)
    try:
        yield
    finally:
        ray_logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
