"""The plots of a search. Each function returns one `<svg>` element, or None where there is no data.

Complete settings are drawn in colour by their rank, others in grey.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from kd_ray.report.drawing import (
    GRID,
    INK,
    MUTED,
    SERIES,
    SURFACE,
    TEACHER,
    figure,
    grid,
    label_right,
    short,
    to_svg,
)
from kd_ray.report.search import (
    SearchResults,
    SettingResult,
    Trial,
    short_axes,
    value_text,
)
from kd_ray.report.search_axes import is_number

_BEST, _OTHERS, _UNRANKED = SERIES[1], SERIES[0], TEACHER
_MOST_PANELS = 6
_MOST_VALUES = 14


def _score(results: SearchResults, setting: SettingResult) -> float | None:
    """As shown; of an incomplete setting the best that was reached."""
    return None if setting.reached is None else results.measure.shown(setting.reached)


def _color(results: SearchResults, setting: SettingResult) -> str:
    if not setting.complete:
        return _UNRANKED
    return _BEST if setting.number == results.ranked[0].number else _OTHERS


def parallel_coordinates(results: SearchResults) -> str | None:
    """A line for each setting through its values; the last column is its score."""
    drawn = [
        (each, score) for each in results.settings if (score := _score(results, each)) is not None
    ]
    if len(drawn) < 2:
        return None
    names = short_axes(list(results.axes))
    places = {
        key: _places([each.setting[key] for each, _ in drawn], results.axes[key]["type"])
        for key in results.axes
    }
    scores = [score for _, score in drawn]
    low, high = min(scores), max(scores)
    with figure(10, 3.9) as drawing:
        axes = drawing.subplots()
        last = len(places)
        # The winner is drawn last, above the others.
        for index in reversed(range(len(drawn))):
            setting, score = drawn[index]
            heights = [places[key][0][index] for key in places]
            heights.append(_up(score, low, high, falls=not results.measure.from_hundred))
            color = _color(results, setting)
            wide = color == _BEST
            axes.plot(
                range(last + 1), heights, color=color, linewidth=2.2 if wide else 1.2,
                linestyle="-" if setting.complete else (0, (3, 2)),
                alpha=1.0 if wide else 0.65, zorder=3 if wide else 2,
            )  # fmt: skip
        for column, key in enumerate(places):
            axes.axvline(column, color=GRID, linewidth=1.0, zorder=1)
            for height, text in places[key][1]:
                _tick(axes, column, height, text)
        axes.axvline(last, color=GRID, linewidth=1.0, zorder=1)
        for value in (low, (low + high) / 2, high):
            height = _up(value, low, high, falls=not results.measure.from_hundred)
            _tick(axes, last, height, f"{value:.1f}")
        axes.set_xticks(range(last + 1), [*names.values(), results.measure.title])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(-0.25, last + 0.35)
        axes.set_ylim(-0.08, 1.08)
        axes.set_title("Settings, and what they scored")
        return to_svg(drawing, "parallel", "Every setting as a line through its values")


def _tick(axes: Axes, column: float, height: float, text: str) -> None:
    axes.annotate(
        short(text, 26), (column, height), xytext=(4, 0), textcoords="offset points",
        va="center", fontsize=8, color=INK, zorder=4,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": SURFACE, "edgecolor": "none"},
    )  # fmt: skip


def _up(value: float, low: float, high: float, *, falls: bool) -> float:
    """From 0 to 1, better scores above."""
    share = (value - low) / (high - low) if high > low else 0.5
    return 1.0 - share if falls else share


def _places(values: Sequence[Any], kind: str) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights of values on their axis, and its marks."""
    if all(map(is_number, values)) and kind not in ("choice", "grid"):
        scale = math.log if kind in ("loguniform", "lograndint") else float
        low, high = min(map(scale, values)), max(map(scale, values))
        heights = [(scale(value) - low) / (high - low) if high > low else 0.5 for value in values]
        marks = sorted(zip(heights, map(value_text, values), strict=True))
        return heights, [marks[0], *([marks[-1]] if high > low else [])]
    texts = sorted({value_text(value) for value in values}, key=_by_number)
    at = {text: index / max(1, len(texts) - 1) for index, text in enumerate(texts)}
    if len(texts) == 1:
        at = {texts[0]: 0.5}
    return [at[value_text(value)] for value in values], [(at[text], text) for text in texts]


def _by_number(text: str) -> tuple[bool, float, str]:
    try:
        return (False, float(text), text)
    except ValueError:
        return (True, 0.0, text)


def by_axis(results: SearchResults) -> str | None:
    """The scores of all settings over each axis: the strategy and whatever else was searched."""
    ranked = results.ranked
    keys = [
        key for key in results.axes if len({value_text(each.setting[key]) for each in ranked}) > 1
    ]
    keys.sort(key=lambda key: not key.endswith("strategy"))
    if len(ranked) < 2 or not keys:
        return None
    keys = keys[:_MOST_PANELS]
    rows = math.ceil(len(keys) / 2)
    with figure(10, 0.4 + 2.9 * rows) as drawing:
        panels = drawing.subplots(rows, min(2, len(keys)), squeeze=False).flatten()
        for axes, key in zip(panels, keys, strict=False):
            _draw_axis(axes, results, key)
        for axes in panels[len(keys) :]:
            axes.set_visible(False)
        return to_svg(drawing, "axes", "Score over each axis of the search")


def _draw_axis(axes: Axes, results: SearchResults, key: str) -> None:
    ranked = results.ranked
    values = [each.setting[key] for each in ranked]
    kind = results.axes[key]["type"]
    texts = sorted({value_text(value) for value in values}, key=_by_number)
    on_line = all(map(is_number, values)) and (
        kind not in ("choice", "grid") or len(texts) > _MOST_VALUES
    )
    for setting in reversed(ranked):
        assert setting.mean is not None
        value = setting.setting[key]
        x = float(value) if on_line else float(texts.index(value_text(value)))
        y = results.measure.shown(setting.mean)
        color = _color(results, setting)
        if setting.deviation is not None:
            axes.plot(
                [x, x], [y - setting.deviation, y + setting.deviation], color=color, alpha=0.5
            )
        axes.scatter([x], [y], s=30, color=color, edgecolors=SURFACE, linewidths=0.7, zorder=3)
    if on_line:
        if kind in ("loguniform", "lograndint"):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        for place, text in enumerate(texts):
            own = [
                results.measure.shown(each.mean)
                for each in ranked
                if each.mean is not None and value_text(each.setting[key]) == text
            ]
            mean = float(np.mean(own))
            axes.plot([place - 0.22, place + 0.22], [mean, mean], color=MUTED, linewidth=1.6)
        slanted = len(texts) > 3 or max(map(len, texts)) > 12
        axes.set_xticks(
            range(len(texts)), [short(text, 24) for text in texts],
            rotation=18 if slanted else 0, ha="right" if slanted else "center",
        )  # fmt: skip
        axes.set_xlim(-0.6, len(texts) - 0.4)
    axes.set_title(f"{short_axes(list(results.axes))[key]}: {results.measure.title}")
    grid(axes, "y")


def learning_curves(results: SearchResults) -> str | None:
    """Validation scores of every trial by epoch; a cross where one was stopped early."""
    trials = [trial for trial in results.trials if trial.curve]
    if not trials:
        return None
    height = 3.8
    best = results.ranked[0].number if results.ranked else None
    with figure(10, height) as drawing:
        axes = drawing.subplots()
        labels = []
        for trial in sorted(trials, key=lambda each: each.number == best):
            color = _curve_color(trial, best)
            xs = [epoch for epoch, _ in trial.curve]
            ys = [results.measure.shown(error) for _, error in trial.curve]
            axes.plot(
                xs, ys, color=color, linewidth=2.0 if trial.number == best else 1.2,
                alpha=1.0 if trial.number == best else 0.7,
            )  # fmt: skip
            if trial.state != "finished":
                axes.scatter(xs[-1:], ys[-1:], marker="x", s=28, color=color, zorder=3)
            if len(trials) <= 16 and trial.state == "finished":
                labels.append((float(xs[-1]), ys[-1], f"#{trial.number}", color))
        _zoom(axes, [results.measure.shown(e) for t in trials for _, e in t.curve], results)
        axes.set_xlabel("epoch")
        axes.set_title(f"Validation, {results.measure.title}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        grid(axes, "y")
        label_right(axes, labels, height_in=height - 0.9)
        return to_svg(drawing, "search-curves", "Validation score of every trial by epoch")


def _curve_color(trial: Trial, best: int | None) -> str:
    if trial.number == best:
        return _BEST
    return _OTHERS if trial.state == "finished" else _UNRANKED


def _zoom(axes: Axes, values: Sequence[float], results: SearchResults) -> None:
    """A first epoch near 100 % error would flatten all that matters."""
    low, high = min(values), max(values)
    ordered = sorted(values)
    if results.measure.from_hundred:
        low = ordered[int(0.05 * len(ordered))]
    else:
        high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    margin = 0.06 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def against_size(results: SearchResults) -> str | None:
    """Score of complete settings against the student's size; None where all have one size."""
    points: Mapping[int, tuple[int, float]] = {
        each.number: (each.parameters, results.measure.shown(each.mean))
        for each in results.ranked
        if each.parameters is not None and each.mean is not None
    }
    if len({size for size, _ in points.values()}) < 2:
        return None
    height = 3.6
    with figure(10, height) as drawing:
        axes = drawing.subplots()
        for setting in reversed(results.ranked):
            if setting.number in points:
                x, y = points[setting.number]
                axes.scatter([x], [y], s=34, color=_color(results, setting), edgecolors=SURFACE,
                             linewidths=0.7, zorder=3)  # fmt: skip
        _log_sizes(drawing, axes)
        axes.set_ylim(axes.get_ylim())
        axes.set_xlabel("parameters of the student")
        axes.set_title(f"{results.measure.title} against size")
        axes.grid(visible=True)
        if len(points) <= 16:
            labels = [
                (float(x), y, f"#{n}", _BEST if n == results.ranked[0].number else _OTHERS)
                for n, (x, y) in points.items()
            ]
            label_right(axes, labels, height_in=height - 0.9)
        return to_svg(drawing, "size", "Score against the number of parameters")


def _log_sizes(drawing: Figure, axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(_size_text))
    low, high = axes.get_xlim()
    if high / low < 10:
        # Less than a decade has no mark of its own.
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))


def _size_text(value: float, _: object = None) -> str:
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k"
