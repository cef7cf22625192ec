"""What an evaluation folder holds: `results.json` and every hypothesis.

Error rates are always computed from the counts (substitutions, insertions, deletions, reference
length), in percent, so that a table and an interval of the same system cannot disagree.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

Decoding = Literal["attention", "ctc"]


class ReportError(ValueError):
    """A folder does not hold what a report needs; the message names file and reason."""


class _Read(BaseModel):
    """Unknown keys are allowed: a newer evaluation may say more than this report shows."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Counts(_Read):
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


class SystemResult(_Read):
    """One teacher or student."""

    label: str
    kind: Literal["teacher", "student"]
    folder: str
    parameters: int
    bytes: int
    real_time_factor: float | None = None
    strategy: str | None = None
    scores: dict[str, dict[Decoding, Counts]]

    @property
    def undistilled(self) -> bool:
        """A student that had no teachers."""
        return self.kind == "student" and self.strategy in (None, "none")


class Split(_Read):
    """What a system was evaluated on."""

    manifest: str
    utterances: int


class Results(_Read):
    """`results.json`: every system's counts on every split."""

    splits: dict[str, Split]
    decoding: Decoding = "attention"
    unit: str = "units"
    """What an error rate counts: phones, words or characters."""
    systems: list[SystemResult]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.splits or not self.systems:
            raise ValueError("results must hold at least one split and one system")
        labels = [system.label for system in self.systems]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"systems must have different labels; used twice: {', '.join(twice)}")
        for system in self.systems:
            for split in self.splits:
                missing = {"attention", "ctc"} - set(system.scores.get(split, {}))
                if missing:
                    raise ValueError(
                        f"system {system.label!r} has no {' or '.join(sorted(missing))} score "
                        f"on split {split!r}"
                    )
        return self

    @property
    def ranked_split(self) -> str:
        """The split that tables are sorted by and plots show: the last one."""
        return list(self.splits)[-1]

    @property
    def other_decoding(self) -> Decoding:
        """The decoding that is not ranked by."""
        return "ctc" if self.decoding == "attention" else "attention"

    def percent(self, system: SystemResult, split: str | None = None) -> float:
        """Error rate of a system by the ranked decoding, in percent."""
        return system.scores[split or self.ranked_split][self.decoding].percent

    def of_kind(self, kind: Literal["teacher", "student"]) -> list[SystemResult]:
        """Systems of a kind, best first on the ranked split (ties: order of evaluation)."""
        return sorted((s for s in self.systems if s.kind == kind), key=self.percent)

    @property
    def baseline(self) -> SystemResult | None:
        """The (first) student without distillation, which the others are compared with."""
        return next((system for system in self.systems if system.undistilled), None)

    @property
    def best_student(self) -> SystemResult | None:
        """The student with the lowest error rate on the ranked split."""
        return next(iter(self.of_kind("student")), None)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; `ReportError` names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects, one a line. A last line cut short by a killed process is left out."""
    if not path.exists():
        return []
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ReportError(f"{path}, line {number}, is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ReportError(f"{path}, line {number}, must be a JSON object")
        rows.append(row)
    return rows


def parse_results(results: Mapping[str, Any] | Results, source: str = "results") -> Results:
    """Check the contents of a `results.json`; all problems at once, as `ReportError`."""
    if isinstance(results, Results):
        return results
    try:
        return Results.model_validate(results)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'contents'}: {e['msg']}" for e in error.errors()
        )
        raise ReportError(f"{source} is not what `kd-ray evaluate` writes: {problems}") from error


def read_results(folder: Path) -> Results:
    """`results.json` of an evaluation folder."""
    path = folder / "results.json"
    if not path.exists():
        raise ReportError(
            f"{folder} holds no results.json, so it is not an evaluation folder; "
            "`kd-ray evaluate CONFIG` writes one to runs/<name>/"
        )
    return parse_results(read_json(path), str(path))


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """All systems' hypotheses on one split, by the ranked decoding. U utterances."""

    split: str
    decoding: Decoding
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


def read_hypotheses(folder: Path, results: Results) -> Hypotheses | None:
    """Hypotheses of every system on the ranked split; None if there are none at all.

    Systems without a file are named in `notes`. Files that contradict each other or
    results.json (other utterances, other error counts) are a `ReportError`.
    """
    split, decoding = results.ranked_split, results.decoding
    base = folder / "hypotheses" / split
    notes: list[str] = []
    rows_of: dict[str, dict[str, dict[str, Any]]] = {}
    for system in results.systems:
        path = base / f"{system.label.replace('/', '-')}.jsonl"
        if not path.exists():
            notes.append(f"{system.label}: no hypotheses on {split}, so no interval and no sample.")
            continue
        rows = {str(row.get("id")): row for row in read_json_lines(path)}
        _check_rows(path, rows, system.scores[split][decoding], decoding)
        rows_of[system.label] = rows
    if not rows_of:
        return None
    first_label, first = next(iter(rows_of.items()))
    ids = tuple(first)
    for label, rows in rows_of.items():
        if set(rows) != set(ids):
            raise ReportError(
                f"hypotheses of {label!r} and {first_label!r} on {split} are of different "
                f"utterances ({len(rows)} and {len(ids)}): evaluate them again, together"
            )
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
    path: Path, rows: Mapping[str, Mapping[str, Any]], counts: Counts, decoding: Decoding
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
