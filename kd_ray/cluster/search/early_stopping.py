"""ASHA of Ray Tune that knows what was decided before, and never stops a trial at its last step."""

import logging
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from kd_ray.cluster.search.book import TrialBook
from kd_ray.config.search import Asha, SearchConfig
from kd_ray.report.search import Trial, setting_text

logger = logging.getLogger(__name__)

_NOBODY: Any = None
"""In place of Tune's controller, which ASHA does not ask."""


class EarlyStopping(ASHAScheduler):
    """Tune numbers its trials anew in each run; here they go by the keys of their folders.

    So the scores of earlier runs count, and a trial that goes on is not compared with itself.
    """

    def __init__(self, settings: Asha, book: TrialBook, epochs: int) -> None:
        """`epochs`: no trial has more."""
        super().__init__(
            time_attr="epoch",
            metric="error_rate",
            mode="min",
            max_t=max(epochs, settings.grace_epochs),
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction_factor,
            stop_last_trials=False,
        )
        self._book = book

    def remember(self, trial: Trial) -> None:
        """Count the scores of a trial of an earlier run."""
        stub = _stub(trial.key)
        super().on_trial_add(_NOBODY, stub)
        # At the end of a trial nobody decides any more, wherever it came.
        decided = trial.curve[:-1] if trial.state == "finished" else trial.curve
        for epoch, error in decided:
            if epoch < trial.epochs:
                super().on_trial_result(_NOBODY, stub, {"epoch": epoch, "error_rate": error})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial comes."""
        super().on_trial_add(tune_controller, _stub(trial.config["key"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after a validation; if not, its folder says so."""
        if "error_rate" not in result or result["epoch"] >= trial.config["epochs"]:
            return TrialScheduler.CONTINUE
        if result.get("out_of_patience") or result.get("last"):
            # It is at its end already: `training.max_updates` may come before the last epoch.
            return TrialScheduler.CONTINUE
        stub = _stub(trial.config["key"])
        decision = super().on_trial_result(tune_controller, stub, result)
        if decision == TrialScheduler.STOP:
            self._note(stub.trial_id, int(result["epoch"]), float(result["error_rate"]))
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its scores are counted already."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Likewise."""

    def _note(self, key: str, epoch: int, error: float) -> None:
        factor = self._reduction_factor
        reason = f"error {error:.2f} %, not among the best 1/{factor:g} that came so far"
        self._book.stopped(key, epoch, reason)
        trial = self._book.trial(key)
        name = f"#{trial.number} {setting_text(trial.setting)}, seed {trial.seed}"
        logger.info("%s: %s", name, trial.reason)


def _stub(key: str) -> Any:
    """All that ASHA reads of a trial."""
    return SimpleNamespace(trial_id=key)


def scheduler_of(config: SearchConfig, book: TrialBook, epochs: int) -> Any:
    """Tune's scheduler for a search, with everything counted that its folders tell."""
    if not isinstance(config.scheduler, Asha):
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    scheduler = EarlyStopping(config.scheduler, book, epochs)
    for trial in book.trials():
        scheduler.remember(trial)
    return scheduler
