"""One worker's training from its configuration: build everything, restore, train, sum up."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.core.contracts import Reporter, TeacherSource
from kd_ray.evaluation.heartbeat import Heartbeat, Process, Work
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.students.assembly import build_student
from kd_ray.students.collective import Collective
from kd_ray.students.loop import Progress, Student, train
from kd_ray.students.reporters import Beats, Several, TensorBoard
from kd_ray.students.teacher_costs import cost_summary, totals

logger = logging.getLogger(__name__)

TIES_WARNING_SHARE = 0.5
"""Above this share of ties or of zero errors, error rates say little about whom to trust."""
LONG_STRINGS_WARNING_SHARE = 0.05
"""Of teachers' label strings that the student's frames are too few for."""


def run_session(
    config: TrainConfig | DistillConfig,
    *,
    root: Path,
    collective: Collective,
    device: torch.device,
    source: TeacherSource | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda figures: None,
    reporters: Sequence[Reporter] = (),
    driver: Process | None = None,
) -> dict[str, Any]:
    """Train one model as one of `collective.world` workers; returns the run's summary.

    A finished run returns its summary at once; an interrupted one goes on from its last checkpoint.

    Args:
        config: what is trained, and how.
        root: where relative paths start.
        collective: the other workers.
        device: of this one.
        source: of the teachers' signals.
        on_epoch: hears the figures of each validation.
        reporters: hear, on rank 0, what the run folder hears.
        driver: of a worker group, which is started again after an error; None: this process alone
            is the run.
    """
    run = RunFolder(root, config.name)
    finished = run.summary()
    if finished is not None:
        return finished
    leads = collective.rank == 0
    _share(run, collective)
    with _alive(run, config, driver, leads=leads) as heartbeat:
        student, progress = build_student(
            config, run, root, collective, device, source=source, on_epoch=on_epoch
        )
        with _telling(student, progress, run, config, heartbeat, reporters):
            return _train(student, progress, run, config, source)


def _train(
    student: Student,
    progress: Progress,
    run: RunFolder,
    config: TrainConfig | DistillConfig,
    source: TeacherSource | None,
) -> dict[str, Any]:
    collective = student.learner.collective
    leads = collective.rank == 0
    if leads:
        # What came after the checkpoint (or before the first one) is about to be made again.
        run.forget_after(progress.update)
        if progress.update:
            run.event("resumed", update=progress.update)
            logger.info("%s: resumed at update %d", run.name, progress.update)
        else:
            logger.info("%s: %d updates to go", run.name, student.pipeline.total_updates)
    collective.barrier()
    train(student, progress)
    average = _export_average(student, run)
    progress.statistics, progress.costs = totals(progress, source, collective)
    summary = _summary(config, student, progress) | average
    if leads:
        _warn_of_ties(summary, run)
        _warn_of_long_strings(summary, run)
        run.write_summary(summary)
    collective.barrier()
    return summary


def _share(run: RunFolder, collective: Collective) -> None:
    """All workers begin with the checkpoints that rank 0 has, wherever they run.

    Its node may hold one that was written and not sent when the run was killed.
    """
    if collective.rank == 0:
        run.join()
        run.publish()
    collective.barrier()
    if collective.rank != 0:
        run.join()


@contextmanager
def _alive(
    run: RunFolder, config: TrainConfig | DistillConfig, driver: Process | None, *, leads: bool
) -> Iterator[Heartbeat | None]:
    """One of the workers keeps the run's `state.json` up to date."""
    if not leads:
        yield None
        return
    with Heartbeat(run, config.command, Work("preparing"), driver=driver) as heartbeat:
        yield heartbeat


@contextmanager
def _telling(
    student: Student,
    progress: Progress,
    run: RunFolder,
    config: TrainConfig | DistillConfig,
    heartbeat: Heartbeat | None,
    reporters: Sequence[Reporter],
) -> Iterator[None]:
    """Let whoever wants to know hear of every update, as the run folder does."""
    if heartbeat is None:
        yield
        return
    beats = Beats(heartbeat, student.pipeline.total_updates, config.training.epochs)
    beats.begin(progress.update)
    if student.num_teachers:
        heartbeat.tell(lambda: _teachers_so_far(student, progress))
    listeners = [student.reporter, beats, *reporters]
    every = config.training.tensorboard_every_updates
    if every is None:
        student.reporter = Several(listeners)
        yield
        return
    with TensorBoard(run.path / "tensorboard", every, progress.update) as board:
        student.reporter = Several([*listeners, board])
        yield


def _teachers_so_far(student: Student, progress: Progress) -> dict[str, Any]:
    """Of this worker's signals; all workers' are added up in checkpoints and the summary."""
    counts = progress.statistics
    return {
        "teachers": {
            "number": student.num_teachers,
            "signals": counts.signals,
            "utterances": counts.utterances,
            "missing_answers": counts.missing_answers,
            "shortened_signals": counts.shortened,
            "teacher_s": counts.teacher_s,
            "wait_s": progress.teacher_wait_s,
            "seconds": progress.seconds,
        }
    }


def _export_average(student: Student, run: RunFolder) -> dict[str, Any]:
    """Where `training.average_last` asks for it: the mean of the last models becomes `model`.

    Returns what the summary says about it: the updates it is made of, and its validation scores.
    """
    last_models, learner = student.last_models, student.learner
    if last_models is None:
        return {}
    if learner.collective.rank == 0:
        run.publish()
    learner.collective.barrier()  # Rank 0 has written, and sent, the last of them.
    updates = last_models.average_into(learner.model, learner.collective)
    learner.forward.eval()
    scores = student.validation.run(learner.model, learner.collective)
    if learner.collective.rank == 0:
        extra = {"error_rate": scores["error_rate"], "average_of_updates": updates}
        last_models.write(run.path / "model", extra)
    return {"average": {"updates": updates, **scores}}


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
        summary["costs"] = cost_summary(
            progress.costs,
            positions=progress.statistics.positions,
            wait_s=progress.teacher_wait_s,
            seconds=progress.seconds,
        )
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


def _warn_of_long_strings(summary: Mapping[str, Any], run: RunFolder) -> None:
    share = summary.get("signal", {}).get("share_of_strings_too_long", 0.0)
    if share > LONG_STRINGS_WARNING_SHARE:
        number = summary["signal"]["strings_too_long"]
        run.event("strings_too_long", strings=number, share=share)
        logger.warning(
            "%s: %d of the teachers' label strings (%.0f %%) need more encoder frames than the "
            "student has, and CTC could not learn them; give the student's encoder more frames "
            "(a smaller stride)",
            run.name, number, 100 * share,
        )  # fmt: skip
