"""`kd-ray recipe`: commands one after another, some side by side; `make demo` is one."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kd_ray.cluster.search.resources import needs_of, private_cpus
from kd_ray.cluster.search.space import read_base
from kd_ray.commands.registry import COMMANDS
from kd_ray.commands.watch import EpochWatcher
from kd_ray.config.base import Section
from kd_ray.config.commands import DistillConfig, InferTeachersConfig, TrainConfig
from kd_ray.config.load import load
from kd_ray.config.placing import DecodingActors
from kd_ray.config.recipes import RecipeConfig, RecipeStep, RecipeTask
from kd_ray.config.search import SearchConfig
from kd_ray.config.sources import PoolSource
from kd_ray.evaluation.run_folder import RunFolder, write_json
from kd_ray.storage import fetch

logger = logging.getLogger(__name__)


class RecipeFailed(RuntimeError):
    """A task of a recipe failed; what was finished before stays."""


def recipe(config: RecipeConfig, root: Path) -> dict[str, float]:
    """Run every step; returns seconds by step. Finished tasks find their results and do nothing.

    Every configuration is read and checked before the first step starts.
    """
    from kd_ray.cluster.runtime import ensure_ray

    steps = [(step, [load_task(task, root) for task in step.tasks]) for step in config.steps]
    seconds: dict[str, float] = {}
    with ensure_ray(cpus=max(os.cpu_count() or 1, 2, *(_cpus(*each, root) for each in steps))):
        for number, (step, tasks) in enumerate(steps, start=1):
            started = time.perf_counter()
            logger.info("\n[%d/%d] %s", number, len(steps), step.title)
            _run_step(step, tasks, root)
            seconds[step.title] = time.perf_counter() - started
            logger.info("[%d/%d] done in %.0f s", number, len(steps), seconds[step.title])
    write_json(root / "runs" / config.name / "recipe.json", {"seconds": seconds})
    return seconds


def load_task(task: RecipeTask, root: Path) -> Section:
    """Configurations lie beside the code: relative to the command's folder, else to the root."""
    place = Path(task.config)
    return load(place if place.exists() else fetch(root / place), task.overrides)


def _run_step(step: RecipeStep, tasks: list[Section], root: Path) -> None:
    # What is finished only looks at its folder, and needs no process of its own.
    waiting = [task for task in tasks if not _is_finished(task, root)]
    alone = step.parallel == 1 or len(waiting) == 1
    for task in tasks:
        if alone or task not in waiting:
            run_command(task, root)
    if alone or not waiting:
        return
    from kd_ray.cluster.parallel import run_side_by_side

    models = [task for task in waiting if isinstance(task, TrainConfig | DistillConfig)]
    with EpochWatcher([RunFolder(root, task.name) for task in models]) as watcher:
        results = run_side_by_side(
            run_command,
            {_name(task): (task, root) for task in waiting},
            cpus=1,
            gpus=0,
            max_parallel=step.parallel,
            on_tick=watcher.look,
        )
    failed = {name: error for name, error in results.items() if isinstance(error, Exception)}
    if failed:
        lines = "\n".join(f"  {name}: {error}" for name, error in failed.items())
        raise RecipeFailed(f"step {step.title!r}: {len(failed)} tasks failed:\n{lines}")


def _cpus(step: RecipeStep, tasks: Sequence[Section], root: Path) -> int:
    """Logical CPUs that the step's widest tasks take side by side, pool hosts and workers too."""
    return sum(sorted(_task_cpus(task, root) for task in tasks)[-step.parallel :])


def _task_cpus(task: Section, root: Path) -> int:
    cpus = 1.0
    if isinstance(task, SearchConfig):
        # As for a search alone, on a machine of one CPU.
        return private_cpus(task, needs_of(task, read_base(task, root)), 1)
    if isinstance(task, DecodingActors | InferTeachersConfig):
        cpus += task.actors * task.cpus_per_actor
    if isinstance(task, TrainConfig | DistillConfig) and task.workers.grouped:
        cpus += task.workers.most * task.workers.cpus
    if isinstance(task, DistillConfig) and isinstance(task.teachers.source, PoolSource):
        cpus += task.teachers.source.hosts * task.teachers.source.cpus_per_host
    return math.ceil(cpus)


def _is_finished(task: Section, root: Path) -> bool:
    if not isinstance(task, TrainConfig | DistillConfig):
        return False
    return RunFolder(root, task.name).summary() is not None


def run_command(config: Section, root: Path) -> Any:
    """Run the command that a configuration is for."""
    function: Callable[[Any, Path], Any] = COMMANDS[config.command]()  # type: ignore[attr-defined]
    return function(config, root)


def _name(task: Section) -> str:
    return str(getattr(task, "name", task.command))  # type: ignore[attr-defined]
