"""The table of error rates, and how any results table is shown: rich, plain text or JSON.

Error rates are in percent, differences in percentage points, sizes in bytes.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.config.evaluation import Head
from kd_ray.report.bootstrap import Comparison, Interval, Statistics
from kd_ray.report.results import Results, SystemResult, parse_results
from kd_ray.report.systems import EvaluatedSystem, Evaluation

DASH = "\N{EN DASH}"
NONE = DASH
"""What a cell shows where there is no value."""

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

DECODINGS: Mapping[Head, str] = {"attention": "attention", "ctc": "CTC", "beam": "beam"}
"""What a way of decoding is called in a heading."""


RowKind = Literal["teacher", "teacher mean", "expert", "cascade", "student"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: RowKind
    label: str
    strategy: str | None
    error_percent: dict[str, float]
    """Split to error rate by the ranked decoding."""
    other_error_percent: float | None
    """Error rate by the other greedy decoding, on the ranked split; None without a CTC head."""
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
    """Teachers, their mean, text experts, cascades, students; each kind best first."""
    checked = parse_results(results)
    statistics = statistics or Statistics(checked.ranked_split)
    teachers = [_row(checked, s, statistics) for s in checked.of_kind("teacher")]
    mean = [_mean_of(teachers, statistics.teacher_mean)] if teachers else []
    return [*teachers, *mean, *(_row(checked, s, statistics) for s in after_teachers(checked))]


def after_teachers(results: Evaluation[Any]) -> list[Any]:
    """All other systems in the order of the table: experts, cascades, students."""
    return [
        *results.of_kind("expert"),
        *results.of_kind("cascade"),
        *results.of_kind("student"),
    ]


def _row(results: Results, system: SystemResult, statistics: Statistics) -> Row:
    baseline, best = results.baseline, results.best_student
    change = None
    if system.kind == "student" and baseline is not None and system.label != baseline.label:
        base = results.percent(baseline)
        change = 100.0 * (results.percent(system) - base) / base if base > 0 else None
    other = system.scores[results.ranked_split].get(results.other_decoding)
    return Row(
        kind=system.kind,
        label=system.label,
        strategy=strategy_of(system),
        error_percent={split: results.percent(system, split) for split in results.splits},
        other_error_percent=None if other is None else other.percent,
        interval=statistics.intervals.get(system.label),
        relative_change_percent=change,
        comparison=statistics.comparisons.get(system.label),
        parameters=system.parameters,
        bytes=system.bytes,
        real_time_factor=system.real_time_factor,
        best_student=best is not None and system.label == best.label,
        baseline=baseline is not None and system.label == baseline.label,
    )


def strategy_of(system: EvaluatedSystem) -> str | None:
    """`none` of a student without teachers."""
    return "none" if system.undistilled else system.strategy


def mean_label(count: int) -> str:
    """What the row under the teachers is called."""
    return f"mean of {count} teachers" if count > 1 else "mean of 1 teacher"


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean, None where a value is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _mean_of(teachers: Sequence[Row], interval: Interval | None) -> Row:
    return Row(
        kind="teacher mean",
        label=mean_label(len(teachers)),
        strategy=None,
        error_percent={
            split: fmean(t.error_percent[split] for t in teachers)
            for split in teachers[0].error_percent
        },
        other_error_percent=mean_of([t.other_error_percent for t in teachers]),
        interval=interval,
        relative_change_percent=None,
        comparison=None,
        parameters=fmean(t.parameters for t in teachers),
        bytes=fmean(t.bytes for t in teachers),
        real_time_factor=mean_of([t.real_time_factor for t in teachers]),
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


def between(interval: Interval | None) -> str:
    """The two ends of an interval."""
    return NONE if interval is None else f"{interval.low:.1f}{DASH}{interval.high:.1f}"


def compared(comparison: Comparison | None, resamples: int) -> tuple[str, str]:
    """A difference with its interval, and its p-value."""
    if comparison is None:
        return NONE, NONE
    low, high = comparison.interval.low, comparison.interval.high
    return (
        f"{signed(comparison.difference)} ({signed(low)} to {signed(high)})",
        p_value(comparison.p_value, resamples),
    )


@dataclass(frozen=True)
class Column:
    """A heading; `shown` is false where every cell would be empty."""

    title: str
    numeric: bool = True
    shown: bool = True
    statistic: bool = False
    """Intervals and tests: left out where a terminal is too narrow."""


def columns(results: Results, statistics: Statistics | None = None) -> list[Column]:
    """Headings, in order, as `cells` fills them."""
    ranked, other = DECODINGS[results.decoding], DECODINGS[results.other_decoding]
    split = results.ranked_split
    both = any(results.other_decoding in system.scores[split] for system in results.systems)
    intervals = bool(statistics and statistics.intervals)
    comparisons = bool(statistics and statistics.comparisons)
    changes = results.baseline is not None and len(results.of_kind("student")) > 1
    timed = any(system.real_time_factor is not None for system in results.systems)
    return [
        Column("system", numeric=False),
        *(Column(f"{name} error %\n{ranked}") for name in results.splits),
        Column(f"{split}\n95 % interval", shown=intervals, statistic=True),
        Column(f"{split} error %\n{other}", shown=both),
        Column("relative change\nto undistilled", shown=changes),
        Column("difference, points\n(95 % interval)", shown=comparisons, statistic=True),
        Column("p", shown=comparisons, statistic=True),
        Column("parameters"),
        Column("size on\ndisk"),
        Column("real-time\nfactor", shown=timed),
    ]


def cells(row: Row, resamples: int) -> list[str]:
    """A row as text, one a column."""
    difference, chance = compared(row.comparison, resamples)
    change = "reference" if row.baseline else signed(row.relative_change_percent, " %")
    return [
        row.label,
        *(percent(value) for value in row.error_percent.values()),
        between(row.interval),
        percent(row.other_error_percent),
        change,
        difference,
        chance,
        parameters(row.parameters),
        size(row.bytes),
        speed(row.real_time_factor),
    ]


@dataclass(frozen=True)
class Line:
    """A row of a table to be shown: its texts, one a column."""

    kind: RowKind
    label: str
    texts: tuple[str, ...]
    best_student: bool = False

    @property
    def group(self) -> str:
        """Rows of a group stand together; the mean belongs to the teachers."""
        return "teacher" if self.kind == "teacher mean" else self.kind


@dataclass(frozen=True)
class View:
    """A table, whatever it measures: what terminal and page show."""

    title: str
    headings: tuple[Column, ...]
    lines: tuple[Line, ...]
    json: str
    """The rows with unrounded numbers."""

    def without_statistics(self) -> "View":
        """A narrower table: no intervals, no tests."""
        headings = tuple(
            replace(heading, shown=heading.shown and not heading.statistic)
            for heading in self.headings
        )
        return replace(self, headings=headings)

    def starts_group(self) -> list[bool]:
        """For each line, whether a group begins with it that is not the first."""
        return [False, *(a.group != b.group for a, b in pairwise(self.lines))]


def error_view(results: Mapping[str, Any] | Results, statistics: Statistics | None = None) -> View:
    """The table of error rates."""
    checked = parse_results(results)
    rows = result_rows(checked, statistics)
    resamples = statistics.resamples if statistics else 0
    return View(
        title=_title(checked),
        headings=tuple(columns(checked, statistics)),
        lines=tuple(
            Line(row.kind, row.label, tuple(cells(row, resamples)), row.best_student)
            for row in rows
        ),
        json=as_json([asdict(row) for row in rows]),
    )


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON text."""
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def rich_table(view: View) -> Table:
    """The table for a terminal; the best student in bold."""
    table = Table(box=SIMPLE_HEAD, title=Text(view.title), title_justify="left", pad_edge=False)
    for heading in view.headings:
        if heading.shown:
            # Text, not str: a split or label may hold what rich would read as markup.
            justify: Literal["left", "right"] = "right" if heading.numeric else "left"
            table.add_column(Text(heading.title), justify=justify, no_wrap=True)
    for line, starts in zip(view.lines, view.starts_group(), strict=True):
        if starts:
            table.add_section()
        style = "bold" if line.best_student else ("italic" if line.kind == "teacher mean" else "")
        texts = [line.texts[0] + " *", *line.texts[1:]] if line.best_student else line.texts
        pairs = zip(texts, view.headings, strict=True)
        table.add_row(*(Text(text) for text, heading in pairs if heading.shown), style=style)
    return table


def plain_table(view: View) -> str:
    """The table as plain text, no colours, never wrapped."""
    stream = io.StringIO()
    console = Console(file=stream, width=400, color_system=None, force_terminal=False)
    console.print(rich_table(view))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _title(results: Results) -> str:
    split = results.ranked_split
    return (
        f"Error rates in percent; sorted by {results.decoding} decoding on {split} "
        f"({results.splits[split].utterances} utterances); best student in bold (*)"
    )


def results_table(
    results: Mapping[str, Any] | Results, statistics: Statistics | None = None
) -> Table:
    """The table of error rates for a terminal."""
    return rich_table(error_view(results, statistics))


def table_as_text(
    results: Mapping[str, Any] | Results, statistics: Statistics | None = None
) -> str:
    """The table of error rates as plain text."""
    return plain_table(error_view(results, statistics))


def rows_as_json(results: Mapping[str, Any] | Results, statistics: Statistics | None = None) -> str:
    """The rows of the table of error rates as JSON, with unrounded numbers."""
    return error_view(results, statistics).json
