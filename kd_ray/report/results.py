"""What an evaluation of error rates holds: `results.json` and every hypothesis.

Error rates are always computed from the counts (substitutions, insertions, deletions, reference
length), in percent, so that a table and an interval of the same system cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from kd_ray.config.evaluation import Head
from kd_ray.report.systems import (
    EvaluatedSystem,
    Evaluation,
    Read,
    ReportError,
    as_report_error,
    hypotheses_path,
    read_json,
    read_json_lines,
    results_path,
    same_utterances,
)


class Counts(Read):
    """Edit operations of one system on one split."""

    substitutions: int
    insertions: int
    deletions: int
    reference_length: int
    sentences: int
    sentence_error_rate: float | None = None

    @property
    def errors(self) -> int:
        """Substitutions + insertions + deletions."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def percent(self) -> float:
        """Errors per hundred reference units."""
        return 100.0 * self.errors / max(1, self.reference_length)


class SystemResult(EvaluatedSystem):
    """One system and its counts."""

    scores: dict[str, dict[Head, Counts]]


class Results(Evaluation[SystemResult]):
    """`results.json` of error rates: every system's counts on every split."""

    unit: str = "units"
    """What an error rate counts: phones, words or characters."""

    @model_validator(mode="after")
    def _scored(self) -> Self:
        for system in self.systems:
            for split in self.splits:
                if self.decoding not in system.scores.get(split, {}):
                    raise ValueError(
                        f"system {system.label!r} has no {self.decoding} score on split {split!r}"
                    )
        return self

    @property
    def lower_is_better(self) -> bool:
        """Errors: yes."""
        return True

    @property
    def measure(self) -> str:
        """What `value` is."""
        return "error, %"

    @property
    def curve(self) -> tuple[str, str]:
        """Key of a validation line in metrics.jsonl, and what it is."""
        return f"error_rate_{self.decoding}", f"Validation error, %, {self.decoding} decoding"

    @property
    def other_decoding(self) -> Head:
        """The greedy decoding that is not ranked by; not every system has a CTC head."""
        return "ctc" if self.decoding == "attention" else "attention"

    def percent(self, system: SystemResult, split: str | None = None) -> float:
        """Error rate of a system by the ranked decoding, in percent."""
        return system.scores[split or self.ranked_split][self.decoding].percent

    def value(self, system: SystemResult, split: str | None = None) -> float:
        """`percent`."""
        return self.percent(system, split)


def parse_results(results: Mapping[str, Any] | Results, source: str = "results") -> Results:
    """Check the contents of a `results.json`; all problems at once, as `ReportError`."""
    if isinstance(results, Results):
        return results
    try:
        return Results.model_validate(results)
    except ValidationError as error:
        raise as_report_error(error, source) from error


def read_results(folder: Path) -> Results:
    """`results.json` of an evaluation folder."""
    path = results_path(folder)
    return parse_results(read_json(path), str(path))


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """All systems' hypotheses on one split, by the ranked decoding. U utterances."""

    split: str
    decoding: Head
    ids: tuple[str, ...]
    references: list[tuple[str, ...]]
    """Reference of each utterance, in units (phones, words or characters)."""
    outputs: dict[str, list[tuple[str, ...]]]
    """System label to its hypotheses, in units, in the order of `ids`."""
    errors: dict[str, NDArray[np.int64]]
    """System label to its errors (U,)."""
    lengths: NDArray[np.int64] | None
    """Reference units (U,); None where they do not add up to what results.json says."""
    notes: list[str] = field(default_factory=list)


def _separated(text: str) -> tuple[str, ...]:
    """Characters that were joined by blanks; a blank may be one of them (`a b   c`)."""
    return tuple(text[::2])


# How a hypothesis may be written down; the first whose lengths add up is taken.
_READINGS: tuple[Callable[[str], tuple[str, ...]], ...] = (
    lambda text: tuple(text.split()),
    _separated,
    tuple,
)


def read_hypotheses(folder: Path, results: Results, split: str | None = None) -> Hypotheses | None:
    """Hypotheses of every system on a split (None: the ranked one); None if there are none at all.

    Systems without a file are named in `notes`. Files that contradict each other or
    results.json (other utterances, other error counts) are a `ReportError`.
    """
    split, decoding = split or results.ranked_split, results.decoding
    notes: list[str] = []
    rows_of: dict[str, dict[str, dict[str, Any]]] = {}
    for system in results.systems:
        path = hypotheses_path(folder, split, system.label)
        if not path.exists():
            notes.append(f"{system.label}: no hypotheses on {split}, so no interval and no sample.")
            continue
        rows = {str(row.get("id")): row for row in read_json_lines(path)}
        _check_rows(path, rows, system.scores[split][decoding], decoding)
        rows_of[system.label] = rows
    if not rows_of:
        return None
    ids = same_utterances(rows_of, split)
    first = next(iter(rows_of.values()))
    expected = next(iter(results.systems)).scores[split][decoding].reference_length
    texts = [str(first[i]["reference"]) for i in ids]
    readings = _READINGS[1:] if results.unit == "characters" else _READINGS
    fitting = [read for read in readings if sum(len(read(text)) for text in texts) == expected]
    fits, read = bool(fitting), (fitting or readings)[0]
    references = [read(text) for text in texts]
    if not fits:
        notes.append(
            f"The references in hypotheses/{split} do not add up to {expected} units, so there are "
            "no intervals."
        )
    return Hypotheses(
        split=split,
        decoding=decoding,
        ids=ids,
        references=references,
        outputs={
            label: [read(str(rows[i][decoding])) for i in ids] for label, rows in rows_of.items()
        },
        errors={
            label: np.array([rows[i][f"{decoding}_errors"] for i in ids], dtype=np.int64)
            for label, rows in rows_of.items()
        },
        lengths=np.array([len(r) for r in references], dtype=np.int64) if fits else None,
        notes=notes,
    )


def _check_rows(
    path: Path, rows: Mapping[str, Mapping[str, Any]], counts: Counts, decoding: Head
) -> None:
    needed = ("id", "reference", decoding, f"{decoding}_errors")
    for row in rows.values():
        if missing := [key for key in needed if key not in row]:
            raise ReportError(f"{path}: a row lacks {', '.join(missing)}")
    total = sum(int(row[f"{decoding}_errors"]) for row in rows.values())
    if total != counts.errors:
        raise ReportError(
            f"{path} holds {total} errors, results.json says {counts.errors}: "
            "they come from different evaluations; evaluate again"
        )
