"""Learning-rate schedules: from the number of an update to a multiplier of the peak rate.

Constant and linear schedules are functions of the update alone, so that resuming needs no state;
New-Bob remembers validation errors.
"""

import math
from typing import Any

from kd_ray.config.training import Linear, LrSchedule, NewBob


class Schedule:
    """`multiplier(update)` for one run; updates count from 0.

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
