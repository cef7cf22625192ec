"""The main loop: batches and signals in, a trained model out.

    for each update:  wait for signals -> global counts -> losses, gradients -> step
    for each epoch:   validate -> keep the best model -> checkpoint

Everything random depends on (seed, update), so a resumed run repeats an uninterrupted one, also
with another number of workers.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kd_ray.config.strategies import Trust
from kd_ray.config.training import Training
from kd_ray.core.contracts import Reporter, Signal, TeachersGone
from kd_ray.core.costs import SourceCosts
from kd_ray.core.criteria import Part
from kd_ray.core.schedules import Schedule
from kd_ray.students.last_models import LastModels
from kd_ray.students.monitor import Monitor
from kd_ray.students.optim import set_lr
from kd_ray.students.pipeline import Pipeline, Update
from kd_ray.students.signal_statistics import SignalStatistics
from kd_ray.students.step import LEFT_OUT, Learner
from kd_ray.students.validation import Validation

logger = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """Training cannot go on; the text says why and how to go on from the last checkpoint."""


@dataclass
class Progress:
    """Where the training stands; saved with every checkpoint."""

    update: int = 0
    """Updates done."""
    best_error: float = float("inf")
    best_epoch: int = 0
    out_of_patience: bool = False
    """The model has not become better for `training.patience` epochs."""
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    teacher_wait_s: float = 0.0
    """Of those, seconds in which the student stood still for its teachers."""
    costs: SourceCosts = field(default_factory=SourceCosts)
    """Of the teachers, in earlier sessions of this run."""
    statistics: SignalStatistics = field(default_factory=SignalStatistics)


class Dump(Protocol):
    """Writes down an update that went wrong, for `kd-ray replay`; returns where."""

    def __call__(
        self,
        update: Update,
        signals: Sequence[Signal | None],
        counts: Mapping[Part, float],
        *,
        alpha: float | None,
        loss: float,
        grad_norm: float,
    ) -> Path:
        """`loss`, `grad_norm`: over all workers; `counts` as in `Learner.global_counts`."""
        ...


@dataclass
class Student:
    """All that the loop works with; `students.session` builds it."""

    learner: Learner
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    pipeline: Pipeline
    validation: Validation
    reporter: Reporter
    training: Training
    num_teachers: int
    trust: Trust
    signal_timeout_s: float
    alpha: Callable[[Update], float | None]
    """The teachers' share of the loss, where it is scheduled."""
    save_best: Callable[[float, int], None]
    last_models: LastModels | None
    """For the average of the last validated models, where that is what the run exports."""
    save_state: Callable[[Progress], None]
    dump: Dump
    on_epoch: Callable[[Mapping[str, Any]], None]


def train(student: Student, progress: Progress) -> Progress:
    """Train from `progress` to the last update, or out of patience; returns where it ended."""
    if progress.out_of_patience:
        return progress
    for update in student.pipeline.updates(progress.update):
        started = time.perf_counter()
        figures = take_update(student, progress, update)
        progress.update = update.index + 1
        progress.seconds += time.perf_counter() - started + update.data_s + update.rollout_s
        progress.teacher_wait_s += update.teacher_wait_s
        student.reporter.metrics({"kind": "train", **figures})
        figures_of_epoch = None
        if update.ends_epoch and _is_validated(student, update):
            figures_of_epoch = validate(student, progress, update)
        every = student.training.checkpoint_every_updates
        if update.ends_epoch or (every and progress.update % every == 0):
            student.save_state(progress)
        if figures_of_epoch is not None:
            # Who is told may end this process: by then the checkpoint is there.
            student.on_epoch(figures_of_epoch)
        if progress.out_of_patience:
            break
    return progress


def take_update(student: Student, progress: Progress, update: Update) -> dict[str, Any]:
    """Signals, losses, gradients and one optimiser step; returns its figures."""
    signals = _await_signals(student, progress, update)
    for signal in signals:
        if signal is not None:
            progress.statistics.add(signal, student.trust)
    started = time.perf_counter()
    learner = student.learner
    lr = student.training.optimizer.lr * student.schedule.multiplier(update.index)
    set_lr(student.optimizer, lr)
    counts = learner.global_counts(update, signals)
    alpha = student.alpha(update)
    planner = student.pipeline.planner
    monitor = None if planner is None else Monitor(planner)
    sums = learner.accumulate_gradients(
        update, signals, counts, alpha=alpha, on_losses=None if monitor is None else monitor.watch
    )
    if update.index < student.training.freeze_encoder_updates:
        learner.forget_encoder_gradients()
    grad_norm = nn.utils.clip_grad_norm_(
        learner.model.parameters(), student.training.optimizer.max_grad_norm
    )
    left_out = {name: sums[name] for name in LEFT_OUT if name in sums}
    progress.statistics.leave_out(**{name: int(count) for name, count in left_out.items()})
    amounts = _amounts(update, learner.model.reads)
    sums |= amounts
    sums = dict(zip(sums, learner.collective.sum(list(sums.values())), strict=True))
    loss = sums.pop("loss")
    parts: dict[str, float] = {part: sums[part] / (count or 1.0) for part, count in counts.items()}
    if math.isfinite(loss) and bool(torch.isfinite(grad_norm)):
        student.optimizer.step()
        progress.skipped_in_a_row = 0
    else:
        folder = student.dump(
            update, signals, counts, alpha=alpha, loss=loss, grad_norm=float(grad_norm)
        )
        _skip(student, progress, update, loss, float(grad_norm), folder)
    student.optimizer.zero_grad(set_to_none=True)
    return {
        "update": update.index + 1,
        "epoch": update.epoch + 1,
        "loss": loss,
        **parts,
        "lr": lr,
        **({} if alpha is None else {"alpha": alpha}),
        "grad_norm": float(grad_norm),
        "utterances": len(update.utterance_ids),
        **{name: int(sums[name]) for name in (*amounts, *left_out)},
        "data_s": update.data_s,
        "rollout_s": update.rollout_s,
        "teacher_wait_s": update.teacher_wait_s,
        **({} if monitor is None else monitor.figures(update, learner.collective)),
        "student_s": time.perf_counter() - started,
    }


def _amounts(update: Update, reads: str) -> dict[str, float]:
    """This worker's tokens of references, and what it reads: frames, or tokens of the source."""
    batches = [micro.batch for micro in update.micro_batches if not micro.ghost]
    return {
        "tokens": float(sum(int(batch.references.lengths.sum()) for batch in batches)),
        "frames" if reads == "speech" else "source_tokens": float(
            sum(int(batch.lengths.sum()) for batch in batches)
        ),
    }


def _await_signals(student: Student, progress: Progress, update: Update) -> list[Signal | None]:
    """The signals of an update; without a quorum of teachers in time, a checkpoint and the end.

    Every worker learns that one of them got none, so that they stop together.
    """
    signals: list[Signal | None] = []
    gone: TeachersGone | TimeoutError | None = None
    try:
        signals = student.pipeline.collect(update, student.signal_timeout_s)
    except (TeachersGone, TimeoutError) as error:
        gone = error
    [without] = student.learner.collective.sum([0.0 if gone is None else 1.0])
    if without:
        student.save_state(progress)
        raise TeachersGone(
            f"{gone or 'another worker got no signal'}\nStopped before update {update.index + 1}, "
            "with a checkpoint; the same command goes on from there, with all teachers again."
        ) from gone
    return signals


def _skip(
    student: Student,
    progress: Progress,
    update: Update,
    loss: float,
    grad_norm: float,
    folder: Path,
) -> None:
    progress.skipped_in_a_row += 1
    student.reporter.event(
        "skipped_update",
        update=update.index + 1,
        loss=repr(loss),
        grad_norm=repr(grad_norm),
        utterance_ids=list(update.utterance_ids),
        folder=str(folder),
    )
    logger.warning(
        "update %d skipped: loss %s, gradient norm %s; look into it by `kd-ray replay %s`",
        update.index + 1, loss, grad_norm, folder / "replay.yaml",
    )  # fmt: skip
    if progress.skipped_in_a_row > student.training.max_skipped_updates:
        raise TrainingStopped(
            f"{progress.skipped_in_a_row} updates in a row had a loss or gradient that is not "
            f"finite, the last one: update {update.index + 1}. What it consisted of is in "
            f"{folder}; see which utterances and parameters it comes from with\n"
            f"    kd-ray replay {folder / 'replay.yaml'}\n"
            "The same command goes on from the last checkpoint and comes to the same update; give "
            "the run another name and lower training.optimizer.lr or "
            "training.optimizer.max_grad_norm, or take the utterances out of the manifest."
        )


def _is_validated(student: Student, update: Update) -> bool:
    every = student.training.validate_every_epochs
    return _is_last(student, update) or (update.epoch + 1) % every == 0


def _is_last(student: Student, update: Update) -> bool:
    return update.index + 1 == student.pipeline.total_updates


def validate(student: Student, progress: Progress, update: Update) -> dict[str, Any]:
    """Error rates on the validation split, returned; keeps the model if it is the best so far."""
    started = time.perf_counter()
    student.learner.forward.eval()
    scores = student.validation.run(student.learner.model, student.learner.collective)
    error = scores["error_rate"]
    student.schedule.validated(error)
    if error < progress.best_error:
        progress.best_error, progress.best_epoch = error, update.epoch + 1
        student.save_best(error, update.epoch + 1)
    if student.last_models is not None and student.learner.collective.rank == 0:
        student.last_models.add(update.index + 1)
    figures = {
        "kind": "valid",
        "update": update.index + 1,
        "epoch": update.epoch + 1,
        **scores,
        "best_error_rate": progress.best_error,
        "seconds": time.perf_counter() - started,
    }
    student.reporter.metrics(figures)
    patience = student.training.patience
    if patience is not None and update.epoch + 1 - progress.best_epoch >= patience:
        progress.out_of_patience = True
        student.reporter.event(
            "out_of_patience", epoch=update.epoch + 1, best_epoch=progress.best_epoch
        )
    return {
        **figures,
        "out_of_patience": progress.out_of_patience,
        "last": _is_last(student, update),
    }
