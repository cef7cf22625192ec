"""Schedules: from how far a training is to a learning rate, to beta, to the teachers' share.

All but New-Bob, which remembers validation errors, are functions of the progress alone, so that
resuming needs no state and workers agree.
"""

import math
from dataclasses import dataclass
from typing import Any

from kd_ray.config.imitation import (
    BetaSchedule,
    By,
    ConstantBeta,
    ExponentialBeta,
    GoldSchedule,
    LinearBeta,
    ReverseSigmoidBeta,
)
from kd_ray.config.teachers import Distillation
from kd_ray.config.training import InverseSquareRoot, Linear, LrSchedule, NewBob


class Schedule:
    """Learning rate: `multiplier(update)` for one run; updates count from 0.

    The first update of a warm-up of w runs at 1/w of the peak, update w - 1 at the peak. The linear
    schedule reaches `final` at the last update, and all stay where they are after the end.
    """

    def __init__(self, config: LrSchedule, total_updates: int) -> None:
        if total_updates < 1:
            raise ValueError(f"total_updates must be at least 1, got {total_updates}")
        self._config = config
        self._total = total_updates
        self._errors: list[float] = []
        self._factor = 1.0

    def multiplier(self, update: int) -> float:
        """The share of the peak learning rate at which this update runs."""
        done = update + 1
        warmup = self._config.warmup_updates
        if done < warmup:
            return self._factor * done / warmup
        if isinstance(self._config, InverseSquareRoot):
            return math.sqrt(warmup / done)
        if isinstance(self._config, Linear):
            return linear_decay(done, warmup, self._total, self._config.final)
        return self._factor

    def validated(self, error: float) -> None:
        """Tell the schedule a validation error (lower is better); only New-Bob listens.

        New-Bob multiplies the rate by `factor` from the second validation on, whenever
        `(previous - error) / previous` is below `threshold`. A previous error of zero cannot be
        improved; an error that is not a number counts as no improvement and is not remembered.
        """
        if not isinstance(self._config, NewBob):
            return
        if self._errors:
            previous = self._errors[-1]
            improvement = (previous - error) / previous if previous > 0 else 0.0
            if not improvement >= self._config.threshold:
                self._factor *= self._config.factor
        if math.isfinite(error):
            self._errors.append(error)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"errors": list(self._errors), "factor": self._factor}

    def load_dict(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` was called."""
        self._errors = [float(error) for error in state["errors"]]
        self._factor = float(state["factor"])


def linear_decay(done: int, warmup: int, total: int, final: float) -> float:
    """From 1 at the end of the warm-up down to `final` at `total` updates, and `final` after."""
    if done <= warmup:
        return 1.0
    share = min(1.0, (done - warmup) / max(1, total - warmup))
    return 1.0 - (1.0 - final) * share


@dataclass(frozen=True)
class Progress:
    """How far a training is: finished updates and epochs, and how many there will be."""

    update: int
    total_updates: int
    epoch: int
    total_epochs: int

    def done(self, by: By) -> tuple[int, int]:
        """Finished and total number of updates or epochs."""
        pair = (
            (self.update, self.total_updates) if by == "update" else (self.epoch, self.total_epochs)
        )
        if pair[1] < 1:
            raise ValueError(f"a training has at least 1 {by}, got {pair[1]}")
        return pair


def beta_at(config: BetaSchedule, progress: Progress) -> float:
    """The probability that a sentence keeps its data prefix, in [0, 1].

    A function of the progress alone: the same on every worker, and after a resume. With u the
    finished share of the training, counted from the end of the warm-up (during which beta is 1) so
    that u reaches 1 at the end of the training whatever the warm-up:

        exponential     base ** -u                    (1 to 1/base; Lin et al. 2020 use 200)
        linear          1 - (1 - floor) u
        reverse_sigmoid 1 / (1 + exp(steepness (u - 1/2)))
        inverse_sigmoid mu / (mu + exp(n / mu)), n = finished updates or epochs after the warm-up

    Before the first update (or epoch, `by: epoch`) nothing is finished, and u is 0.
    """
    if isinstance(config, ConstantBeta):
        return config.value
    done, total = progress.done(config.by)
    waited = config.warmup_share * total
    if done < waited:
        return 1.0
    share = min(1.0, (done - waited) / (total - waited))
    if isinstance(config, ExponentialBeta):
        return float(config.base**-share)
    if isinstance(config, LinearBeta):
        return 1.0 - (1.0 - config.floor) * share
    if isinstance(config, ReverseSigmoidBeta):
        return _sigmoid(-config.steepness * (share - 0.5))
    return _sigmoid(math.log(config.mu) - (done - waited) / config.mu)


def alpha_at(config: Distillation, progress: Progress) -> float:
    """The teachers' share of the loss: 1 minus the gold weight, wherever that is by now."""
    gold = config.gold_weight
    if not isinstance(gold, GoldSchedule):
        return config.alpha
    done, total = progress.done(gold.by)
    return 1.0 - (gold.start + (gold.final - gold.start) * min(1.0, done / total))


def _sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), for any value."""
    if value < 0:
        return math.exp(value) / (1.0 + math.exp(value))
    return 1.0 / (1.0 + math.exp(-value))
