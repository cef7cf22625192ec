"""`kd-ray train-teachers`: N models from one base and overrides, in parallel, into a list."""

import logging
import math
import os
from pathlib import Path
from typing import Any

from kd_ray.commands.watch import EpochWatcher
from kd_ray.config.commands import TrainConfig, TrainTeachersConfig
from kd_ray.config.load import ConfigError, apply_overrides, check_as
from kd_ray.evaluation.run_folder import RunFolder, write_atomically

logger = logging.getLogger(__name__)


class TeachersFailed(RuntimeError):
    """Some teachers could not be trained; the text names them."""


def teacher_configs(config: TrainTeachersConfig) -> dict[str, TrainConfig]:
    """The complete configuration of each teacher, by its name; every problem in one error."""
    configs: dict[str, TrainConfig] = {}
    problems = []
    for teacher in config.teachers:
        overrides = {**teacher.overrides, "name": f"{config.name}/{teacher.name}"}
        content = apply_overrides(config.base.model_dump(mode="json"), overrides)
        try:
            checked = check_as(TrainConfig, content, f"teacher {teacher.name}")
        except ConfigError as error:
            problems.append(str(error))
            continue
        assert isinstance(checked, TrainConfig)
        configs[teacher.name] = checked
    if problems:
        raise ConfigError("\n".join(problems))
    return configs


def train_teachers(config: TrainTeachersConfig, root: Path) -> Path:
    """Train every teacher that is not finished yet; returns the teacher list.

    Raises:
        TeachersFailed: naming those that failed; the others are finished, and the same command
            goes on with the rest.
    """
    from kd_ray.cluster.parallel import run_side_by_side
    from kd_ray.cluster.runtime import ensure_ray
    from kd_ray.cluster.trainer import run_training

    configs = teacher_configs(config)
    runs = {name: RunFolder(root, each.name) for name, each in configs.items()}
    todo = {name: each for name, each in configs.items() if runs[name].summary() is None}
    for name in configs.keys() - todo.keys():
        # An old run of another configuration must not pass as this teacher.
        with runs[name].opened(configs[name], whole=False):
            pass
    if todo:
        workers = config.base.workers
        slots = config.max_parallel or _slots(workers.cpus * workers.most)
        logger.info("training %d teachers, %d at a time", len(todo), min(slots, len(todo)))
        watcher = EpochWatcher([runs[name] for name in todo], config.base.training.epochs)
        cpus = math.ceil(workers.cpus * workers.most * min(slots, len(todo))) + 1
        with ensure_ray(cpus=cpus, dashboard=workers.grouped), watcher:
            results = run_side_by_side(
                run_training,
                {name: (each, root) for name, each in todo.items()},
                cpus=0.1 if workers.grouped else workers.cpus,
                gpus=0 if workers.grouped else workers.gpus,
                max_parallel=slots,
                on_tick=watcher.look,
            )
        failed = {name: error for name, error in results.items() if isinstance(error, Exception)}
        if failed:
            lines = "\n".join(f"  {name}: {error}" for name, error in failed.items())
            raise TeachersFailed(
                f"{len(failed)} of {len(configs)} teachers failed:\n{lines}\n"
                "The others are finished; the same command goes on with these."
            )
    listing = _write_list(config, configs, runs, root)
    for name in configs:
        summary = runs[name].summary()
        assert summary is not None
        logger.info("%-24s %s", f"{config.name}/{name}", _describe(summary))
    logger.info("teacher list: %s", listing)
    return listing


def _describe(summary: dict[str, Any]) -> str:
    return (
        f"best valid error {summary['best_error_rate']:.2f} %, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:.0f} s"
    )


def _slots(cpus_each: float) -> int:
    return max(1, int((os.cpu_count() or 1) / cpus_each))


def _write_list(
    config: TrainTeachersConfig,
    configs: dict[str, TrainConfig],
    runs: dict[str, RunFolder],
    root: Path,
) -> Path:
    lines = [f"# teachers of {config.name}; one checkpoint folder a line"]
    lines += [str((runs[name].path / "model").relative_to(root)) for name in configs]
    listing = root / "runs" / config.name / "teachers.txt"
    write_atomically(listing, "\n".join(lines) + "\n")
    return listing
