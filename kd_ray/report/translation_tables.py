"""The table of translation scores. BLEU, chrF++: higher is better; TER: lower is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from kd_ray.core.translation_scores import REPORTED, TITLES, TranslationMetric
from kd_ray.report.bootstrap import Comparison, Interval, Statistics
from kd_ray.report.tables import (
    DECODINGS,
    NONE,
    Column,
    Line,
    RowKind,
    View,
    after_teachers,
    as_json,
    between,
    compared,
    mean_label,
    mean_of,
    parameters,
    percent,
    size,
    speed,
    strategy_of,
)
from kd_ray.report.translations import RANKS, TranslatedSystem, TranslationResults


@dataclass(frozen=True)
class TranslationRow:
    """One line of the table."""

    kind: RowKind
    label: str
    strategy: str | None
    scores: dict[str, dict[TranslationMetric, float]]
    """Split to scores."""
    length_ratio: float
    """Tokens of the hypotheses to tokens of the references, on the ranked split."""
    interval: Interval | None
    """95 % bootstrap interval of BLEU on the ranked split."""
    comparison: Comparison | None
    """BLEU minus that of the student without distillation; positive: better."""
    transcript_word_error_rate: float | None
    """Of a cascade's recogniser on the ranked split, in percent."""
    parameters: float
    bytes: float
    real_time_factor: float | None
    best_student: bool = False
    baseline: bool = False


def translation_rows(results: TranslationResults, statistics: Statistics) -> list[TranslationRow]:
    """Teachers, their mean, text experts, cascades, students; each kind best first."""
    teachers = [_row(results, system, statistics) for system in results.of_kind("teacher")]
    mean = [_mean_of(teachers, statistics.teacher_mean)] if teachers else []
    others = [_row(results, system, statistics) for system in after_teachers(results)]
    return [*teachers, *mean, *others]


def _row(
    results: TranslationResults, system: TranslatedSystem, statistics: Statistics
) -> TranslationRow:
    best, baseline = results.best_student, results.baseline
    ranked = system.scores[results.ranked_split]
    return TranslationRow(
        kind=system.kind,
        label=system.label,
        strategy=strategy_of(system),
        scores={
            split: {metric: results.score(system, metric, split) for metric in REPORTED}
            for split in results.splits
        },
        length_ratio=ranked.length_ratio,
        interval=statistics.intervals.get(system.label),
        comparison=statistics.comparisons.get(system.label),
        transcript_word_error_rate=ranked.transcript_word_error_rate,
        parameters=system.parameters,
        bytes=system.bytes,
        real_time_factor=system.real_time_factor,
        best_student=best is not None and system.label == best.label,
        baseline=baseline is not None and system.label == baseline.label,
    )


def _mean_of(teachers: Sequence[TranslationRow], interval: Interval | None) -> TranslationRow:
    return TranslationRow(
        kind="teacher mean",
        label=mean_label(len(teachers)),
        strategy=None,
        scores={
            split: {metric: fmean(t.scores[split][metric] for t in teachers) for metric in REPORTED}
            for split in teachers[0].scores
        },
        length_ratio=fmean(t.length_ratio for t in teachers),
        interval=interval,
        comparison=None,
        transcript_word_error_rate=None,
        parameters=fmean(t.parameters for t in teachers),
        bytes=fmean(t.bytes for t in teachers),
        real_time_factor=mean_of([t.real_time_factor for t in teachers]),
    )


def translation_view(results: TranslationResults, statistics: Statistics) -> View:
    """The table of translation scores."""
    rows = translation_rows(results, statistics)
    split = results.ranked_split
    return View(
        title=(
            f"Translation scores; sorted by {TITLES[RANKS]} on {split} "
            f"({results.splits[split].utterances} utterances, {DECODINGS[results.decoding]} "
            "decoding); best student in bold (*)"
        ),
        headings=tuple(_columns(results, statistics)),
        lines=tuple(
            Line(row.kind, row.label, _cells(row, results, statistics), row.best_student)
            for row in rows
        ),
        json=as_json([asdict(row) for row in rows]),
    )


def _columns(results: TranslationResults, statistics: Statistics) -> list[Column]:
    split = results.ranked_split
    systems = results.systems
    wers = any(s.scores[split].transcript_word_error_rate is not None for s in systems)
    timed = any(system.real_time_factor is not None for system in systems)
    comparisons = bool(statistics.comparisons)
    others = [metric for metric in REPORTED if metric != RANKS]
    return [
        Column("system", numeric=False),
        *(Column(f"{name}\n{TITLES[RANKS]}") for name in results.splits),
        Column(f"{split}\n95 % interval", shown=bool(statistics.intervals), statistic=True),
        *(Column(f"{split}\n{TITLES[metric]}") for metric in others),
        Column("length\nratio"),
        Column(f"difference, {TITLES[RANKS]}\n(95 % interval)", shown=comparisons, statistic=True),
        Column("p", shown=comparisons, statistic=True),
        Column("transcript\nerror %", shown=wers),
        Column("parameters"),
        Column("size on\ndisk"),
        Column("real-time\nfactor", shown=timed),
    ]


def _cells(
    row: TranslationRow, results: TranslationResults, statistics: Statistics
) -> tuple[str, ...]:
    difference, chance = compared(row.comparison, statistics.resamples)
    ranked = row.scores[results.ranked_split]
    return (
        row.label,
        *(percent(row.scores[split][RANKS]) for split in results.splits),
        between(row.interval),
        *(percent(ranked[metric]) for metric in REPORTED if metric != RANKS),
        f"{row.length_ratio:.2f}" if row.length_ratio < 100 else NONE,
        "reference" if row.baseline else difference,
        chance,
        percent(row.transcript_word_error_rate),
        parameters(row.parameters),
        size(row.bytes),
        speed(row.real_time_factor),
    )
