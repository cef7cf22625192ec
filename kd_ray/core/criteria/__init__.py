"""What a student learns from: references alone, or teachers' signals and references.

A criterion is a weighted sum of parts. Each part has its own count, known before the forward pass,
so that the loop can add counts over all micro-batches and ranks and divide once:

    counts = all_reduce(criterion.counts(references=..., signal=..., frames=..., items=...))
    loss = criterion.total(criterion.losses(...), counts)
"""

from kd_ray.core.criteria.aggrevate import AggrevateCriterion
from kd_ray.core.criteria.distillation import DistillationCriterion
from kd_ray.core.criteria.protocol import Criterion, Part
from kd_ray.core.criteria.references import SupervisedCriterion

__all__ = [
    "AggrevateCriterion",
    "Criterion",
    "DistillationCriterion",
    "Part",
    "SupervisedCriterion",
]
