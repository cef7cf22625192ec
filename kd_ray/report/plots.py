"""The report's plots. Each function returns one `<svg>` element, or None where there is no data.

More than `MANY` teachers are drawn as a distribution, not one by one.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from kd_ray.report.bootstrap import Interval, Statistics
from kd_ray.report.drawing import (
    INK,
    LIGHT,
    MUTED,
    PHASES,
    SURFACE,
    TEACHER,
    TEACHER_LOOK,
    Look,
    figure,
    grid,
    label_right,
    looks_of,
    short_names,
    to_svg,
)
from kd_ray.report.html import Html, h
from kd_ray.report.runs import Run
from kd_ray.report.systems import EvaluatedSystem, Evaluation
from kd_ray.report.tables import DECODINGS, after_teachers, mean_label
from kd_ray.report.tables import parameters as parameters_text

MANY = 12
"""More teachers (or other runs) than this are drawn as a distribution."""

Curve = dict[int, float]
"""Epoch to value."""


def looks(results: Evaluation[Any]) -> dict[str, Look]:
    """A look for each student, in the order of the evaluation."""
    students = [system.label for system in results.systems if system.kind == "student"]
    return looks_of(students, results.baseline.label if results.baseline else None)


def swatch(look: Look | None) -> Html:
    """A small square in a system's colour, for tables; nothing without a look."""
    if look is None:
        return Html("")
    return h('<span class="swatch" style="background: var({v})"></span>', v=LIGHT[look.color][0])


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """Mean of a figure over each epoch; values that are not finite are left out."""
    values: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if _finite(row.get(key)) and _finite(row.get("epoch")):
            values[int(row["epoch"])].append(float(row[key]))
    return {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}


def learning_curves(results: Evaluation[Any], runs: Sequence[Run]) -> str | None:
    """What validation measured by epoch, and training loss by epoch, of every run."""
    key, title = results.curve
    errors = {run.label: _curve(run.valid, key) for run in runs}
    losses = {run.label: _curve(run.train, "loss") for run in runs}
    if not any(errors.values()) and not any(losses.values()):
        return None
    height = 3.6
    with figure(10, height) as drawing:
        left, right = drawing.subplots(1, 2)
        _draw_curves(left, errors, results, runs, height, falls=results.lower_is_better)
        left.set_title(title)
        _draw_curves(right, losses, results, runs, height, falls=True)
        right.set_title("Training loss, mean of each epoch")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            grid(axes, "y")
        return to_svg(drawing, "curves", f"{title} and training loss by epoch")


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, Curve],
    results: Evaluation[Any],
    runs: Sequence[Run],
    height: float,
    *,
    falls: bool,
) -> None:
    styles = looks(results)
    shown = short_names([run.label for run in runs])
    singles = [run.label for run in runs if run.label in styles and curves[run.label]]
    crowd = [run.label for run in runs if run.label not in styles and curves[run.label]]
    labels: list[tuple[float, float, str, str]] = []
    if len(crowd) > MANY:
        labels.append(_draw_band(axes, [curves[label] for label in crowd]))
    else:
        for label in crowd:
            curve = curves[label]
            axes.plot(list(curve), list(curve.values()), color=TEACHER, linewidth=1.0, zorder=1.5)
        if crowd:
            ends = [list(curves[label].items())[-1] for label in crowd]
            x, y = sorted(ends, key=lambda end: end[1])[len(ends) // 2]
            name = f"teachers ({len(crowd)})" if len(crowd) > 1 else shown[crowd[0]]
            labels.append((x, y, name, TEACHER))
    for label in singles:
        curve, style = curves[label], styles[label]
        xs, ys = list(curve), list(curve.values())
        axes.plot(
            xs,
            ys,
            color=style.color,
            linestyle=style.dashes,
            linewidth=1.7,
            zorder=3,
            marker=style.marker if len(xs) == 1 else None,
        )
        labels.append((xs[-1], ys[-1], shown[label], style.color))
    values = sorted(value for curve in curves.values() for value in curve.values())
    if values:
        # A first epoch at 100 % error or more would flatten all that matters.
        last = min(len(values) - 1, int(0.98 * len(values))) if falls else len(values) - 1
        low, high = values[0], values[last]
        margin = 0.06 * (high - low) or 0.5
        axes.set_ylim(max(0.0, low - margin) if low >= 0 else low - margin, high + margin)
    label_right(axes, labels, height_in=height - 0.9)


def _draw_band(axes: Axes, curves: Sequence[Curve]) -> tuple[float, float, str, str]:
    epochs = sorted({epoch for curve in curves for epoch in curve})
    table = [[curve[epoch] for curve in curves if epoch in curve] for epoch in epochs]
    low, p10, middle, p90, high = np.array(
        [np.quantile(values, [0, 0.1, 0.5, 0.9, 1]) for values in table]
    ).T
    axes.fill_between(epochs, low, high, color=TEACHER, alpha=0.18, linewidth=0, zorder=1)
    axes.fill_between(epochs, p10, p90, color=TEACHER, alpha=0.35, linewidth=0, zorder=1.2)
    axes.plot(epochs, middle, color=TEACHER, linewidth=1.6, zorder=2)
    return epochs[-1], float(middle[-1]), f"{len(curves)} teachers, median", TEACHER


def scores(results: Evaluation[Any], statistics: Statistics) -> str:
    """A bar for each system on the ranked split, with its 95 % bootstrap interval."""
    styles = looks(results)
    students, teachers = results.of_kind("student"), results.of_kind("teacher")
    between = [system for system in after_teachers(results) if system.kind != "student"]
    bars: list[tuple[str, float, Interval | None, str, float]] = [
        (s.label, results.value(s), statistics.intervals.get(s.label), styles[s.label].color, 0.95)
        for s in students
    ]
    bars += [
        (s.label, results.value(s), statistics.intervals.get(s.label), TEACHER, 0.95)
        for s in between
    ]
    cloud: list[float] = []
    if teachers:
        mean = float(np.mean([results.value(teacher) for teacher in teachers]))
        if len(teachers) > 1:
            name = mean_label(len(teachers))
            bars.append((name, mean, statistics.teacher_mean, TEACHER, 0.95))
        if len(teachers) <= MANY:
            bars += [
                (t.label, results.value(t), statistics.intervals.get(t.label), TEACHER, 0.6)
                for t in teachers
            ]
        else:
            cloud = [results.value(teacher) for teacher in teachers]
    rows = len(bars) + (1.6 if cloud else 0)
    height = 0.75 + 0.27 * rows
    with figure(10, height) as drawing:
        axes = drawing.subplots()
        for place, (_, value, interval, color, alpha) in enumerate(bars):
            axes.barh(
                place,
                value,
                height=0.62,
                color=color,
                alpha=alpha,
                linewidth=0,
            )
            end = value
            if interval is not None:
                end = max(end, interval.high)
                axes.plot([interval.low, interval.high], [place, place], color=SURFACE, linewidth=3)
                axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.1)
            axes.annotate(
                f"{value:.1f}",
                (end, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        shown = short_names([name for name, *_ in bars], 44)
        names = [shown[name] for name, *_ in bars]
        places: list[float] = list(range(len(bars)))
        if cloud:
            names.append(f"each of {len(cloud)} teachers")
            places.append(len(bars) + 0.3)
            _draw_cloud(axes, cloud, places[-1])
        axes.set_yticks(places, names)
        for tick in axes.get_yticklabels():
            tick.set_color(INK)
        axes.set_ylim((places[-1] + (0.95 if cloud else 0.6)), -0.6)
        axes.margins(x=0.06)
        axes.set_xlim(left=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(
            f"{results.measure} on {results.ranked_split}, {DECODINGS[results.decoding]} decoding"
        )
        grid(axes, "x")
        return to_svg(drawing, "scores", f"{results.measure} of every system with 95 % intervals")


def _draw_cloud(axes: Axes, values: Sequence[float], place: float) -> None:
    """One dot a teacher, stacked away from the middle where they would overlap."""
    width = (max(values) - min(values) or 1.0) / 60
    taken: dict[int, int] = defaultdict(int)
    xs, ys = [], []
    for value in sorted(values):
        column = int(value / width)
        count = taken[column]
        taken[column] += 1
        xs.append(value)
        ys.append((count + 1) // 2 * (1 if count % 2 else -1))
    reach = max(1, *(abs(y) for y in ys))
    step = min(0.16, 0.72 / reach)
    axes.scatter(
        xs, [place + y * step for y in ys], s=13, color=TEACHER, linewidth=0, alpha=0.9, zorder=2
    )


def score_against_speed(results: Evaluation[Any]) -> str | None:
    """The measure against real-time factor; the area of a marker is the number of parameters."""
    timed = [system for system in results.systems if system.real_time_factor]
    if not timed:
        return None
    styles = looks(results)
    largest = max(system.parameters for system in timed) or 1
    reach = 260 if len(timed) <= 3 * MANY else 90
    width, height = 5.0, 4.1
    with figure(width, height) as drawing:
        axes = drawing.subplots()
        labels = []
        shown = short_names([system.label for system in timed])
        for system in sorted(timed, key=lambda s: -s.parameters):
            style = styles.get(system.label, TEACHER_LOOK)
            x, y = _speed(system), results.value(system)
            axes.scatter(
                [x],
                [y],
                s=24 + reach * system.parameters / largest,
                marker=style.marker,
                color=style.color,
                alpha=0.85 if system.kind == "student" else 0.45,
                edgecolors=SURFACE,
                linewidths=0.8,
                zorder=3 if system.kind == "student" else 2,
            )
            if system.kind != "teacher":
                labels.append((x, y, shown[system.label], style.color))
        teachers = [system for system in timed if system.kind == "teacher"]
        if teachers:
            middle = sorted(teachers, key=results.value)[len(teachers) // 2]
            name = f"teachers ({len(teachers)})" if len(teachers) > 1 else shown[middle.label]
            labels.append((_speed(middle), results.value(middle), name, TEACHER))
        speeds = [_speed(system) for system in timed]
        if max(speeds) > 6 * min(speeds):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.margins(0.14)
        axes.autoscale_view()
        axes.set_ylim(axes.get_ylim())
        axes.set_xlabel("real-time factor (left is faster)")
        axes.set_title(f"{results.measure} on {results.ranked_split}")
        axes.grid(visible=True)
        label_right(axes, labels, height_in=height - 0.9)
        return to_svg(drawing, "speed", f"{results.measure} against real-time factor")


def _speed(system: EvaluatedSystem) -> float:
    return float(system.real_time_factor or 0)


def size_note(results: Evaluation[Any]) -> str:
    """What the smallest and the largest marker of the speed plot mean."""
    counts = sorted(system.parameters for system in results.systems)
    if counts[0] == counts[-1]:
        return f"all systems have {parameters_text(counts[0])} parameters"
    return (
        "the area of a marker grows with the number of parameters, from "
        f"{parameters_text(counts[0])} to {parameters_text(counts[-1])}"
    )


_PHASES = (
    ("student_s", "student", PHASES[0]),
    ("teacher_wait_s", "waiting for teachers", PHASES[1]),
    ("rollout_s", "rollouts", PHASES[3]),
    ("data_s", "data", PHASES[2]),
)


def time_split(results: Evaluation[Any], runs: Sequence[Run]) -> str | None:
    """Seconds of an update, by what they were spent on: mean over the updates of a run."""
    bars: list[tuple[str, list[float]]] = []
    crowd: list[list[float]] = []
    students = looks(results)
    for run in runs:
        if not run.train:
            continue
        means = [_mean(run.train, key) for key, _, _ in _PHASES]
        if run.label in students:
            bars.append((run.label, means))
        else:
            crowd.append(means)
            if len(crowd) <= 3:
                bars.append((run.label, means))
    if len(crowd) > 3:
        named = {run.label for run in runs if run.label in students}
        bars = [bar for bar in bars if bar[0] in named]
        bars.append(
            (f"mean of {len(crowd)} {_kind_of(runs, students)}", list(np.mean(crowd, axis=0)))
        )
    if not bars or not any(sum(means) for _, means in bars):
        return None
    with figure(5, 4.1 if len(bars) < 12 else 1.1 + 0.26 * len(bars)) as drawing:
        axes = drawing.subplots()
        starts = np.zeros(len(bars))
        scale, unit = _seconds([sum(means) for _, means in bars])
        for index, (_, name, color) in enumerate(_PHASES):
            widths = np.array([means[index] for _, means in bars]) * scale
            if not widths.any():
                continue
            axes.barh(
                np.arange(len(bars)),
                widths,
                left=starts,
                height=0.6,
                color=color,
                edgecolor=SURFACE,
                linewidth=0.8,
                label=name,
            )
            starts += widths
        shown = short_names([name for name, _ in bars])
        axes.set_yticks(range(len(bars)), [shown[name] for name, _ in bars])
        for tick in axes.get_yticklabels():
            tick.set_color(INK)
        axes.set_ylim(max(len(bars), 4) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{unit} an update")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        grid(axes, "x")
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=4,
            frameon=False,
            fontsize=8.5,
            handlelength=1.0,
            handleheight=0.9,
            columnspacing=1.0,
            labelcolor=MUTED,
        )
        return to_svg(drawing, "time", "Mean time of an update by phase")


def _kind_of(runs: Sequence[Run], students: Mapping[str, Look]) -> str:
    kinds = {run.kind for run in runs if run.label not in students and run.train}
    return "teachers" if kinds == {"teacher"} else "others"


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [float(row[key]) for row in rows if _finite(row.get(key))]
    return float(np.mean(values)) if values else 0.0


def _seconds(totals: Sequence[float]) -> tuple[float, str]:
    return (1000.0, "milliseconds") if max(totals) < 1 else (1.0, "seconds")
