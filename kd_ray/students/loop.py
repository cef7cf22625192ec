"""The main loop: batches and signals in, a trained model out.

    for each update:  wait for signals -> global counts -> losses, gradients -> step
    for each epoch:   validate -> keep the best model -> checkpoint

Everything random depends on (seed, update, worker), so a resumed run repeats an uninterrupted one.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_ray.config.data import SpecAugment
from kd_ray.config.teachers import Trust
from kd_ray.config.training import Training
from kd_ray.core.contracts import Labels, Reporter, Signal
from kd_ray.core.criteria import Criterion, Part
from kd_ray.core.schedules import Schedule
from kd_ray.core.targets import IntArray
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.speech.features import spec_augment
from kd_ray.students.checkpoints import TrainingCheckpoints
from kd_ray.students.collective import Collective
from kd_ray.students.optim import set_lr
from kd_ray.students.pipeline import MicroBatch, Pipeline, Update
from kd_ray.students.signal_statistics import SignalStatistics
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
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    statistics: SignalStatistics = field(default_factory=SignalStatistics)


@dataclass
class Student:
    """All that the loop works with; `students.session` builds it."""

    model: RecognizerModel
    forward: nn.Module
    """`TeacherForcing` around the model, wrapped for the group of workers."""
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    pipeline: Pipeline
    validation: Validation
    checkpoints: TrainingCheckpoints
    collective: Collective
    reporter: Reporter
    training: Training
    augment: SpecAugment | None
    device: torch.device
    num_teachers: int
    trust: Trust
    signal_timeout_s: float
    save_best: Callable[[float, int], None]
    save_state: Callable[[Progress], None]
    on_epoch: Callable[[Mapping[str, Any]], None]


class TeacherForcing(nn.Module):
    """The student's training forward pass, as one module for DDP."""

    def __init__(self, model: RecognizerModel):
        super().__init__()
        self.model = model

    def forward(
        self, normalized: Tensor, lengths: Tensor, prefix: Tensor, prefix_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T, F) features to CTC logits (B, T', V) and decoder logits (B, U, V)."""
        encoded = self.model.encode(normalized, lengths)
        decoder_logits = self.model.decoder_logits(encoded, prefix, prefix_lengths)
        return self.model.ctc_logits(encoded), decoder_logits


def train(student: Student, progress: Progress) -> Progress:
    """Train from `progress` to the last update; returns where it ended."""
    for update in student.pipeline.updates(progress.update):
        started = time.perf_counter()
        figures = take_update(student, progress, update)
        progress.update = update.index + 1
        progress.seconds += time.perf_counter() - started + update.data_s
        student.reporter.metrics({"kind": "train", **figures})
        if update.ends_epoch and _is_validated(student, update):
            validate(student, progress, update)
        every = student.training.checkpoint_every_updates
        if update.ends_epoch or (every and progress.update % every == 0):
            student.save_state(progress)
    return progress


def take_update(student: Student, progress: Progress, update: Update) -> dict[str, Any]:
    """Signals, losses, gradients and one optimiser step; returns its figures."""
    signals = student.pipeline.collect(update, student.signal_timeout_s)
    for signal in signals:
        if signal is not None:
            progress.statistics.add(signal, student.trust)
    started = time.perf_counter()
    lr = student.training.optimizer.lr * student.schedule.multiplier(update.index)
    set_lr(student.optimizer, lr)
    counts = _global_counts(student, update, signals)
    sums = _accumulate_gradients(student, update, signals, counts)
    grad_norm = nn.utils.clip_grad_norm_(
        student.model.parameters(), student.training.optimizer.max_grad_norm
    )
    sums = dict(zip(sums, student.collective.sum(list(sums.values())), strict=True))
    loss = sums.pop("loss")
    parts: dict[str, float] = {part: sums[part] / (count or 1.0) for part, count in counts.items()}
    if math.isfinite(loss) and bool(torch.isfinite(grad_norm)):
        student.optimizer.step()
        progress.skipped_in_a_row = 0
    else:
        _skip(student, progress, update, loss, float(grad_norm))
    student.optimizer.zero_grad(set_to_none=True)
    return {
        "update": update.index + 1,
        "epoch": update.epoch + 1,
        "loss": loss,
        **parts,
        "lr": lr,
        "grad_norm": float(grad_norm),
        "utterances": len(update.utterance_ids),
        "data_s": update.data_s,
        "teacher_wait_s": update.teacher_wait_s,
        "student_s": time.perf_counter() - started,
    }


def _global_counts(
    student: Student, update: Update, signals: list[Signal | None]
) -> dict[Part, float]:
    """How many utterances and positions each part of the loss is divided by, over all workers."""
    local: dict[Part, float] = dict.fromkeys(student.criterion.weights, 0.0)
    for micro, signal in zip(update.micro_batches, signals, strict=True):
        if not micro.ghost:
            counts = student.criterion.counts(
                references=micro.batch.references,
                signal=signal,
                frames=_frames(student.model, micro),
            )
            for part in local:
                local[part] += counts[part]
    return dict(zip(local, student.collective.sum(list(local.values())), strict=True))


def _accumulate_gradients(
    student: Student, update: Update, signals: list[Signal | None], counts: dict[Part, float]
) -> dict[str, float]:
    """Backward through every micro-batch; workers exchange gradients in the last one only.

    Returns this worker's share of the loss, and the sums of its parts.
    """
    sums: dict[str, float] = {"loss": 0.0, **dict.fromkeys(student.criterion.weights, 0.0)}
    last = len(update.micro_batches) - 1
    student.forward.train()
    for position, (micro, signal) in enumerate(zip(update.micro_batches, signals, strict=True)):
        _seed(student.training.seed, update.index, student.collective.rank, position)
        if student.collective.world > 1 and position < last:
            with student.forward.no_sync():  # type: ignore[operator]
                _backward(student, update, micro, signal, counts, sums)
        else:
            _backward(student, update, micro, signal, counts, sums)
    return sums


def _backward(
    student: Student,
    update: Update,
    micro: MicroBatch,
    signal: Signal | None,
    counts: dict[Part, float],
    sums: dict[str, float],
) -> None:
    ctc_logits, decoder_logits = student.forward(*_inputs(student, update, micro))
    if micro.ghost:
        (0.0 * (ctc_logits.float().mean() + decoder_logits.float().mean())).backward()
        return
    losses = student.criterion.losses(
        ctc_logits=ctc_logits,
        frames=_frames(student.model, micro),
        decoder_logits=decoder_logits,
        references=micro.batch.references,
        signal=signal,
    )
    total = student.criterion.total(losses, counts)
    # DDP averages gradients over workers, the loss is a sum over them.
    (total * student.collective.world).backward()  # type: ignore[no-untyped-call]
    sums["loss"] += float(total.detach())
    for part in student.criterion.weights:
        sums[part] += float(losses[part].sum.detach())


def _inputs(
    student: Student, update: Update, micro: MicroBatch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, device = micro.batch, student.device
    lengths = batch.lengths.to(device)
    normalized = student.model.normalize(batch.features.to(device), lengths)
    if student.augment is not None:
        normalized = spec_augment(
            normalized,
            lengths,
            student.augment,
            seed=student.training.seed,
            utterance_ids=batch.utterance_ids,
            epoch=update.epoch,
            frame_shift_s=student.model.config.front_end.frame_shift_ms / 1000,
        )
    prefix: Labels = batch.references
    return (
        normalized,
        lengths,
        torch.from_numpy(prefix.ids).to(device),
        torch.from_numpy(prefix.lengths).to(device),
    )


def _frames(model: RecognizerModel, micro: MicroBatch) -> IntArray:
    """Encoder frames (B,) of a micro-batch, known before the forward pass."""
    return np.array([model.output_frames(int(length)) for length in micro.batch.lengths])


def _seed(seed: int, update: int, rank: int, position: int) -> None:
    """Dropout depends on where we are, not on how we came here."""
    text = f"{seed}/{update}/{rank}/{position}".encode()
    torch.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))


def _skip(
    student: Student, progress: Progress, update: Update, loss: float, grad_norm: float
) -> None:
    progress.skipped_in_a_row += 1
    student.reporter.event(
        "skipped_update",
        update=update.index + 1,
        loss=repr(loss),
        grad_norm=repr(grad_norm),
        utterance_ids=list(update.utterance_ids),
    )
    logger.warning(
        "update %d skipped: loss %s, gradient norm %s", update.index + 1, loss, grad_norm
    )
    if progress.skipped_in_a_row > student.training.max_skipped_updates:
        raise TrainingStopped(
            f"{progress.skipped_in_a_row} updates in a row had a loss or gradient that is not "
            f"finite (the last one: update {update.index + 1}; its utterances stand in "
            "events.jsonl). The same command goes on from the last checkpoint and comes to the "
            "same update; lower training.optimizer.lr or training.optimizer.max_grad_norm, or "
            "take the utterances out of the manifest."
        )


def _is_validated(student: Student, update: Update) -> bool:
    every = student.training.validate_every_epochs
    is_last = update.index + 1 == student.pipeline.total_updates
    return is_last or (update.epoch + 1) % every == 0


def validate(student: Student, progress: Progress, update: Update) -> None:
    """Error rates on the validation split; keeps the model if it is the best so far."""
    started = time.perf_counter()
    student.forward.eval()
    scores = student.validation.run(student.model, student.collective)
    error = scores["error_rate"]
    student.schedule.validated(error)
    if error < progress.best_error:
        progress.best_error, progress.best_epoch = error, update.epoch + 1
        student.save_best(error, update.epoch + 1)
    figures = {
        "kind": "valid",
        "update": update.index + 1,
        "epoch": update.epoch + 1,
        **scores,
        "best_error_rate": progress.best_error,
        "seconds": time.perf_counter() - started,
    }
    student.reporter.metrics(figures)
    student.on_epoch(figures)
