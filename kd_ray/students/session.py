"""One worker's training from its configuration: build everything, restore, train, sum up."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.data import AudioChecks
from kd_ray.config.model import GlobalNormalizer
from kd_ray.config.teachers import PoolSource, Trust
from kd_ray.core.contracts import (
    Audio,
    Fusion,
    Reporter,
    Score,
    StudentNeeds,
    TeacherSource,
    Wanted,
    handshake,
)
from kd_ray.core.schedules import Schedule
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError
from kd_ray.evaluation.system import resolve_checkpoint
from kd_ray.models.checkpoint import load_encoder, save_model
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.speech.batches import GlobalBatches
from kd_ray.speech.checks import check_rows, good_rows
from kd_ray.speech.features import SAMPLE_RATE, LogMelExtractor
from kd_ray.speech.manifest import Utterance, manifest_digest, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.checkpoints import TrainingCheckpoints
from kd_ray.students.collective import Collective
from kd_ray.students.criterion import build_criterion
from kd_ray.students.data import Batch, SpeechData, channel_statistics
from kd_ray.students.loop import Progress, Student, train
from kd_ray.students.optim import build_optimizer
from kd_ray.students.pipeline import Pipeline
from kd_ray.students.replay import dump_update
from kd_ray.students.signal_statistics import SignalStatistics
from kd_ray.students.step import Learner, TeacherForcing
from kd_ray.students.validation import Validation

logger = logging.getLogger(__name__)

TIES_WARNING_SHARE = 0.5
"""Above this share of ties or of zero errors, error rates say little about whom to trust."""


class _Silent:
    """The reporter of workers other than rank 0."""

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Nothing: rank 0 reports."""

    def event(self, kind: str, **details: Any) -> None:
        """Nothing: rank 0 reports."""


def run_session(
    config: TrainConfig | DistillConfig,
    *,
    root: Path,
    collective: Collective,
    device: torch.device,
    source: TeacherSource | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Train one model as one of `collective.world` workers; returns the run's summary.

    A finished run returns its summary at once; an interrupted one goes on from its last checkpoint.
    """
    run = RunFolder(root, config.name)
    finished = run.summary()
    if finished is not None:
        return finished
    leads = collective.rank == 0
    student, progress = build_student(
        config, run, root, collective, device, source=source, on_epoch=on_epoch
    )
    if leads:
        # What came after the checkpoint (or before the first one) is about to be made again.
        run.forget_after(progress.update)
        if progress.update:
            run.event("resumed", update=progress.update)
    collective.barrier()
    train(student, progress)
    progress.statistics = SignalStatistics.from_list(collective.sum(progress.statistics.to_list()))
    summary = _summary(config, student, progress)
    if leads:
        _warn_of_ties(summary, run)
        run.write_summary(summary)
    collective.barrier()
    return summary


def read_split(
    manifest: str, root: Path, config: TrainConfig | DistillConfig, tokens: Tokens
) -> list[Utterance]:
    """The usable rows of a manifest, checked against the student's tokens and frame rate.

    Raises:
        BadRowsError: bad rows, all of them listed, where `data.batches.on_bad_row` is `fail`.
    """
    utterances = read_manifest(root / manifest, allow_duplicate_ids=True)
    model = new_model(config, tokens)
    extractor = LogMelExtractor(config.model.front_end)
    bad = check_rows(
        utterances,
        root=root,
        tokens=tokens,
        column=config.data.column,
        # Limits of the corpus are the business of `prepare`; here only what cannot be trained on.
        checks=AudioChecks(min_duration_s=0.03, max_duration_s=86_400.0),
        frames_for=lambda duration_s: model.output_frames(
            extractor.num_frames(round(duration_s * SAMPLE_RATE))
        ),
        read_audio=False,
    )
    return good_rows(
        utterances, bad, on_bad_row=config.data.batches.on_bad_row, what=f"manifest {manifest}"
    )


def new_model(config: TrainConfig | DistillConfig, tokens: Tokens) -> RecognizerModel:
    """A model with fresh weights, drawn from torch's global generator."""
    return RecognizerModel(
        config.model,
        vocabulary_size=len(tokens),
        blank=tokens.blank,
        bos=tokens.bos,
        eos=tokens.eos,
    )


def student_needs(tokens: Tokens) -> StudentNeeds:
    """What the student takes for granted about teachers' signals."""
    return StudentNeeds(
        tokens_digest=tokens.digest,
        vocabulary_size=len(tokens),
        blank=tokens.blank,
        bos=tokens.bos,
        eos=tokens.eos,
    )


def build_request(config: DistillConfig, deadline_s: float) -> Callable[[Batch], Score]:
    """How the student asks its teachers about a batch: teacher-forced along the references."""
    fusion = Fusion(
        strategy=config.teachers.strategy,
        temperature=config.distillation.temperature,
        compatibility=config.distillation.compatibility,
        max_strings=config.distillation.max_strings,
        dtype=config.teachers.dtype,
    )
    wanted: set[Wanted] = set()
    if config.distillation.ctc_weight < 1:
        wanted.add("tokens")
    if config.distillation.ctc_weight > 0:
        wanted.add("labels")

    def request(batch: Batch) -> Score:
        return Score(
            utterance_ids=batch.utterance_ids,
            audio=batch.audio if batch.audio is not None else Audio.of([]),
            references=batch.references,
            fusion=fusion,
            wanted=frozenset(wanted),
            deadline_s=deadline_s,
        )

    return request


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
    tokens = Tokens.load(root / config.data.tokens)
    if source is not None:
        handshake(student_needs(tokens), source.describe())
    extractor = LogMelExtractor(config.model.front_end)
    splits = {
        name: SpeechData(
            read_split(manifest, root, config, tokens),
            root=root,
            tokens=tokens,
            column=config.data.column,
            extractor=extractor,
            cache_gib=config.data.cache_gib / 2,
        )
        for name, manifest in (("train", config.data.train), ("valid", config.data.valid))
    }
    torch.manual_seed(training.seed)
    model = new_model(config, tokens)
    if isinstance(config.model.normalizer, GlobalNormalizer):
        limit = config.model.normalizer.max_utterances
        model.set_normalizer(*channel_statistics(splits["train"], limit))
    if training.init_encoder_from:
        load_encoder(model, resolve_checkpoint(root / training.init_encoder_from))
    model.to(device)
    optimizer = build_optimizer(model.parameters(), training.optimizer)
    batches = GlobalBatches(
        [row.id for row in splits["train"].utterances],
        splits["train"].durations_s,
        config.data.batches,
        training.seed,
    )
    total_updates = sum(batches.updates_per_epoch(epoch) for epoch in range(training.epochs))
    if training.max_updates is not None:
        total_updates = min(total_updates, training.max_updates)
    schedule = Schedule(training.schedule, total_updates)
    checkpoints = TrainingCheckpoints(run.path / "checkpoints", training.keep_checkpoints)
    progress = Progress()
    if collective.rank == 0:
        checkpoints.clean()
    made_of = {
        "training_data": manifest_digest(splits["train"].utterances),
        "teachers": [each.digest for each in source.describe().teachers] if source else [],
    }
    latest = checkpoints.latest()
    if latest is not None:
        state = checkpoints.restore(latest, model, optimizer)
        _same_making(run, state.get("made_of", made_of), made_of)
        schedule.load_dict(state["schedule"])
        statistics = SignalStatistics(**state["progress"].pop("statistics"))
        if collective.rank:
            # Rank 0 carries the sum of all workers on; it is summed again at the end.
            statistics = SignalStatistics()
        progress = Progress(**state["progress"], statistics=statistics)
    reporter: Reporter = run if collective.rank == 0 else _Silent()
    deadline_s = _deadline_s(config)
    is_store = isinstance(config, DistillConfig) and config.teachers.source.type == "store"
    pipeline = Pipeline(
        splits["train"],
        batches,
        total_updates=total_updates,
        lookahead=training.lookahead,
        rank=collective.rank,
        world=collective.world,
        accumulation=training.accumulation,
        source=source,
        request=build_request(config, deadline_s) if isinstance(config, DistillConfig) else None,
        with_audio=source is not None and not is_store,
    )

    def save_best(error: float, epoch: int) -> None:
        if collective.rank == 0:
            extra = {"error_rate": error, "epoch": epoch, "run": config.name, **made_of}
            save_model(run.path / "model", model, tokens=tokens.to_dict(), extra=extra)

    def save_state(progress: Progress) -> None:
        totals = SignalStatistics.from_list(collective.sum(progress.statistics.to_list()))
        if collective.rank == 0:
            state = {
                "update": progress.update,
                "progress": {**asdict(progress), "statistics": asdict(totals)},
                "schedule": schedule.to_dict(),
                "made_of": made_of,
            }
            checkpoints.save(model, optimizer, tokens=tokens.to_dict(), state=state)
        collective.barrier()

    learner = Learner(
        model=model,
        forward=collective.wrap(TeacherForcing(model)),
        criterion=build_criterion(config, tokens),
        collective=collective,
        augment=config.data.augment,
        device=device,
        seed=training.seed,
    )
    student = Student(
        learner=learner,
        optimizer=optimizer,
        schedule=schedule,
        pipeline=pipeline,
        validation=Validation(
            splits["valid"], 2 * config.data.batches.batch_size, device, training.select_by
        ),
        checkpoints=checkpoints,
        reporter=reporter,
        training=training,
        num_teachers=len(source.describe().teachers) if source is not None else 0,
        trust=_trust(config),
        signal_timeout_s=deadline_s + 30.0,
        save_best=save_best,
        save_state=save_state,
        dump=partial(dump_update, run, config, learner, tokens),
        on_epoch=on_epoch,
    )
    return student, progress


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


def _trust(config: TrainConfig | DistillConfig) -> Trust:
    strategy = config.teachers.strategy if isinstance(config, DistillConfig) else None
    return "ctc_greedy" if strategy is None or strategy.type == "average" else strategy.trust


def _deadline_s(config: TrainConfig | DistillConfig) -> float:
    if isinstance(config, DistillConfig) and isinstance(config.teachers.source, PoolSource):
        return config.teachers.source.deadline_s
    return 600.0


def _summary(
    config: TrainConfig | DistillConfig, student: Student, progress: Progress
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": config.name,
        "command": config.command,
        "status": "finished",
        "best_error_rate": progress.best_error,
        "best_epoch": progress.best_epoch,
        "updates": progress.update,
        "seconds": progress.seconds,
        "workers": student.learner.collective.world,
        "parameters": sum(each.numel() for each in student.learner.model.parameters()),
    }
    if isinstance(config, DistillConfig):
        summary |= progress.statistics.summary()
        summary["strategy"] = config.teachers.strategy.type
        summary["teachers"] = student.num_teachers
        summary["source"] = config.teachers.source.type
    return summary


def _warn_of_ties(summary: Mapping[str, Any], run: RunFolder) -> None:
    ties = summary.get("ties")
    if not ties or not ties["utterances"] or summary["teachers"] == 1:
        return
    tied, zero = ties["share_of_ties"], ties["share_of_zero_error"]
    logger.info(
        "%s: teachers tie for the lowest error on %.0f %% of utterances, without error on %.0f %%",
        run.name, 100 * tied, 100 * zero,
    )  # fmt: skip
    if max(tied, zero) > TIES_WARNING_SHARE:
        run.event("ties_warning", share_of_ties=tied, share_of_zero_error=zero)
        logger.warning(
            "%s: on most training utterances error rates do not tell the teachers apart (ties on "
            "%.0f %%, no error on %.0f %%): 'best' and 'weighted' choose little there",
            run.name, 100 * tied, 100 * zero,
        )  # fmt: skip
