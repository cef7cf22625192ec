"""Sample utterances: reference and every system's hypothesis, unit under unit.

A column is a reference unit, or a place where at least one system inserted something; so all
hypotheses stand in one grid. Distances are Levenshtein's, as in the error rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rapidfuzz.distance import Levenshtein

from kd_ray.report.html import Html, h, joined
from kd_ray.report.results import Hypotheses, Results
from kd_ray.report.tables import NONE

WORST, RANDOM = 10, 10
MAX_TEACHERS = 4
"""More teachers than this: only the best, the middle and the worst are shown."""

Mark = Literal["", "s", "d", "i"]
"""Right, substituted, deleted, inserted."""

Cell = tuple[str, Mark]


@dataclass(frozen=True)
class Sample:
    """One utterance in the page."""

    id: str
    mean_percent: float
    """Mean of the shown students' error rates on this utterance (teachers', without students)."""
    reference: list[str]
    """Units; an empty string where only hypotheses have something."""
    systems: list[tuple[str, int, list[Cell]]]
    """Label, errors, a cell for each column."""


def align(
    reference: Sequence[str], hypotheses: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[Cell]]]:
    """Put hypotheses under a reference: (reference columns, a list of cells per hypothesis)."""
    matched: list[list[Cell]] = []
    inserted: list[list[list[str]]] = []
    for hypothesis in hypotheses:
        cells: list[Cell] = [("", "")] * len(reference)
        extra: list[list[str]] = [[] for _ in range(len(reference) + 1)]
        for step in Levenshtein.opcodes(reference, hypothesis):
            tag, i1, i2, j1, j2 = _fields(step)
            if tag == "insert":
                extra[i1] += hypothesis[j1:j2]
            elif tag == "delete":
                cells[i1:i2] = [("", "d")] * (i2 - i1)
            else:
                mark: Mark = "" if tag == "equal" else "s"
                cells[i1:i2] = [(unit, mark) for unit in hypothesis[j1:j2]]
        matched.append(cells)
        inserted.append(extra)
    columns: list[str] = []
    rows: list[list[Cell]] = [[] for _ in hypotheses]
    for place in range(len(reference) + 1):
        width = max((len(extra[place]) for extra in inserted), default=0)
        columns += [""] * width
        for row, extra in zip(rows, inserted, strict=True):
            units = extra[place]
            row += [(unit, "i") for unit in units]
            row += [("", "")] * (width - len(units))
        if place < len(reference):
            columns.append(reference[place])
            for row, cells in zip(rows, matched, strict=True):
                row.append(cells[place])
    return columns, rows


def _fields(step: Any) -> tuple[str, int, int, int, int]:
    return step.tag, step.src_start, step.src_end, step.dest_start, step.dest_end


def shown_systems(results: Results, hypotheses: Hypotheses) -> list[str]:
    """Students (best first), then teachers: all if few, else best, middle and worst."""
    students = [s.label for s in results.of_kind("student") if s.label in hypotheses.outputs]
    teachers = [s.label for s in results.of_kind("teacher") if s.label in hypotheses.outputs]
    if len(teachers) > MAX_TEACHERS:
        teachers = [teachers[0], teachers[len(teachers) // 2], teachers[-1]]
    return [*students, *teachers]


def pick(
    results: Results, hypotheses: Hypotheses, *, seed: int = 1
) -> tuple[list[Sample], list[Sample]]:
    """(worst, random): utterances with most errors per unit, and a seeded draw of the others."""
    labels = shown_systems(results, hypotheses)
    kinds = {system.label: system.kind for system in results.systems}
    judged = [label for label in labels if kinds[label] == "student"] or labels
    lengths = np.array([max(1, len(reference)) for reference in hypotheses.references])
    rates = np.mean([100.0 * hypotheses.errors[label] / lengths for label in judged], axis=0)
    order = sorted(range(len(rates)), key=lambda i: (-rates[i], hypotheses.ids[i]))
    worst, others = order[:WORST], sorted(order[WORST:])
    chosen = [int(i) for i in np.random.default_rng(seed).permutation(others)[:RANDOM]]

    def sample(index: int) -> Sample:
        reference = hypotheses.references[index]
        columns, rows = align(reference, [hypotheses.outputs[label][index] for label in labels])
        errors = [int(hypotheses.errors[label][index]) for label in labels]
        return Sample(
            id=hypotheses.ids[index],
            mean_percent=float(rates[index]),
            reference=columns,
            systems=list(zip(labels, errors, rows, strict=True)),
        )

    return [sample(i) for i in worst], [sample(i) for i in chosen]


def sample_html(sample: Sample) -> Html:
    """An utterance as a grid that scrolls sideways by itself."""
    head = joined(h("<td>{unit}</td>", unit=unit) for unit in sample.reference)
    rows = [h('<tr class="ref"><th scope="row">reference</th><td></td>{cells}</tr>', cells=head)]
    for label, errors, cells in sample.systems:
        rows.append(
            h(
                '<tr><th scope="row" title="{label}">{label}</th>'
                '<td class="n">{errors}</td>{cells}</tr>',
                label=label,
                errors=errors,
                cells=joined(_cell(unit, mark) for unit, mark in cells),
            )
        )
    return h(
        '<figure class="utterance"><figcaption><b>{id}</b> '
        "<span>mean error {rate} %</span></figcaption>"
        '<div class="scroll"><table class="aligned">{rows}</table></div></figure>',
        id=sample.id,
        rate=f"{sample.mean_percent:.0f}",
        rows=joined(rows),
    )


def _cell(unit: str, mark: Mark) -> Html:
    if not mark:
        return h("<td>{unit}</td>", unit=unit)
    shown = {"s": unit, "d": NONE, "i": f"+{unit}"}[mark]
    return h('<td class="{mark}">{unit}</td>', mark=mark, unit=shown)
