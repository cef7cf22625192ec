"""Every series that kd_ray exports, and how figures become Ray's metrics.

Ray puts `ray_` before a name, and Prometheus `_total` behind a counter's: the counter
`kd_ray_requests` is `ray_kd_ray_requests_total` there. Ray adds the labels of the process
(`WorkerId`, `NodeAddress`, ...). Ray's agents never forget a counter, so labels must have few
values: `Names` keeps them few.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ray.util import metrics as ray_metrics

EXPORT_S = 5.0
"""Ray's own interval is 10 s; a gauge that was not set again for two of them is dropped."""

OTHERS = "(others)"
_SECONDS = tuple(1e-3 * 10 ** (step / 4) for step in range(25))
"""1 ms to 1000 s, each 1.78 times the one before: edges of `LatencyHistogram`, one in four."""


@dataclass(frozen=True)
class Series:
    """One metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()

    @property
    def in_prometheus(self) -> str:
        """What it is called there; of a histogram the part that quantiles are taken of."""
        ending = {"counter": "_total", "gauge": "", "histogram": "_bucket"}[self.kind]
        return f"ray_{self.name}{ending}"


_HOST = ("pool", "host")

SERIES: dict[str, Series] = {
    each.name: each
    for each in (
        # -- of hosts ----------------------------------------------------------------------------
        Series("kd_ray_open_requests", "gauge", "Requests being answered", _HOST),
        Series("kd_ray_queued_utterances", "gauge", "Utterances that wait for a teacher", _HOST),
        Series("kd_ray_held_requests", "gauge", "Requests that wait for room of their job", _HOST),
        Series("kd_ray_requests", "counter", "Requests answered", (*_HOST, "job")),
        Series("kd_ray_rows", "counter", "Utterances times teachers answered", (*_HOST, "job")),
        Series("kd_ray_known_rows", "counter", "Of those, from a cache", (*_HOST, "job")),
        Series("kd_ray_bytes_in", "counter", "Bytes of audio received", (*_HOST, "job")),
        Series("kd_ray_bytes_out", "counter", "Bytes of partials and targets", (*_HOST, "job")),
        Series("kd_ray_errors", "counter", "What went wrong, by kind", (*_HOST, "kind")),
        Series("kd_ray_quarantined", "gauge", "1: a teacher is not asked", (*_HOST, "teacher")),
        Series(
            "kd_ray_teacher_seconds", "counter", "Seconds of computation", (*_HOST, "teacher")
        ),
        Series("kd_ray_passes", "counter", "Forward passes of teachers", _HOST),
        Series("kd_ray_frames", "counter", "Frames (or source tokens) in passes", _HOST),
        Series("kd_ray_padded_frames", "counter", "The same with padding", _HOST),
        Series("kd_ray_expired", "counter", "Pieces of work past their deadline", _HOST),
        Series(
            "kd_ray_batch_utterances", "histogram", "Utterances of a pass", _HOST,
            (1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5, 128.5, 256.5),
        ),
        Series("kd_ray_wait_seconds", "histogram", "From queue to pass", _HOST, _SECONDS),
        Series("kd_ray_answer_seconds", "histogram", "From request to answer", _HOST, _SECONDS),
        Series("kd_ray_resident_bytes", "gauge", "Bytes of loaded teachers", _HOST),
        Series("kd_ray_resident_teachers", "gauge", "Teachers that are loaded", _HOST),
        Series("kd_ray_teacher_loads", "counter", "Loads, where teachers take turns", _HOST),
        Series("kd_ray_load_seconds", "counter", "Seconds of loading", _HOST),
        Series("kd_ray_cache_hits", "counter", "Rows that a cache had", (*_HOST, "level")),
        Series("kd_ray_cache_misses", "counter", "Rows that it had not", (*_HOST, "level")),
        Series("kd_ray_cache_bytes", "gauge", "Bytes of a cache", (*_HOST, "level")),
        Series("kd_ray_cache_evictions", "counter", "Rows that gave way", (*_HOST, "level")),
        # -- of managers -------------------------------------------------------------------------
        Series("kd_ray_pool_hosts", "gauge", "Hosts of a pool, by state", ("pool", "state")),
        Series("kd_ray_pool_teachers", "gauge", "Teachers of a pool", ("pool",)),
        Series("kd_ray_pool_jobs", "gauge", "Jobs attached to a pool", ("pool",)),
        Series("kd_ray_pool_deaths", "counter", "Hosts that died", ("pool",)),
        Series("kd_ray_pool_respawns", "counter", "Hosts started again", ("pool",)),
        # -- of trainings ------------------------------------------------------------------------
        Series("kd_ray_train_updates", "counter", "Updates of students", ("job",)),
        Series("kd_ray_train_utterances", "counter", "Utterances learnt from", ("job",)),
        Series("kd_ray_train_tokens", "counter", "Tokens of their references", ("job",)),
        Series("kd_ray_train_frames", "counter", "Frames (or source tokens) read", ("job",)),
        Series(
            "kd_ray_train_seconds", "counter", "Seconds: data, rollout, teacher, student",
            ("job", "part"),
        ),
        Series("kd_ray_train_events", "counter", "Faults and decisions", ("job", "kind")),
        Series("kd_ray_train_loss", "gauge", "Loss, whole and by part", ("job", "part")),
        Series("kd_ray_train_learning_rate", "gauge", "Learning rate", ("job",)),
        Series("kd_ray_train_grad_norm", "gauge", "Norm of the gradient", ("job",)),
        Series("kd_ray_train_beta", "gauge", "Share of data prefixes", ("job",)),
        Series("kd_ray_train_alpha", "gauge", "The teachers' share of the loss", ("job",)),
        Series("kd_ray_valid_error", "gauge", "Error in percent at validation", ("job", "head")),
        Series("kd_ray_valid_best_error", "gauge", "The lowest so far, in percent", ("job",)),
    )
}  # fmt: skip


class Names:
    """Keeps the values of a label few: beyond `most`, the newest are all called `(others)`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        """The label's value for this name."""
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHERS
            self._known.add(name)
        return name


def job_label(job: str) -> str:
    """A job in a counter's label; trials of a search, of which there are many, count as one."""
    return job.partition("/trials/")[0]


class Instruments:
    """Ray's metrics of this process, each made when it is first told.

    Args:
        make: makes an instrument of a series.
        always: tags of everything that is told here.
    """

    def __init__(self, make: "Callable[[Series], Any] | None" = None, **always: str) -> None:
        self._make = make or _ray_instrument
        self._always = always
        self._made: dict[str, Any] = {}
        self._totals: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def gauge(self, name: str, value: float, **tags: str) -> None:
        """What something is now."""
        self._instrument(name).set(float(value), tags=self._always | tags)

    def add(self, name: str, more: float, **tags: str) -> None:
        """Count so much more."""
        if more > 0:
            self._instrument(name).inc(float(more), tags=self._always | tags)

    def total(self, name: str, value: float, **tags: str) -> None:
        """Count what a running total has grown by since it was told last."""
        key = (name, tuple(sorted(tags.items())))
        before = self._totals.get(key, 0.0)
        self._totals[key] = value
        # A total that has shrunk began anew.
        self.add(name, value - before if value >= before else value, **tags)

    def observe(self, name: str, value: float, count: int, **tags: str) -> None:
        """Something was measured so many times."""
        instrument, all_tags = self._instrument(name), self._always | tags
        for _ in range(count):
            instrument.observe(value, tags=all_tags)

    def _instrument(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(SERIES[name])
        return self._made[name]


def _ray_instrument(series: Series) -> Any:
    kinds = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}
    if series.kind == "histogram":
        return ray_metrics.Histogram(
            series.name, series.description, list(series.boundaries), series.tags
        )
    return kinds[series.kind](series.name, series.description, series.tags)
