"""The criterion of AggreVaTe (experimental): what the tried actions were worth; see `Criterion`.

Shapes: B utterances, R items, U target positions, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kd_ray.config.imitation import Aggrevate
from kd_ray.core.contracts import Labels, Signal, Wanted
from kd_ray.core.criteria.protocol import Part, check_items, head, weighted_means
from kd_ray.core.exploration import TriedItems, policy_gradient_loss, regression_loss
from kd_ray.core.imitation import Items
from kd_ray.core.losses import LossSum
from kd_ray.core.targets import IntArray

_LOSSES = {"regression": regression_loss, "policy_gradient": policy_gradient_loss}


class AggrevateCriterion:
    """Regression or policy gradient on the logits of one tried action for each sentence.

    An item's prefix is the rollout up to the step, so that its last position is the one at which
    the action was tried. Counted in sentences; those whose action does not count contribute zero.
    """

    wanted: frozenset[Wanted] = frozenset()

    def __init__(self, config: Aggrevate) -> None:
        self._loss = _LOSSES[config.loss]
        self.weights: Mapping[Part, float] = {"aggrevate": 1.0}

    def counts(
        self,
        *,
        references: Labels | None,
        signal: Signal | None,
        frames: IntArray,
        items: Items | None = None,
    ) -> dict[Part, float]:
        """See `Criterion`; sentences."""
        return {"aggrevate": float(len(_tried(items)))}

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None,
        items: Items | None = None,
    ) -> dict[str, LossSum]:
        """See `Criterion`; neither references nor a signal are read: the items hold their worth."""
        tried = _tried(items)
        logits = head(decoder_logits, "decoder")
        check_items(logits, tried)
        if tried.advantage is None or tried.counts is None:
            raise ValueError("these actions were not judged; see `exploration.judge`")
        rows = torch.arange(len(tried), device=logits.device)
        steps = torch.from_numpy(np.asarray(tried.prefix.lengths)).to(logits.device)
        loss = self._loss(logits[rows, steps], tried.actions, tried.advantage, tried.counts)
        return {"aggrevate": loss}

    def total(
        self,
        losses: Mapping[str, LossSum],
        counts: Mapping[Part, float],
        *,
        alpha: float | None = None,
    ) -> Tensor:
        """See `Criterion`; `alpha` is not read."""
        return weighted_means(self.weights, losses, counts)


def _tried(items: Items | None) -> TriedItems:
    if not isinstance(items, TriedItems):
        raise ValueError(
            "this criterion learns from actions that were tried (`students.explorer`), and "
            f"{type(items).__name__} came"
        )
    return items
