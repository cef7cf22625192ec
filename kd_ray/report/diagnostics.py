"""How training on the student's own prefixes went: beta, rollouts, the teacher along them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from kd_ray.report.drawing import TEACHER_LOOK, figure, grid, label_right, short_names, to_svg
from kd_ray.report.plots import looks
from kd_ray.report.runs import Run
from kd_ray.report.systems import Evaluation

DIAGNOSTICS: Mapping[str, str] = {
    "beta": "beta, chance of a data prefix",
    "replaced_share": "share of prefixes from rollouts",
    "rollout_length_ratio": "length of rollouts to references",
    "rollout_age_updates": "age of rollouts, updates",
    "teacher_entropy_data": "entropy of the teacher on data prefixes, nats",
    "teacher_entropy_rollout": "entropy of the teacher on rollouts, nats",
    "teacher_agrees_data": "teacher agrees with data prefix",
    "teacher_agrees_rollout": "teacher agrees with rollout",
    "completion_reward": "reward of the expert's completions",
    "counted_action_share": "share of tried actions that count",
}
"""Keys of training lines in metrics.jsonl, and what they are."""

_COLUMNS = 3


def diagnostics(results: Evaluation[Any], runs: Sequence[Run]) -> str | None:
    """A small plot for each figure that some run has; means over the updates of an epoch."""
    curves = {
        key: {run.label: curve for run in runs if (curve := epoch_means(run.train, key))}
        for key in DIAGNOSTICS
    }
    shown = [key for key, found in curves.items() if found]
    if not shown:
        return None
    styles = looks(results)
    rows = math.ceil(len(shown) / _COLUMNS)
    height = 2.5
    with figure(10, height * rows) as drawing:
        grids = drawing.subplots(rows, _COLUMNS, squeeze=False)
        for axes in grids.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, key in zip(grids.flat, shown, strict=False):
            names = short_names(list(curves[key]), 16)
            ends = []
            for label, curve in curves[key].items():
                look = styles.get(label, TEACHER_LOOK)
                epochs, values = list(curve), list(curve.values())
                axes.plot(
                    epochs,
                    values,
                    color=look.color,
                    linestyle=look.dashes,
                    linewidth=1.5,
                    marker=look.marker if len(epochs) == 1 else None,
                    markersize=4,
                )
                ends.append((epochs[-1], values[-1], names[label], look.color))
            axes.set_title(DIAGNOSTICS[key], fontsize=8.5)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axes.margins(y=0.12)
            axes.autoscale_view()
            axes.set_ylim(axes.get_ylim())
            grid(axes, "y")
            label_right(axes, ends, height_in=height - 0.9)
        return to_svg(drawing, "diagnostics", "Prefixes and teachers by epoch")


def epoch_means(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """Epoch to the mean of a figure over its updates; updates without it are left out."""
    values: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value) and "epoch" in row:
            values[int(row["epoch"])].append(float(value))
    return {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}
