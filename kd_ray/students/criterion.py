"""From a training's section to what its student learns from."""

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.core.criteria import (
    AggrevateCriterion,
    Criterion,
    DistillationCriterion,
    SupervisedCriterion,
)
from kd_ray.speech.tokens import Tokens


def build_criterion(config: TrainConfig | DistillConfig, tokens: Tokens) -> Criterion:
    """Teachers and references (or tried actions) for `distill`, references alone for `train`."""
    if isinstance(config, DistillConfig):
        if config.distillation.aggrevate is not None:
            return AggrevateCriterion(config.distillation.aggrevate)
        return DistillationCriterion(config.distillation, blank=tokens.blank, eos=tokens.eos)
    return SupervisedCriterion(config.loss, blank=tokens.blank, eos=tokens.eos)
