"""`kd-ray check`: what would go wrong, found in seconds, before anything starts."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd_ray.commands.checking.cluster import check_cluster, named_cluster
from kd_ray.commands.checking.findings import Findings
from kd_ray.commands.checking.models import (
    check_decode,
    check_evaluate,
    check_generate,
    check_prepare,
    check_train,
    check_train_teachers,
)
from kd_ray.commands.checking.places import check_places
from kd_ray.commands.checking.several import check_recipe, check_search, check_study
from kd_ray.commands.checking.teachers import check_distill, check_infer, check_pool
from kd_ray.config.base import Section
from kd_ray.config.commands import (
    DistillConfig,
    InferTeachersConfig,
    PrepareConfig,
    TrainConfig,
    TrainTeachersConfig,
)
from kd_ray.config.evaluation import DecodeConfig, EvaluateConfig
from kd_ray.config.generation import TranscribeConfig, TranslateConfig
from kd_ray.config.pool import PoolConfig
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import SearchConfig

logger = logging.getLogger(__name__)


def check(config: Section, root: Path) -> Findings:
    """Look at everything that a command would read; logs problems and notes, returns them.

    Where `RAY_ADDRESS` names a cluster, its versions and resources are compared with what is
    installed here and with what the command asks for.
    """
    found = Findings()
    check_places(config, root, found.attempt)
    if not found.ok:
        # Everything else would say once more that the address cannot be read.
        return _told(found)
    for kind, look in _CHECKS.items():
        if isinstance(config, kind):
            look(config, root, found)
    problems, notes = found.attempt(check_cluster, config, named_cluster(), root) or ([], [])
    found.problems += problems
    found.notes += notes
    return _told(found)


def _told(found: Findings) -> Findings:
    for note in found.notes:
        logger.info("note: %s", note)
    for problem in found.problems:
        logger.error("problem: %s", problem)
    if found.ok:
        logger.info("no problem found")
    else:
        logger.error("%d problem%s", len(found.problems), "s" * (len(found.problems) > 1))
    return found


_CHECKS: dict[type[Section], Callable[[Any, Path, Findings], None]] = {
    PrepareConfig: check_prepare,
    TrainConfig: check_train,
    TrainTeachersConfig: check_train_teachers,
    DistillConfig: check_distill,
    InferTeachersConfig: check_infer,
    EvaluateConfig: check_evaluate,
    DecodeConfig: check_decode,
    TranscribeConfig: check_generate,
    TranslateConfig: check_generate,
    RecipeConfig: check_recipe,
    StudyConfig: check_study,
    SearchConfig: check_search,
    PoolConfig: check_pool,
}
