"""What a check looks at of commands that run others: recipes, studies, searches."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from kd_ray.cluster.search.resources import Needs, needs_of, shortage
from kd_ray.cluster.search.space import check_space, listed_settings, read_base
from kd_ray.commands.checking.cluster import named_cluster
from kd_ray.commands.checking.findings import Findings
from kd_ray.commands.checking.models import check_data
from kd_ray.commands.checking.teachers import check_teaching
from kd_ray.commands.recipe import load_task
from kd_ray.commands.study import study_jobs
from kd_ray.commands.train_teachers import teacher_configs
from kd_ray.config.commands import (
    DistillConfig,
    TrainTeachersConfig,
)
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import OptunaSearch, SearchConfig
from kd_ray.config.sources import PoolSource
from kd_ray.speech.manifest import read_manifest


def check_recipe(config: RecipeConfig, root: Path, found: Findings) -> None:
    """Only the configurations: what later steps read is made by earlier ones."""
    for step in config.steps:
        for task in step.tasks:
            section = found.attempt(load_task, task, root)
            if isinstance(section, TrainTeachersConfig):
                found.attempt(teacher_configs, section)
            if isinstance(section, SearchConfig):
                base = found.attempt(read_base, section, root)
                if base is not None:
                    found.attempt(check_space, section, base)


def check_study(config: StudyConfig, root: Path, found: Findings) -> None:
    """The same, for every row and seed."""
    if config.first:
        steps = RecipeConfig(command="recipe", name=config.name, steps=config.first)
        check_recipe(steps, root, found)
    found.attempt(study_jobs, config, root)


def check_search(config: SearchConfig, root: Path, found: Findings) -> None:
    """The base as its own command would see it, and every value of the space."""
    base = found.attempt(read_base, config, root)
    if base is None:
        return
    found.attempt(check_space, config, base)
    if isinstance(base.config, DistillConfig):
        check_teaching(_asked(config, base.config), root, found)
    else:
        check_data(base.config, root, found)
    if config.evaluate is not None:
        for manifest in config.evaluate.splits.values():
            found.attempt(read_manifest, root / manifest)
    needs = needs_of(config, base)
    _check_room(needs, found)
    settings = listed_settings(config)
    algorithm = config.algorithm
    count = algorithm.samples if isinstance(algorithm, OptunaSearch) else len(settings or ())
    found.notes.append(
        f"{count} settings, {len(config.seeds)} seeds: {count * len(config.seeds)} trials; each "
        f"takes {_amounts(needs.trial)}, a pool for all of them {_amounts(needs.pool) or 'nothing'}"
    )


def _asked(config: SearchConfig, base: DistillConfig) -> DistillConfig:
    """The base with its teachers where trials ask them."""
    if config.pool is None:
        return base
    hosts = PoolSource(**config.pool.model_dump())
    return base.model_copy(update={"teachers": base.teachers.model_copy(update={"source": hosts})})


def _check_room(needs: Needs, found: Findings) -> None:
    """Whether this machine has room for the pool and a trial; a cluster is asked elsewhere."""
    if named_cluster():
        return
    import torch

    cpus = os.cpu_count() or 1
    # What a private Ray lacks of CPUs it makes up.
    wanted = needs.pool.get("CPU", 0.0) + needs.trial.get("CPU", 0.0)
    if wanted > cpus:
        found.notes.append(
            f"the pool and a trial ask for {wanted:g} CPUs, this machine has {cpus}: they will "
            "share them, and be slower for it"
        )
    # Custom resources, which only a cluster has, are looked at with it.
    custom = dict.fromkeys([*needs.pool, *needs.trial], math.inf)
    short = shortage(needs, custom | {"CPU": wanted, "GPU": torch.cuda.device_count()})
    if short is not None:
        found.problems.append(
            f"the search does not fit into this machine: {short}; lower pool.gpus_per_host, "
            "gpus_per_trial or workers.gpus of the base (in overrides), or submit it to a cluster"
        )


def _amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())
