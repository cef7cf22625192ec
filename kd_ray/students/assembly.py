"""Everything a training works with, made from its configuration."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.model import GlobalNormalizer
from kd_ray.config.sources import PoolSource
from kd_ray.config.strategies import Strategy
from kd_ray.core.contracts import Reporter, TeacherSource
from kd_ray.core.handshake import handshake
from kd_ray.core.schedules import Progress as HowFar
from kd_ray.core.schedules import Schedule, alpha_at
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.evaluation.system import resolve_checkpoint
from kd_ray.models.checkpoint import load_encoder, load_weights
from kd_ray.models.sequence_model import SequenceModel, SpeechModel
from kd_ray.speech.batches import GlobalBatches
from kd_ray.students.checkpoints import TrainingCheckpoints
from kd_ray.students.collective import Collective
from kd_ray.students.criterion import build_criterion
from kd_ray.students.data import StudentData, channel_statistics
from kd_ray.students.explorer import explorer_of
from kd_ray.students.last_models import LastModels
from kd_ray.students.loop import Progress, Student
from kd_ray.students.materials import Inventories, build_data, new_model, student_needs
from kd_ray.students.optim import build_optimizer
from kd_ray.students.pipeline import Pipeline, Update
from kd_ray.students.replay import dump_update
from kd_ray.students.requests import build_request, fusion_of, strategy_of
from kd_ray.students.rollout_memory import in_flight_from_json
from kd_ray.students.rollouts import build_planner
from kd_ray.students.saving import Saver, made_of
from kd_ray.students.step import Learner, TeacherForcing
from kd_ray.students.validation import Validation


class Silent:
    """The reporter of workers other than rank 0."""

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Nothing: rank 0 reports."""

    def event(self, kind: str, **details: Any) -> None:
        """Nothing: rank 0 reports."""


def build_student(
    config: TrainConfig | DistillConfig,
    run: RunFolder,
    root: Path,
    collective: Collective,
    device: torch.device,
    *,
    source: TeacherSource | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda figures: None,
) -> tuple[Student, Progress]:
    """Everything the loop works with, restored from the run's last checkpoint if there is one."""
    training = config.training
    inventories = Inventories.load(config, root)
    tokens = inventories.target
    distills = config if isinstance(config, DistillConfig) else None
    strategy: Strategy | None = None
    if source is not None:
        handshake(student_needs(tokens, distills), source.describe())
        if distills is not None:
            strategy = strategy_of(distills, source.describe().teachers, root)
    splits = build_data(config, root, inventories)
    model = _first_model(config, root, inventories, splits["train"]).to(device)
    optimizer = build_optimizer(model.parameters(), training.optimizer)
    batches = GlobalBatches(
        [row.id for row in splits["train"].utterances],
        splits["train"].sizes,
        config.data.batches,
        training.seed,
    )
    total_updates = batches.updates_in(training.epochs, training.max_updates)
    schedule = Schedule(training.schedule, total_updates)
    saver = Saver(
        run=run,
        checkpoints=TrainingCheckpoints(run.path / "checkpoints", training.keep_checkpoints),
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        inventories=inventories,
        collective=collective,
        source=source,
        made_of=made_of(splits["train"].utterances, splits["valid"].utterances, source),
        averages=training.average_last is not None,
    )
    progress, rollouts = saver.restore()
    deadline_s, patience_s = _deadline_s(config), _patience_s(config)
    planner = None
    if distills is not None:
        planner = build_planner(
            distills.distillation, model, seed=training.seed, total_updates=total_updates,
            epochs=training.epochs, device=device, exchange=collective.gather,
            saved=in_flight_from_json(rollouts.get("in_flight", {})),
            stored=rollouts.get("memory", {}),
            source=source, tokens=tokens, timeout_s=patience_s,
        )  # fmt: skip
        if distills.distillation.aggrevate is not None:
            assert planner is not None, "every sentence gets a rollout"
            assert source is not None, "a distillation has a source"
            fusion = fusion_of(distills, strategy)
            planner = explorer_of(planner, source, fusion, tokens, patience_s)
    pipeline = Pipeline(
        splits["train"],
        batches,
        total_updates=total_updates,
        # Rollouts are made from weights exactly as many updates old as updates are in flight.
        lookahead=(
            planner.staleness if planner is not None and planner.rolls_out else training.lookahead
        ),
        rank=collective.rank,
        world=collective.world,
        # A group that is smaller than it may be takes the same micro-batches, more of them each.
        parts=max(config.workers.most, collective.world) * training.accumulation,
        source=source,
        request=None if distills is None else build_request(distills, deadline_s, strategy),
        planner=planner,
        with_audio=source is not None and _teachers_hear(source),
        timeout_s=patience_s,
    )
    last_models = None
    if training.average_last is not None:
        last_models = LastModels(run.path / "validated", training.average_last, saver.write_model)
        if collective.rank == 0:
            last_models.forget_after(progress.update)
    learner = Learner(
        model=model,
        forward=collective.wrap(TeacherForcing(model)),
        criterion=build_criterion(config, tokens),
        collective=collective,
        augment=config.data.augment if model.reads == "speech" else None,
        device=device,
        seed=training.seed,
    )
    reporter: Reporter = run if collective.rank == 0 else Silent()
    student = Student(
        learner=learner,
        optimizer=optimizer,
        schedule=schedule,
        pipeline=pipeline,
        validation=_validation(config, splits["valid"], device),
        reporter=reporter,
        training=training,
        num_teachers=len(source.describe().teachers) if source is not None else 0,
        trust=getattr(strategy, "trust", "ctc_greedy"),
        signal_timeout_s=patience_s,
        alpha=_alpha_schedule(config, total_updates),
        save_best=saver.save_best,
        last_models=last_models,
        save_state=partial(saver.save_state, pipeline),
        dump=partial(dump_update, run, config, learner, inventories),
        on_epoch=on_epoch,
    )
    return student, progress


def _first_model(
    config: TrainConfig | DistillConfig, root: Path, inventories: Inventories, train: StudentData
) -> SequenceModel:
    """The model that a training begins with."""
    training = config.training
    torch.manual_seed(training.seed)
    model = new_model(config, inventories)
    if isinstance(model, SpeechModel) and isinstance(model.config.normalizer, GlobalNormalizer):
        limit = model.config.normalizer.max_utterances
        model.set_normalizer(*channel_statistics(train, limit))
    if training.init_encoder_from:
        load_encoder(model, resolve_checkpoint(root / training.init_encoder_from))
    if training.init_from:
        load_weights(
            model,
            resolve_checkpoint(root / training.init_from),
            tokens=inventories.target.to_dict(),
            source_tokens=None if inventories.source is None else inventories.source.to_dict(),
        )
    return model


def _validation(
    config: TrainConfig | DistillConfig, valid: StudentData, device: torch.device
) -> Validation:
    """Decoding keeps no gradients, so it takes twice what a micro-batch may have."""
    batches, training = config.data.batches, config.training
    max_batch_s = batches.max_batch_s
    if max_batch_s is not None:
        max_batch_s *= 2 / training.accumulation
    return Validation(valid, 2 * batches.batch_size, device, training.select_by, max_batch_s)


def _teachers_hear(source: TeacherSource) -> bool:
    """Whether requests must carry audio: a store has heard it already."""
    info = source.describe()
    if info.recognizer is not None:
        return True
    return info.source != "store" and any(each.reads == "speech" for each in info.teachers)


def _alpha_schedule(
    config: TrainConfig | DistillConfig, total_updates: int
) -> Callable[[Update], float | None]:
    if not isinstance(config, DistillConfig):
        return lambda update: None
    section, epochs = config.distillation, config.training.epochs
    return lambda update: alpha_at(
        section, HowFar(update.index, total_updates, update.epoch, epochs)
    )


def _deadline_s(config: TrainConfig | DistillConfig) -> float:
    if isinstance(config, DistillConfig) and isinstance(config.teachers.source, PoolSource):
        return config.teachers.source.deadline_s
    return 600.0


def _patience_s(config: TrainConfig | DistillConfig) -> float:
    """After which a signal is late, whatever the source does to get it.

    Hosts of a pool may be lost at their deadline, be waited for, and be asked once more.
    """
    patience_s = _deadline_s(config) + 30.0
    if isinstance(config, DistillConfig) and isinstance(config.teachers.source, PoolSource):
        patience_s += config.teachers.source.recover_s + config.teachers.source.deadline_s
    return patience_s
