"""Two systems of an evaluation, utterance by utterance: who gains where, and is it chance?

Utterances are joined by id. A gain is positive where the system is better than the baseline,
whichever way the measure goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.bootstrap import RESAMPLES, SEED, Comparison, compare
from kd_ray.core.translation_scores import (
    REPORTED,
    TITLES,
    TranslationMetric,
    lower_is_better,
    paired_bootstrap,
    score_of,
)
from kd_ray.report.bootstrap import resample_rates
from kd_ray.report.evaluations import read_any_results
from kd_ray.report.results import Results, read_hypotheses
from kd_ray.report.systems import ReportError
from kd_ray.report.translations import SHOWS, TranslationResults, read_translations

Measure = Literal["bleu", "chrf", "chrf++", "ter", "error_rate"]


@dataclass(frozen=True)
class CorpusDifference:
    """Scores of both systems on the whole split, and how sure their difference is."""

    system: float
    baseline: float
    lower_is_better: bool
    comparison: Comparison
    """System minus baseline."""


@dataclass(frozen=True)
class UtteranceDifference:
    """One utterance."""

    id: str
    gain: float
    system_score: float
    baseline_score: float
    transcript: str | None
    reference: str
    system_hypothesis: str
    baseline_hypothesis: str
    system_heard: str | None = None
    """What the translator read, if the system is a cascade."""
    baseline_heard: str | None = None


@dataclass(frozen=True)
class SystemComparison:
    """What `kd-ray compare` found."""

    evaluation: str
    split: str
    system: str
    baseline: str
    measure: Measure
    """What utterances are compared by."""
    utterances: int
    better: int
    equal: int
    worse: int
    resamples: int
    seed: int
    corpus: Mapping[Measure, CorpusDifference]
    gains: tuple[UtteranceDifference, ...]
    """Largest first."""
    losses: tuple[UtteranceDifference, ...]
    """Largest first: the most negative gain."""


def compare_systems(
    folder: Path,
    system: str,
    baseline: str,
    *,
    split: str | None = None,
    measure: Measure | None = None,
    examples: int = 15,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> SystemComparison:
    """Compare two systems of an evaluation folder.

    Args:
        folder: `runs/<name>` of a `kd-ray evaluate`.
        system: label.
        baseline: label of what it is compared with.
        split: None: the split that the evaluation ranks by.
        measure: what utterances are sorted by; None: chrF++ of translations, else the error rate.
        examples: how many of the largest gains, and of the largest losses.
        resamples: of the paired bootstrap.
        seed: of the paired bootstrap.

    Raises:
        ReportError: unknown label, split or measure, missing or contradictory files.
    """
    results = read_any_results(folder)
    split = split or results.ranked_split
    labels = [each.label for each in results.systems]
    for label in (system, baseline):
        if label not in labels:
            raise ReportError(
                f"{folder} has no system {label!r}; it has {', '.join(map(repr, labels))}"
            )
    if split not in results.splits:
        raise ReportError(
            f"{folder} has no split {split!r}; it has {', '.join(map(repr, results.splits))}"
        )
    if isinstance(results, TranslationResults):
        measure = measure or SHOWS
        corpus, rows = _translations(
            folder, results, system, baseline, split, measure, resamples, seed
        )
    else:
        measure = measure or "error_rate"
        corpus, rows = _error_rates(
            folder, results, system, baseline, split, measure, resamples, seed
        )
    order = sorted(rows, key=lambda row: (-row.gain, row.id))
    gains = [row for row in order if row.gain > 0]
    losses = [row for row in sorted(rows, key=lambda row: (row.gain, row.id)) if row.gain < 0]
    return SystemComparison(
        evaluation=str(folder),
        split=split,
        system=system,
        baseline=baseline,
        measure=measure,
        utterances=len(rows),
        better=len(gains),
        equal=len(rows) - len(gains) - len(losses),
        worse=len(losses),
        resamples=resamples,
        seed=seed,
        corpus=corpus,
        gains=tuple(gains[:examples]),
        losses=tuple(losses[:examples]),
    )


def _translations(
    folder: Path,
    results: TranslationResults,
    system: str,
    baseline: str,
    split: str,
    measure: Measure,
    resamples: int,
    seed: int,
) -> tuple[dict[Measure, CorpusDifference], list[UtteranceDifference]]:
    if measure not in REPORTED:
        raise ReportError(f"metric {measure} of translations; allowed are {', '.join(REPORTED)}")
    metric: TranslationMetric = measure
    found = read_translations(folder, results, split, (system, baseline))
    if found is None or not {system, baseline} <= set(found.outputs) or not found.ids:
        raise _no_hypotheses(folder, split)
    mine, theirs = found.counts[system], found.counts[baseline]
    corpus: dict[Measure, CorpusDifference] = {
        each: CorpusDifference(
            score_of(mine[each].sum(axis=0), each),
            score_of(theirs[each].sum(axis=0), each),
            lower_is_better(each),
            paired_bootstrap(mine[each], theirs[each], each, resamples=resamples, seed=seed),
        )
        for each in REPORTED
    }
    scores = found.sentence_scores(system, metric)
    others = found.sentence_scores(baseline, metric)
    gains = (others - scores) if lower_is_better(metric) else (scores - others)
    heard, also_heard = found.heard.get(system), found.heard.get(baseline)
    rows = [
        UtteranceDifference(
            id=name,
            gain=float(gains[i]),
            system_score=float(scores[i]),
            baseline_score=float(others[i]),
            transcript=found.transcripts[i],
            reference=found.references[i],
            system_hypothesis=found.outputs[system][i],
            baseline_hypothesis=found.outputs[baseline][i],
            system_heard=heard[i] if heard else None,
            baseline_heard=also_heard[i] if also_heard else None,
        )
        for i, name in enumerate(found.ids)
    ]
    return corpus, rows


def _error_rates(
    folder: Path,
    results: Results,
    system: str,
    baseline: str,
    split: str,
    measure: Measure,
    resamples: int,
    seed: int,
) -> tuple[dict[Measure, CorpusDifference], list[UtteranceDifference]]:
    if measure != "error_rate":
        raise ReportError(f"metric {measure} of error rates; allowed is error_rate")
    found = read_hypotheses(folder, results, split)
    if found is None or not {system, baseline} <= set(found.outputs) or not found.ids:
        raise _no_hypotheses(folder, split)
    if found.lengths is None:
        raise ReportError(" ".join(found.notes))
    mine, theirs = found.errors[system], found.errors[baseline]
    rates = resample_rates(np.stack([mine, theirs]), found.lengths, resamples=resamples, seed=seed)
    units = max(1, int(found.lengths.sum()))
    ours, base = 100.0 * mine.sum() / units, 100.0 * theirs.sum() / units
    comparison = compare(rates[:, 0], rates[:, 1], float(ours - base))
    scores = _per_utterance(mine, found.lengths)
    others = _per_utterance(theirs, found.lengths)
    between = "" if results.unit == "characters" else " "
    rows = [
        UtteranceDifference(
            id=name,
            gain=float(others[i] - scores[i]),
            system_score=float(scores[i]),
            baseline_score=float(others[i]),
            transcript=None,
            reference=between.join(found.references[i]),
            system_hypothesis=between.join(found.outputs[system][i]),
            baseline_hypothesis=between.join(found.outputs[baseline][i]),
        )
        for i, name in enumerate(found.ids)
    ]
    return {"error_rate": CorpusDifference(float(ours), float(base), True, comparison)}, rows


def _per_utterance(
    errors_U: NDArray[np.int64], lengths_U: NDArray[np.int64]
) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = 100.0 * errors_U / np.maximum(lengths_U, 1)
    return rates


def _no_hypotheses(folder: Path, split: str) -> ReportError:
    return ReportError(
        f"{folder} does not hold hypotheses of both systems on {split}: evaluate them again"
    )


def measure_title(measure: Measure) -> str:
    """What a measure is called."""
    return "error rate, %" if measure == "error_rate" else TITLES[measure]


def sides(
    row: UtteranceDifference, system: str, baseline: str
) -> Sequence[tuple[str, float | None, str]]:
    """What is shown of an utterance: (who, score, text), top to bottom."""
    lines: list[tuple[str, float | None, str]] = []
    if row.transcript is not None:
        lines.append(("transcript", None, row.transcript))
    lines.append(("reference", None, row.reference))
    if row.system_heard is not None:
        lines.append((f"{system}: heard", None, row.system_heard))
    lines.append((system, row.system_score, row.system_hypothesis))
    if row.baseline_heard is not None:
        lines.append((f"{baseline}: heard", None, row.baseline_heard))
    lines.append((baseline, row.baseline_score, row.baseline_hypothesis))
    return lines
