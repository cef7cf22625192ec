"""How sure the scores of an evaluation are: a paired bootstrap over the ranked split's utterances.

Shapes: S systems, U utterances, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.bootstrap import (
    RESAMPLES,
    SEED,
    Comparison,
    Interval,
    compare,
    draws,
    interval_of,
)
from kd_ray.core.translation_scores import resampled_scores
from kd_ray.report.results import Hypotheses, Results
from kd_ray.report.systems import Evaluation
from kd_ray.report.translations import RANKS, TranslationResults, Translations

__all__ = [
    "Comparison",
    "Interval",
    "Statistics",
    "compare",
    "resample_rates",
    "statistics_of",
    "translation_statistics",
]


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
    rates = []
    for drawn in draws(len(lengths_U), resamples=resamples, seed=seed):
        units = np.maximum(drawn @ lengths_U, 1)
        rates.append(100.0 * (drawn @ errors_SU.T) / units[:, None])
    return np.concatenate(rates)


def statistics_of(
    results: Results,
    hypotheses: Hypotheses | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Statistics:
    """Bootstrap all systems of an evaluation of error rates on its ranked split."""
    split = results.ranked_split
    if hypotheses is None:
        return _without(split, resamples)
    notes = tuple(hypotheses.notes)
    if hypotheses.lengths is None or not len(hypotheses.ids):
        return Statistics(split, resamples=resamples, notes=notes)
    labels = [system.label for system in results.systems if system.label in hypotheses.errors]
    errors = np.stack([hypotheses.errors[label] for label in labels])
    rates = resample_rates(errors, hypotheses.lengths, resamples=resamples, seed=seed)
    values = {label: rates[:, i] for i, label in enumerate(labels)}
    return _statistics(results, values, resamples, notes)


def translation_statistics(
    results: TranslationResults,
    translations: Translations | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Statistics:
    """Bootstrap all systems of an evaluation of translations (BLEU) on its ranked split."""
    split = results.ranked_split
    if translations is None:
        return _without(split, resamples)
    notes = tuple(translations.notes)
    if not translations.ids:
        return Statistics(split, resamples=resamples, notes=notes)
    values = {
        label: resampled_scores(counts[RANKS], RANKS, resamples=resamples, seed=seed)
        for label, counts in translations.counts.items()
    }
    return _statistics(results, values, resamples, notes)


def _without(split: str, resamples: int) -> Statistics:
    note = f"There are no hypotheses on {split}, so there are no intervals."
    return Statistics(split, resamples=resamples, notes=(note,))


def _statistics(
    results: Evaluation[Any],
    values: Mapping[str, NDArray[np.float64]],
    resamples: int,
    notes: tuple[str, ...],
) -> Statistics:
    everyone = results.of_kind("teacher")
    teachers = [values[teacher.label] for teacher in everyone if teacher.label in values]
    base = results.baseline
    comparisons = {}
    if base is not None and base.label in values:
        for system in results.systems:
            if system.label in values and system.kind != "teacher" and system.label != base.label:
                observed = results.value(system) - results.value(base)
                comparisons[system.label] = compare(
                    values[system.label], values[base.label], observed
                )
    return Statistics(
        split=results.ranked_split,
        intervals={label: interval_of(each) for label, each in values.items()},
        teacher_mean=(
            interval_of(np.mean(teachers, axis=0))
            if teachers and len(teachers) == len(everyone)
            else None
        ),
        comparisons=comparisons,
        resamples=resamples,
        notes=notes,
    )
