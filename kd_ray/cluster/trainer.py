"""Training under Ray Train: one worker in this process, or a group of them."""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from kd_ray.cluster.group_size import number_of, record_group
from kd_ray.cluster.metrics import TrainingFigures
from kd_ray.cluster.places import ray_storage
from kd_ray.cluster.pool import (
    Attachment,
    PoolAddress,
    PoolSource,
    TeacherPool,
    attach,
    join_cluster,
)
from kd_ray.cluster.runtime import ensure_ray, require_cluster
from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.config.sources import StoreSource as StoreSection
from kd_ray.core.contracts import TeacherSource
from kd_ray.core.handshake import handshake
from kd_ray.evaluation.heartbeat import Process, note_end, note_restart, noted, this_process
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.evaluation.token_file import token_file
from kd_ray.models.checkpoint import checkpoint_digest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.collective import Alone, Collective, ProcessGroup
from kd_ray.students.materials import read_split, student_needs
from kd_ray.students.session import run_session
from kd_ray.teachers.cache import manifest_digest
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.store_source import StoreSource
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.transcriber import load_transcriber, transcriber_spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know; travels to the workers."""

    config: TrainConfig | DistillConfig
    root: Path
    pool: PoolAddress | None = None
    driver: Process | None = None
    """Of a worker group."""


class _NotesRestarts(UserCallback):
    """Tells the run folder that workers are lost: rank 0 may be the one that was killed.

    Ray Train's controller calls it.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Before Ray Train decides whether there is another group."""
        try:
            note_restart(self._run, worker_exceptions[min(worker_exceptions)])
        except Exception as error:
            # It would end the run in place of the restart.
            logger.warning("a restart of the workers could not be noted: %s", error)


def run_training(
    config: TrainConfig | DistillConfig,
    root: Path,
    *,
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda figures: None,
    group_callbacks: Sequence[UserCallback] = (),
) -> dict[str, Any]:
    """Train (or go on training, or find finished) the model of `config`; returns its summary.

    Args:
        config: what is trained.
        root: where relative paths start.
        on_epoch: hears the figures of each validation, where one worker trains in this process.
        group_callbacks: of Ray Train, where a worker group trains.
    """
    with RunFolder(root, config.name).opened(config) as run:
        return _run_opened(config, root, run, on_epoch, group_callbacks)


def _run_opened(
    config: TrainConfig | DistillConfig,
    root: Path,
    run: RunFolder,
    on_epoch: Callable[[Mapping[str, Any]], None],
    group_callbacks: Sequence[UserCallback],
) -> dict[str, Any]:
    finished = run.summary()
    if finished is not None:
        logger.info("%s is finished already; nothing to do", config.name)
        return finished
    _look_for_nodes(config)
    with noted(run, config.command, "starting teacher hosts" if _asks_pool(config) else "starting"):
        pool = _start_pool(config, root, run)
    job = TrainingJob(config, root, pool.address if pool else None)
    workers = config.workers
    try:
        if not workers.grouped and (not workers.gpus or torch.cuda.is_available()):
            # A worker group costs tens of seconds to start; one worker needs none.
            device = torch.device("cuda" if workers.gpus else "cpu")
            train_here(job, Alone(), device, on_epoch)
        else:
            _look_before_starting(job)
            _fit(_trainer(replace(job, driver=this_process()), run, group_callbacks))
    except BaseException as error:
        note_end(run, config.command, error)
        raise
    finally:
        if pool is not None:
            pool.close()
    summary = run.summary()
    assert summary is not None, "a training that ended without an error has a summary"
    return summary


def _look_for_nodes(config: TrainConfig | DistillConfig) -> None:
    """What is sent to nodes of a certain kind would wait for them forever in a private Ray."""
    if config.workers.placed:
        require_cluster("workers.resources_per_worker or workers.label_selector")
    if isinstance(config, DistillConfig):
        source = config.teachers.source
        if isinstance(source, PoolSection) and source.placed:
            require_cluster("teachers.source.resources_per_host or teachers.source.label_selector")


def _look_before_starting(job: TrainingJob) -> None:
    """What no restart heals should not cost a worker group its start, over and over."""
    tokens = Tokens.load(token_file(job.config, job.root))
    for manifest in (job.config.data.train, job.config.data.valid):
        read_split(manifest, job.root, job.config, tokens)
    if job.pool is not None:
        assert isinstance(job.config, DistillConfig)
        handshake(student_needs(tokens, job.config), job.pool.info)


def _fit(trainer: TorchTrainer) -> None:
    """Run a worker group; a worker's own error comes out instead of Ray Train's around it."""
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise cause_of(error.worker_failures, f"the worker group failed: {error}") from error


def cause_of(failures: Mapping[int, Exception], otherwise: str) -> Exception:
    """What a group failed of: an error of ours, unless a worker died.

    Where one worker dies or fails, the others' collectives break off with a RuntimeError.
    """
    causes = [cause for _, cause in sorted(failures.items())]
    ours = [cause for cause in causes if isinstance(cause, ValueError | OSError | RuntimeError)]
    if len(ours) < len(causes) or not causes:
        return RuntimeError(otherwise)
    first = [cause for cause in causes if not isinstance(cause, RuntimeError)]
    return (first or causes)[0]


def _trainer(
    job: TrainingJob, run: RunFolder, callbacks: Sequence[UserCallback] = ()
) -> TorchTrainer:
    # One line a validation is ours to write; Ray Train repeats it as a dictionary.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # A report waits for the controller's next look; its default is two seconds.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    workers = job.config.workers
    cpus = math.ceil(workers.most * workers.cpus)
    # Ray Train's cleaner of worker groups asks the dashboard's state API.
    ensure_ray(cpus=max(cpus, os.cpu_count() or 1), dashboard=True)
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    resources |= workers.resources_per_worker
    # NCCL refuses two ranks on one device, which fractions of a GPU make.
    backend = "nccl" if workers.gpus >= 1 else "gloo"
    return TorchTrainer(
        _work_in_group,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend=backend),
        # The name is typed as the class of Ray Train before version 2, which knows no labels.
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            **number_of(workers),
            use_gpu=bool(workers.gpus),
            resources_per_worker=resources,
            label_selector=workers.label_selector or None,
        ),
        run_config=RunConfig(
            # Ray Train takes up an old run of the same name; ours resume from the run folder.
            name=f"{job.config.name.replace('/', '-')}-{time.time_ns()}",
            **ray_storage(run.path / "logs" / "ray_train"),
            failure_config=FailureConfig(max_failures=workers.max_restarts),
            callbacks=cast(Any, [_NotesRestarts(run), *callbacks]),
        ),
    )


def _work_in_group(settings: Mapping[str, Any]) -> None:
    """What every worker of a group does."""
    job: TrainingJob = settings["job"]
    device = ray.train.torch.get_device() if job.config.workers.gpus else torch.device("cpu")
    collective = ProcessGroup(device) if torch.distributed.is_initialized() else Alone()
    record_group(job.config.workers, RunFolder(job.root, job.config.name), collective)
    train_here(job, collective, device, _report)


def train_here(
    job: TrainingJob,
    collective: Collective,
    device: torch.device,
    on_epoch: Callable[[Mapping[str, Any]], None],
) -> None:
    """Be one of `collective.world` workers of a training, in this process."""
    torch.set_num_threads(max(1, int(job.config.workers.cpus)))
    run = RunFolder(job.root, job.config.name)
    is_distillation = isinstance(job.config, DistillConfig)
    source = open_source(job, device, run.event) if is_distillation else None
    told = collective.rank == 0 and ray.is_initialized()
    try:
        with TrainingFigures(job.config.name) if told else nullcontext() as figures:
            run_session(
                job.config,
                root=job.root,
                collective=collective,
                device=device,
                source=source,
                on_epoch=on_epoch,
                reporters=[] if figures is None else [figures],
                driver=job.driver,
            )
    finally:
        if source is not None:
            source.close()
        # The node of a worker may be another one than that of whoever started the training.
        run.publish()


def _report(figures: Mapping[str, Any]) -> None:
    ray.train.report({key: value for key, value in figures.items() if key != "kind"})


def open_source(
    job: TrainingJob, device: torch.device, on_event: Callable[..., None]
) -> TeacherSource:
    """The source of teacher signals that a distillation names."""
    config = job.config
    assert isinstance(config, DistillConfig)
    section = config.teachers.source
    folders = read_teacher_list(config.teachers.list, job.root) if config.teachers.list else None
    if isinstance(section, StoreSection):
        tokens = Tokens.load(token_file(config, job.root))
        return StoreSource(
            TargetStore.open(job.root / section.path),
            read_split(config.data.train, job.root, config, tokens),
            column=config.data.column,
            teachers=[checkpoint_digest(folder) for folder in folders] if folders else None,
        )
    if isinstance(section, PoolSection):
        assert job.pool is not None
        data = _stored_data(config, job.root, job.pool)
        return PoolSource(job.pool, on_event=on_event, job=config.name, data=data)
    assert folders is not None
    return LocalSource(
        load_teachers(folders, str(device), computation=section),
        on_event=on_event,
        transcriber=load_transcriber(transcriber_spec(config.teachers, job.root), str(device)),
    )


def _stored_data(config: DistillConfig, root: Path, pool: PoolAddress) -> str:
    """Digest of the training data, if the pool has a target store of it; else empty."""
    if not pool.stored_data:
        return ""
    digest = manifest_digest(root / config.data.train, config.data.column)
    if digest in pool.stored_data:
        return digest
    logger.info(
        "the pool's target store was made of other data than %s: teachers answer themselves",
        config.data.train,
    )
    return ""


def _asks_pool(config: TrainConfig | DistillConfig) -> bool:
    return isinstance(config, DistillConfig) and isinstance(config.teachers.source, PoolSection)


def _start_pool(
    config: TrainConfig | DistillConfig, root: Path, run: RunFolder
) -> TeacherPool | Attachment | None:
    if not isinstance(config, DistillConfig):
        return None
    section = config.teachers.source
    if not isinstance(section, PoolSection):
        return None
    if section.name is not None:
        return _attach(config, section, root, run)
    assert config.teachers.list is not None
    workers, hosts = config.workers, section.hosts
    cpus = math.ceil(workers.most * workers.cpus + hosts * section.cpus_per_host)
    # A worker group's cleaner needs the dashboard.
    ensure_ray(cpus=max(cpus, os.cpu_count() or 1), dashboard=workers.grouped)
    folders = read_teacher_list(config.teachers.list, root)
    logger.info("%s: starting %d teacher hosts", config.name, min(hosts, len(folders)))
    tell: Callable[..., None] = run.event
    pool = TeacherPool.start(
        folders,
        section.at(root),
        recognizer=transcriber_spec(config.teachers, root),
        on_event=tell,
    )
    run.event("pool_started", hosts=section.hosts, teachers=len(folders))
    return pool


def _attach(config: DistillConfig, section: PoolSection, root: Path, run: RunFolder) -> Attachment:
    """Find a place in a pool that runs already."""
    join_cluster()
    digests = None
    if config.teachers.list is not None:
        folders = read_teacher_list(config.teachers.list, root)
        digests = [checkpoint_digest(folder) for folder in folders]
    attachment = attach(section, job=config.name, digests=digests)
    teachers = len(attachment.address.info.teachers)
    logger.info("%s: attached to the pool %s, %d teachers", config.name, section.name, teachers)
    run.event("pool_attached", pool=section.name, teachers=teachers)
    return attachment
