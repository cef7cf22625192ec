"""What a training says of itself: a reporter beside the run folder."""

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, get_args

from kd_ray.cluster.metrics.series import EXPORT_S, Instruments, Names, job_label
from kd_ray.core.criteria import Part

logger = logging.getLogger(__name__)

_MOST_KINDS = 24
_AMOUNTS = {
    "utterances": "kd_ray_train_utterances",
    "tokens": "kd_ray_train_tokens",
    "frames": "kd_ray_train_frames",
    "source_tokens": "kd_ray_train_frames",
}
_PARTS = {
    "data_s": "data",
    "rollout_s": "rollout",
    "teacher_wait_s": "teacher",
    "student_s": "student",
}
_GAUGES = {
    "lr": "kd_ray_train_learning_rate",
    "grad_norm": "kd_ray_train_grad_norm",
    "beta": "kd_ray_train_beta",
    "alpha": "kd_ray_train_alpha",
    "best_error_rate": "kd_ray_valid_best_error",
}


class TrainingFigures:
    """A reporter that adds updates up, and tells Ray of them every few seconds.

    Args:
        job: the run's name.
        instruments: to tell it to.
    """

    def __init__(self, job: str, instruments: Instruments | None = None) -> None:
        self._job = job
        self._tell = instruments or Instruments()
        self._kinds = Names(_MOST_KINDS)
        self._warned = False
        self._lock = threading.Lock()
        self._counts: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(
            float
        )
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell_on, name="figures", daemon=True)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """An update, or a validation."""
        with self._lock:
            if values["kind"] == "train":
                self._count("kd_ray_train_updates", 1)
                for key, name in _AMOUNTS.items():
                    self._count(name, values.get(key, 0))
                for key, part in _PARTS.items():
                    self._count("kd_ray_train_seconds", values.get(key, 0.0), part=part)
                for key in ("loss", *get_args(Part)):
                    self._set("kd_ray_train_loss", values.get(key), part=key)
            for key, name in _GAUGES.items():
                self._set(name, values.get(key))
            # Of translations the one that selects is all there is: 100 minus BLEU or chrF++.
            self._set("kd_ray_valid_error", values.get("error_rate"), head="selected")
            for key, value in values.items():
                if key.startswith("error_rate_"):
                    self._set("kd_ray_valid_error", value, head=key.removeprefix("error_rate_"))

    def event(self, kind: str, **details: Any) -> None:
        """A fault or a decision of the training itself."""
        with self._lock:
            self._count("kd_ray_train_events", 1, kind=self._kinds(kind))

    def tell(self) -> None:
        """Tell what has come since the last time, and how things stand."""
        with self._lock:
            counts, gauges = dict(self._counts), dict(self._gauges)
            self._counts.clear()
        job = job_label(self._job)
        for (name, tags), more in counts.items():
            self._tell.add(name, more, job=job, **dict(tags))
        for (name, tags), value in gauges.items():
            self._tell.gauge(name, value, job=self._job, **dict(tags))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._tell_if_possible()

    def _tell_on(self) -> None:
        while not self._stop.wait(EXPORT_S):
            self._tell_if_possible()

    def _tell_if_possible(self) -> None:
        try:
            self.tell()
        except Exception:
            # A training without figures still learns.
            if not self._warned:
                logger.exception("figures could not be told to Ray; going on")
            self._warned = True

    def _count(self, name: str, more: float, **tags: str) -> None:
        if more:
            self._counts[name, tuple(tags.items())] += more

    def _set(self, name: str, value: Any, **tags: str) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            self._gauges[name, tuple(tags.items())] = float(value)
