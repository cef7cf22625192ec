"""Everything a training works with, made from its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.model import GlobalNormalizer
from kd_ray.config.sources import PoolSource
from kd_ray.config.strategies import Strategy
from kd_ray.core.contracts import Reporter, TeacherSource
from kd_ray.core.costs import SourceCosts
from kd_ray.core.handshake import handshake
from kd_ray.core.schedules import Progress as HowFar
from kd_ray.core.schedules import Schedule, alpha_at
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError
from kd_ray.evaluation.system import resolve_checkpoint
from kd_ray.models.checkpoint import load_encoder, load_weights, save_model
from kd_ray.models.sequence_model import SpeechModel
from kd_ray.speech.batches import GlobalBatches
from kd_ray.speech.manifest import manifest_digest
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
from kd_ray.students.rollout_memory import gather_in_flight, in_flight_from_json
from kd_ray.students.rollouts import build_planner, remembered
from kd_ray.students.signal_statistics import SignalStatistics
from kd_ray.students.step import Learner, TeacherForcing
from kd_ray.students.teacher_costs import totals
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
    torch.manual_seed(training.seed)
    model = new_model(config, inventories)
    if isinstance(model, SpeechModel) and isinstance(model.config.normalizer, GlobalNormalizer):
        limit = model.config.normalizer.max_utterances
        model.set_normalizer(*channel_statistics(splits["train"], limit))
    if training.init_encoder_from:
        load_encoder(model, resolve_checkpoint(root / training.init_encoder_from))
    if training.init_from:
        load_weights(
            model,
            resolve_checkpoint(root / training.init_from),
            tokens=tokens.to_dict(),
            source_tokens=None if inventories.source is None else inventories.source.to_dict(),
        )
    model.to(device)
    optimizer = build_optimizer(model.parameters(), training.optimizer)
    batches = GlobalBatches(
        [row.id for row in splits["train"].utterances],
        splits["train"].sizes,
        config.data.batches,
        training.seed,
    )
    total_updates = batches.updates_in(training.epochs, training.max_updates)
    schedule = Schedule(training.schedule, total_updates)
    checkpoints = TrainingCheckpoints(run.path / "checkpoints", training.keep_checkpoints)
    made_of = {
        "training_data": manifest_digest(splits["train"].utterances),
        "teachers": _digests(source) if source else [],
    }
    if collective.rank == 0:
        checkpoints.clean()
    progress = Progress()
    rollouts: dict[str, Any] = {}
    latest = checkpoints.latest()
    if latest is not None:
        state = checkpoints.restore(latest, model, optimizer)
        _same_making(run, state.get("made_of", made_of), made_of)
        schedule.load_dict(state["schedule"])
        progress = _progress(state["progress"], leads=collective.rank == 0)
        rollouts = checkpoints.rollouts(latest)
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
            planner = explorer_of(
                planner, source, fusion_of(distills, strategy), tokens, patience_s
            )
    pipeline = Pipeline(
        splits["train"],
        batches,
        total_updates=total_updates,
        # Rollouts are made from weights exactly as many updates old as updates are in flight.
        lookahead=training.lookahead if planner is None else planner.staleness,
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

    source_table = None if inventories.source is None else inventories.source.to_dict()

    def write_model(folder: Path, extra: Mapping[str, Any]) -> None:
        save_model(
            folder, model, tokens=tokens.to_dict(), source_tokens=source_table,
            extra={**extra, "run": config.name, **made_of},
        )  # fmt: skip

    last_models = None
    if training.average_last is not None:
        last_models = LastModels(run.path / "validated", training.average_last, write_model)
        if collective.rank == 0:
            last_models.forget_after(progress.update)

    def save_best(error: float, epoch: int) -> None:
        if collective.rank == 0:
            # The average takes the place of `model` in the end; the best one stays beside it.
            for name in ("model", "best_model") if last_models is not None else ("model",):
                write_model(run.path / name, {"error_rate": error, "epoch": epoch})

    def save_state(progress: Progress) -> None:
        statistics, costs = totals(progress, source, collective)
        in_flight = gather_in_flight(pipeline.rollouts_in_flight(progress.update), collective)
        if collective.rank == 0:
            state = {
                "update": progress.update,
                "progress": {
                    **asdict(progress),
                    "statistics": asdict(statistics),
                    "costs": asdict(costs),
                },
                "schedule": schedule.to_dict(),
                "made_of": made_of,
            }
            checkpoints.save(
                model, optimizer, tokens=tokens.to_dict(), state=state,
                rollouts={"in_flight": in_flight, "memory": remembered(planner)},
                source_tokens=source_table,
            )  # fmt: skip
            run.publish()
        collective.barrier()

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
        checkpoints=checkpoints,
        reporter=reporter,
        training=training,
        num_teachers=len(source.describe().teachers) if source is not None else 0,
        trust=getattr(strategy, "trust", "ctc_greedy"),
        signal_timeout_s=patience_s,
        alpha=_alpha_schedule(config, total_updates),
        save_best=save_best,
        last_models=last_models,
        save_state=save_state,
        dump=partial(dump_update, run, config, learner, inventories.target),
        on_epoch=on_epoch,
    )
    return student, progress


def _validation(
    config: TrainConfig | DistillConfig, valid: StudentData, device: torch.device
) -> Validation:
    """Decoding keeps no gradients, so it takes twice what a micro-batch may have."""
    batches, training = config.data.batches, config.training
    max_batch_s = batches.max_batch_s
    if max_batch_s is not None:
        max_batch_s *= 2 / training.accumulation
    return Validation(valid, 2 * batches.batch_size, device, training.select_by, max_batch_s)


def _digests(source: TeacherSource) -> list[str]:
    """Of the teachers, and of the recogniser that transcribes for them, if there is one."""
    info = source.describe()
    recognizer = [] if info.recognizer is None else [info.recognizer.answers_digest]
    return [each.answers_digest for each in info.teachers] + recognizer


def _teachers_hear(source: TeacherSource) -> bool:
    """Whether requests must carry audio: a store has heard it already."""
    info = source.describe()
    if info.recognizer is not None:
        return True
    return info.source != "store" and any(each.reads == "speech" for each in info.teachers)


def _progress(state: dict[str, Any], *, leads: bool) -> Progress:
    # Rank 0 carries the sum of all workers on; it is summed again at the end.
    statistics, costs = state.pop("statistics"), state.pop("costs", {})
    if not leads:
        return Progress(**state)
    return Progress(**state, statistics=SignalStatistics(**statistics), costs=SourceCosts(**costs))


def _same_making(run: RunFolder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A run goes on with the data and the teachers that it began with, or not at all."""
    words = {"training_data": "training manifest (data.train)", "teachers": "teachers"}
    changed = [
        f"{words[key]}: digest {before[key]} before, {now[key]} now"
        for key in words
        if before[key] != now[key]
    ]
    if changed:
        lines = "\n  ".join(changed)
        raise RunFolderError(
            f"{run.path} has a checkpoint that was made of other things:\n  {lines}\n"
            "Bring them back, give this run another name (name=...), or remove the folder to start "
            "over."
        )


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
