"""What the teachers of runs cost: one run in all its parts, several side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_ray.report.runs import Run
from kd_ray.report.tables import NONE, TIMES, size

Cells = tuple[list[str], list[list[str]]]
"""Headings, and rows."""

_COUNTS = {
    "teacher_s": "teacher computation",
    "computed_rows": f"rows computed (utterances {TIMES} teachers)",
    "remembered_rows": "rows remembered or stored",
    "loads": "teachers loaded",
}
_EDGES = {
    "bytes_sent": "audio sent to hosts",
    "bytes_hosts": "kept by hosts",
    "bytes_nodes": "merged by nodes",
    "bytes_student": "sent to the student",
}


def cost_cells(run: Run) -> Cells | None:
    """The costs of a run: in all, for each utterance asked about, for each target position."""
    costs = costs_of_run(run)
    if not costs:
        return None
    each, position = _part(costs, "per_utterance"), _part(costs, "per_position")
    rows = [
        [title, _shown(key, costs), _shown(key, each), NONE]
        for key, title in _COUNTS.items()
        if key in costs and (key != "loads" or costs[key])
    ]
    rows += [
        [title, _shown(key, costs), _shown(key, each), _shown(key, position)]
        for key, title in _EDGES.items()
        if costs.get(key)
    ]
    share = 100 * costs.get("wait_share", 0.0)
    waited = f"{_seconds(costs.get('wait_s'))}, {share:.1f} % of its training"
    rows.append(["the student waited", waited, NONE, NONE])
    return ["", "in all", "an utterance", "a position"], rows


def costs_side_by_side(runs: Sequence[Run]) -> Cells | None:
    """A line for each run with teachers; None where there are fewer than two."""
    costly = [(run, costs) for run in runs if (costs := costs_of_run(run))]
    if len(costly) < 2:
        return None
    head = [
        "run", "strategy", "source", "teacher computation\nan utterance", "rows computed",
        "rows remembered", "loads\nan utterance", "to the student\nan utterance", "a position",
        "student waited",
    ]  # fmt: skip
    rows = []
    for run, costs in costly:
        each, position = _part(costs, "per_utterance"), _part(costs, "per_position")
        rows.append(
            [
                run.label,
                str(run.summary.get("strategy", NONE)),
                str(run.summary.get("source", NONE)),
                _shown("teacher_s", each),
                _shown("computed_rows", costs),
                _shown("remembered_rows", costs),
                _shown("loads", each),
                _shown("bytes_student", each),
                _shown("bytes_student", position),
                f"{100 * costs.get('wait_share', 0):.1f} %",
            ]
        )
    return head, rows


def costs_of_run(run: Run) -> Mapping[str, Any]:
    """Section `costs` of its summary; empty without teachers."""
    return _part(run.summary, "costs")


def _part(costs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = costs.get(key)
    return value if isinstance(value, Mapping) else {}


def _shown(key: str, values: Mapping[str, Any]) -> str:
    value = values.get(key)
    if not isinstance(value, int | float):
        return NONE
    if key == "teacher_s":
        return _seconds(value)
    if key in _EDGES:
        return size(value) if value else NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _seconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return NONE
    return f"{value:,.1f} s" if value >= 1 else f"{1e3 * value:.3g} ms"
