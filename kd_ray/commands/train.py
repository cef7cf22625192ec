"""`kd-ray train` and `kd-ray distill`: one model."""

import logging
from pathlib import Path
from typing import Any

from kd_ray.commands.watch import EpochWatcher, watching
from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.evaluation.run_folder import RunFolder

logger = logging.getLogger(__name__)


def train(config: TrainConfig, root: Path) -> dict[str, Any]:
    """Train a model from references; returns the summary of its run folder."""
    return _run(config, root)


def distill(config: DistillConfig, root: Path) -> dict[str, Any]:
    """Distil a student from teachers; returns the summary of its run folder.

    Raises:
        HandshakeError: student and teachers do not mean the same by their numbers.
        TeachersGone: fewer teachers answered than `quorum` asks for; the same command goes on
            from the last checkpoint.
    """
    return _run(config, root)


def _run(config: TrainConfig | DistillConfig, root: Path) -> dict[str, Any]:
    from kd_ray.cluster.trainer import run_training

    watcher = EpochWatcher([RunFolder(root, config.name)], config.training.epochs)
    with watching(watcher):
        summary = run_training(config, root)
    logger.info(
        "%s: best validation error %.2f %% in epoch %d, %d updates in %.0f s, %s parameters",
        config.name,
        summary["best_error_rate"],
        summary["best_epoch"],
        summary["updates"],
        summary["seconds"],
        f"{summary['parameters']:,}",
    )
    if average := summary.get("average"):
        logger.info(
            "%s: the exported model is the average of the last %d validated ones, error %.2f %%",
            config.name,
            len(average["updates"]),
            average["error_rate"],
        )
    return summary
