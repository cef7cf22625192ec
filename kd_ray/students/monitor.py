"""What imitation looks like from inside, update by update: figures for metrics.jsonl."""

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np
from torch import Tensor

from kd_ray.core.contracts import Signal
from kd_ray.core.diagnostics import (
    ImitationSums,
    age_sums,
    divergence_sums,
    rollout_sums,
    teacher_sums,
)
from kd_ray.core.exploration import ExplorationSums, TriedItems
from kd_ray.core.imitation import rollout_caps
from kd_ray.core.losses import LossSum
from kd_ray.students.collective import Collective
from kd_ray.students.pipeline import MicroBatch, Update
from kd_ray.students.rollouts import Planner


class Monitor:
    """Watches the micro-batches of one update, and adds up over workers."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._sums = ImitationSums()
        self._explored = ExplorationSums()

    def watch(
        self,
        micro: MicroBatch,
        signal: Signal | None,
        losses: Mapping[str, LossSum],
        logits: Tensor,
    ) -> None:
        """One micro-batch; `logits` (R, L+1, V) of the pass that the loss was taken of."""
        assert micro.items is not None, "with a planner, every micro-batch has items"
        if isinstance(micro.items, TriedItems):
            self._explored += ExplorationSums.over(micro.items)
            return
        model, config = self._planner.model, self._planner.config
        frames = np.array([model.output_frames(int(length)) for length in micro.batch.lengths])
        self._sums += rollout_sums(
            micro.items,
            micro.batch.references,
            len(frames),
            rollout_caps(config.rollout, frames),
        )
        if signal is not None:
            self._sums += teacher_sums(micro.items, signal, eos=model.eos)
            self._sums += divergence_sums(
                micro.items, signal, logits, temperature=config.temperature
            )

    def figures(self, update: Update, collective: Collective) -> dict[str, float]:
        """Figures of the whole update: beta, shares and means; or the worth of tried actions."""
        if self._planner.config.aggrevate is not None:
            return ExplorationSums(*collective.sum(list(astuple(self._explored)))).figures()
        if self._planner.memory is not None:
            self._sums += age_sums(
                [
                    [update.index - written.update for written in read]
                    for micro in update.micro_batches
                    for read in micro.rollouts.values()
                ]
            )
        sums = ImitationSums.of(collective.sum(self._sums.values()))
        return {"beta": self._planner.beta(update.index, update.epoch), **sums.figures()}
