"""Groups of a manifest's utterances: by speaker, domain, length, or whatever columns it has."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.report.systems import ReportError
from kd_ray.report.tables import DASH
from kd_ray.speech.manifest import Utterance

DURATION = "duration"
"""Stands for the column `duration_s`."""

_KNOWN = ("domain", "speaker", "source_language", "target_language")
_MOST_VALUES = 8
"""Numbers with more distinct values than this are cut into buckets."""
_NONE = "(none)"


@dataclass(frozen=True, eq=False)
class Group:
    """Some utterances; `rows` are their places, ascending."""

    column: str
    name: str
    rows: NDArray[np.int64]


def groups_of(
    utterances: Sequence[Utterance], columns: Sequence[str] | None = None, *, buckets: int = 4
) -> dict[str, list[Group]]:
    """The groups of each column, in the order in which they are best read.

    Numbers become buckets of about the same number of utterances; utterances without a value are
    a group of their own, the last one.

    Args:
        utterances: in the order that `rows` count.
        columns: names of columns, `duration` among them; None: all that make at least two groups,
            of two utterances on average.
        buckets: how many groups numbers make.

    Raises:
        ReportError: no such column, or one whose values are lists or mappings.
    """
    values = _columns(utterances)
    if columns is None:
        found = {name: _cut(name, column, buckets) for name, column in values.items()}
        return {
            name: groups
            for name, groups in found.items()
            if groups is not None and 2 <= len(groups) <= len(utterances) / 2
        }
    chosen = {}
    for name in columns:
        if name not in values:
            raise ReportError(
                f"groups: the manifest has no values in a column {name!r}; it has "
                f"{', '.join(values) or 'none to group by'}"
            )
        groups = _cut(name, values[name], buckets)
        if groups is None:
            raise ReportError(
                f"groups: column {name!r} holds lists or mappings; name one of texts or numbers"
            )
        chosen[name] = groups
    return chosen


def _columns(utterances: Sequence[Utterance]) -> dict[str, list[Any]]:
    """Columns in which any utterance has a value."""
    columns = {DURATION: [row.duration_s for row in utterances]}
    columns |= {name: [getattr(row, name) for row in utterances] for name in _KNOWN}
    extra = sorted({name for row in utterances for name in row.extra})
    columns |= {name: [row.extra.get(name) for row in utterances] for name in extra}
    return {name: column for name, column in columns.items() if any(v is not None for v in column)}


def _cut(name: str, column: Sequence[Any], buckets: int) -> list[Group] | None:
    present = [value for value in column if value is not None]
    if all(_is_number(value) for value in present):
        distinct = len(set(present))
        if name == DURATION or distinct > max(buckets, _MOST_VALUES):
            return _buckets(name, column, buckets, " s" if name == DURATION else "")
        order: list[Any] = sorted(set(present))
    elif all(isinstance(value, str | bool | int | float) for value in present):
        order = sorted(set(present), key=lambda value: _natural(str(value)))
    else:
        return None
    places: Mapping[Any, list[int]] = {value: [] for value in order}
    for row, value in enumerate(column):
        if value is not None:
            places[value].append(row)
    groups = [Group(name, _text(value), _rows(rows)) for value, rows in places.items()]
    return groups + _without(name, column)


def _buckets(name: str, column: Sequence[Any], buckets: int, unit: str) -> list[Group]:
    numbers = np.array([np.nan if value is None else float(value) for value in column])
    known = numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, buckets + 1)))
    # An edge belongs to the bucket below it, the smallest value to the first.
    place = np.maximum(np.searchsorted(edges, numbers, side="left") - 1, 0)
    groups = []
    for number in range(max(1, len(edges) - 1)):
        rows = np.flatnonzero((place == number) & ~np.isnan(numbers))
        if len(rows):
            low, high = edges[number], edges[min(number + 1, len(edges) - 1)]
            ends = dict.fromkeys((f"{low:.3g}", f"{high:.3g}"))
            groups.append(Group(name, DASH.join(ends) + unit, rows))
    return groups + _without(name, column)


def _without(name: str, column: Sequence[Any]) -> list[Group]:
    rows = [row for row, value in enumerate(column) if value is None]
    return [Group(name, _NONE, _rows(rows))] if rows else []


def _rows(rows: Sequence[int]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Sorts `s10` behind `s9`."""
    parts = re.split(r"(\d+)", text)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
