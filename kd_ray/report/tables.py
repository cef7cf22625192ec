"""The results table: one list of rows, shown as a rich table, plain text, JSON or HTML.

Error rates are in percent, differences in percentage points, sizes in bytes.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.report.bootstrap import Comparison, Interval, Statistics
from kd_ray.report.results import Results, SystemResult, parse_results

DASH = "\N{EN DASH}"
NONE = DASH
"""What a cell shows where there is no value."""

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: Literal["teacher", "teacher mean", "student"]
    label: str
    strategy: str | None
    error_percent: dict[str, float]
    """Split to error rate by the ranked decoding."""
    other_error_percent: float
    """Error rate by the other decoding, on the ranked split."""
    interval: Interval | None
    """95 % bootstrap interval of the error rate on the ranked split."""
    relative_change_percent: float | None
    """Against the student without distillation, on the ranked split; negative: fewer errors."""
    comparison: Comparison | None
    """Difference from the student without distillation, with interval and p-value."""
    parameters: float
    bytes: float
    real_time_factor: float | None
    best_student: bool = False
    baseline: bool = False


def result_rows(
    results: Mapping[str, Any] | Results, statistics: Statistics | None = None
) -> list[Row]:
    """Teachers (best first), their mean, students (best first)."""
    checked = parse_results(results)
    statistics = statistics or Statistics(checked.ranked_split)
    teachers = [_row(checked, s, statistics) for s in checked.of_kind("teacher")]
    students = [_row(checked, s, statistics) for s in checked.of_kind("student")]
    mean = [_mean_of(teachers, statistics.teacher_mean)] if teachers else []
    return [*teachers, *mean, *students]


def _row(results: Results, system: SystemResult, statistics: Statistics) -> Row:
    baseline, best = results.baseline, results.best_student
    change = None
    if system.kind == "student" and baseline is not None and system.label != baseline.label:
        base = results.percent(baseline)
        change = 100.0 * (results.percent(system) - base) / base if base > 0 else None
    return Row(
        kind=system.kind,
        label=system.label,
        strategy="none" if system.undistilled else system.strategy,
        error_percent={split: results.percent(system, split) for split in results.splits},
        other_error_percent=system.scores[results.ranked_split][results.other_decoding].percent,
        interval=statistics.intervals.get(system.label),
        relative_change_percent=change,
        comparison=statistics.comparisons.get(system.label),
        parameters=system.parameters,
        bytes=system.bytes,
        real_time_factor=system.real_time_factor,
        best_student=best is not None and system.label == best.label,
        baseline=baseline is not None and system.label == baseline.label,
    )


def _mean_of(teachers: Sequence[Row], interval: Interval | None) -> Row:
    speeds = [t.real_time_factor for t in teachers if t.real_time_factor is not None]
    return Row(
        kind="teacher mean",
        label=f"mean of {len(teachers)} teachers" if len(teachers) > 1 else "mean of 1 teacher",
        strategy=None,
        error_percent={
            split: fmean(t.error_percent[split] for t in teachers)
            for split in teachers[0].error_percent
        },
        other_error_percent=fmean(t.other_error_percent for t in teachers),
        interval=interval,
        relative_change_percent=None,
        comparison=None,
        parameters=fmean(t.parameters for t in teachers),
        bytes=fmean(t.bytes for t in teachers),
        real_time_factor=fmean(speeds) if len(speeds) == len(teachers) else None,
    )


def percent(value: float | None) -> str:
    """One digit after the point; test sets are too small for more."""
    return NONE if value is None else f"{value:.1f}"


def signed(value: float | None, unit: str = "") -> str:
    """With a sign (a true minus), one digit."""
    if value is None:
        return NONE
    text = f"{abs(value):.1f}"
    sign = "" if float(text) == 0 else (MINUS if value < 0 else "+")
    return f"{sign}{text}{unit}"


def parameters(value: float) -> str:
    """Number of parameters: `1.23 M`, `45.6 k`."""
    return _scaled(value, 1000, ("", " k", " M", " G"))


def size(value: float) -> str:
    """Bytes: `4.9 MB` (powers of 1000)."""
    return _scaled(value, 1000, (" B", " kB", " MB", " GB"))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    index = 0
    while index < len(units) - 1 and float(f"{value:.3g}") >= base:
        value, index = value / base, index + 1
    digits = 0 if index == 0 or value >= 100 else (1 if value >= 10 else 2)
    return f"{value:.{digits}f}{units[index]}"


def speed(value: float | None) -> str:
    """Real-time factor, two significant digits."""
    return NONE if value is None else f"{value:#.2g}".rstrip(".")


def p_value(value: float, resamples: int) -> str:
    """Three digits; the smallest value that the resamples allow is shown as an upper limit."""
    least = 2.0 / (resamples + 1)
    return f"≤ {least:.3f}" if value <= least * 1.0001 else f"{value:.3f}"


@dataclass(frozen=True)
class Column:
    """A heading; `shown` is false where every cell would be empty."""

    title: str
    numeric: bool = True
    shown: bool = True


def columns(results: Results, statistics: Statistics | None = None) -> list[Column]:
    """Headings, in order, as `cells` fills them."""
    decodings = {"attention": "attention", "ctc": "CTC"}
    ranked, other = decodings[results.decoding], decodings[results.other_decoding]
    split = results.ranked_split
    intervals = bool(statistics and statistics.intervals)
    comparisons = bool(statistics and statistics.comparisons)
    changes = results.baseline is not None and len(results.of_kind("student")) > 1
    timed = any(system.real_time_factor is not None for system in results.systems)
    return [
        Column("system", numeric=False),
        *(Column(f"{name} error %\n{ranked}") for name in results.splits),
        Column(f"{split}\n95 % interval", shown=intervals),
        Column(f"{split} error %\n{other}"),
        Column("relative change\nto undistilled", shown=changes),
        Column("difference, points\n(95 % interval)", shown=comparisons),
        Column("p", shown=comparisons),
        Column("parameters"),
        Column("size on\ndisk"),
        Column("real-time\nfactor", shown=timed),
    ]


def cells(row: Row, resamples: int) -> list[str]:
    """A row as text, one a column."""
    comparison = row.comparison
    difference, chance = NONE, NONE
    if comparison is not None:
        difference = (
            f"{signed(comparison.difference)} "
            f"({signed(comparison.interval.low)} to {signed(comparison.interval.high)})"
        )
        chance = p_value(comparison.p_value, resamples)
    interval = row.interval
    between = NONE if interval is None else f"{interval.low:.1f}{DASH}{interval.high:.1f}"
    change = "reference" if row.baseline else signed(row.relative_change_percent, " %")
    return [
        row.label,
        *(percent(value) for value in row.error_percent.values()),
        between,
        percent(row.other_error_percent),
        change,
        difference,
        chance,
        parameters(row.parameters),
        size(row.bytes),
        speed(row.real_time_factor),
    ]


def results_table(
    results: Mapping[str, Any] | Results, statistics: Statistics | None = None
) -> Table:
    """The table for a terminal; the best student in bold."""
    checked = parse_results(results)
    resamples = statistics.resamples if statistics else 0
    table = Table(
        box=SIMPLE_HEAD, title=Text(_title(checked)), title_justify="left", pad_edge=False
    )
    headings = columns(checked, statistics)
    for heading in headings:
        if heading.shown:
            # Text, not str: a split or label may hold what rich would read as markup.
            justify: Literal["left", "right"] = "right" if heading.numeric else "left"
            table.add_column(Text(heading.title), justify=justify, no_wrap=True)
    last = None
    for row in result_rows(checked, statistics):
        if last is not None and row.kind != last and "student" in (row.kind, last):
            table.add_section()
        last = row.kind
        style = "bold" if row.best_student else ("italic" if row.kind == "teacher mean" else "")
        texts = cells(row, resamples)
        if row.best_student:
            texts[0] += " *"
        pairs = zip(texts, headings, strict=True)
        table.add_row(*(Text(text) for text, heading in pairs if heading.shown), style=style)
    return table


def _title(results: Results) -> str:
    split = results.ranked_split
    return (
        f"Error rates in percent; sorted by {results.decoding} decoding on {split} "
        f"({results.splits[split].utterances} utterances); best student in bold (*)"
    )


def table_as_text(
    results: Mapping[str, Any] | Results, statistics: Statistics | None = None
) -> str:
    """The table as plain text, no colours, never wrapped."""
    stream = io.StringIO()
    console = Console(file=stream, width=400, color_system=None, force_terminal=False)
    console.print(results_table(results, statistics))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def rows_as_json(results: Mapping[str, Any] | Results, statistics: Statistics | None = None) -> str:
    """The table's rows as JSON, with unrounded numbers."""
    rows = [asdict(row) for row in result_rows(results, statistics)]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
