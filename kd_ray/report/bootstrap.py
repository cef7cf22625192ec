"""How sure an error rate and a difference of two are: a paired bootstrap over utterances.

Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation".
The utterances are drawn with replacement, the same ones for every system. It covers the choice of
test utterances only: not the training seed, and not that speakers repeat within a split.

Shapes: S systems, U utterances, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kd_ray.report.results import Hypotheses, Results

RESAMPLES = 1000
SEED = 20200509
_CHUNK = 100


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resampled values, in percentage points."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A system minus the baseline, on the same utterances."""

    difference: float
    """Percentage points; negative: fewer errors than the baseline."""
    interval: Interval
    p_value: float
    """Two-sided: `min(1, 2 (1 + n) / (R + 1))`, n the resamples on the rarer side of zero."""

    @property
    def includes_zero(self) -> bool:
        """Whether this split cannot tell the two apart."""
        return self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True)
class Statistics:
    """Intervals of all systems and comparisons of students with the baseline."""

    split: str
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    teacher_mean: Interval | None = None
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    resamples: int = RESAMPLES
    notes: tuple[str, ...] = ()


def resample_rates(
    errors_SU: NDArray[np.int64],
    lengths_U: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> NDArray[np.float64]:
    """Error rates in percent of S systems on R resampled sets of utterances, (R, S).

    Paired: a resample draws the same utterances for all systems. A resample whose references
    are all empty gives rate 0.
    """
    generator = np.random.default_rng(seed)
    num_utterances = len(lengths_U)
    uniform = np.full(num_utterances, 1.0 / num_utterances)
    rates = []
    # Chunks bound the (chunk, U) matrix of draws: 40 MB at 50,000 utterances.
    for start in range(0, resamples, _CHUNK):
        draws = generator.multinomial(num_utterances, uniform, min(_CHUNK, resamples - start))
        draws = draws.astype(np.float64)
        units = np.maximum(draws @ lengths_U, 1)
        rates.append(100.0 * (draws @ errors_SU.T) / units[:, None])
    return np.concatenate(rates)


def _interval(values_R: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values_R, [0.025, 0.975])
    return Interval(float(low), float(high))


def compare(
    rates_R: NDArray[np.float64], baseline_R: NDArray[np.float64], observed: float
) -> Comparison:
    """A system's resampled rates against the baseline's on the same resamples."""
    differences = rates_R - baseline_R
    rarer = min(int((differences >= 0).sum()), int((differences <= 0).sum()))
    p_value = min(1.0, 2.0 * (1 + rarer) / (len(differences) + 1))
    return Comparison(observed, _interval(differences), p_value)


def statistics_of(
    results: Results,
    hypotheses: Hypotheses | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Statistics:
    """Bootstrap all systems of an evaluation on its ranked split."""
    split = results.ranked_split
    if hypotheses is None:
        note = f"There are no hypotheses on {split}, so there are no intervals."
        return Statistics(split, resamples=resamples, notes=(note,))
    notes = tuple(hypotheses.notes)
    if hypotheses.lengths is None or not len(hypotheses.ids):
        return Statistics(split, resamples=resamples, notes=notes)
    systems = [system for system in results.systems if system.label in hypotheses.errors]
    errors = np.stack([hypotheses.errors[system.label] for system in systems])
    rates = resample_rates(errors, hypotheses.lengths, resamples=resamples, seed=seed)
    column = {system.label: rates[:, i] for i, system in enumerate(systems)}
    teachers = [column[s.label] for s in systems if s.kind == "teacher"]
    all_teachers = len(teachers) == len(results.of_kind("teacher"))
    base = results.baseline
    comparisons = {}
    if base is not None and base.label in column:
        for system in systems:
            if system.kind == "student" and system.label != base.label:
                observed = results.percent(system) - results.percent(base)
                comparisons[system.label] = compare(
                    column[system.label], column[base.label], observed
                )
    return Statistics(
        split=split,
        intervals={label: _interval(values) for label, values in column.items()},
        teacher_mean=_interval(np.mean(teachers, axis=0)) if teachers and all_teachers else None,
        comparisons=comparisons,
        resamples=resamples,
        notes=notes,
    )
