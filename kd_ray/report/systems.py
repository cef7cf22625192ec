"""What every evaluation holds, whatever it measures: systems on splits, and who is the baseline."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kd_ray.config.evaluation import Head
from kd_ray.storage import fetch

Kind = Literal["teacher", "student", "expert", "cascade"]


class ReportError(ValueError):
    """A folder does not hold what a report needs; the message names file and reason."""


class Read(BaseModel):
    """Unknown keys are allowed: a newer evaluation may say more than this report shows."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class EvaluatedSystem(Read):
    """One teacher, student, text expert or cascade."""

    label: str
    kind: Kind
    folder: str
    parameters: int
    bytes: int
    real_time_factor: float | None = None
    strategy: str | None = None

    @property
    def undistilled(self) -> bool:
        """A student that had no teachers."""
        return self.kind == "student" and self.strategy in (None, "none")


class Split(Read):
    """What a system was evaluated on."""

    manifest: str
    utterances: int


Member = TypeVar("Member", bound=EvaluatedSystem)


class Evaluation(Read, Generic[Member]):
    """`results.json`: every system on every split, by one measure."""

    splits: dict[str, Split]
    decoding: Head = "attention"
    systems: list[Member]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.splits or not self.systems:
            raise ValueError("results must hold at least one split and one system")
        labels = [system.label for system in self.systems]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"systems must have different labels; used twice: {', '.join(twice)}")
        return self

    @property
    @abstractmethod
    def lower_is_better(self) -> bool:
        """Which way the measure goes."""

    @property
    @abstractmethod
    def measure(self) -> str:
        """What `value` is, for headings and axes."""

    @property
    @abstractmethod
    def curve(self) -> tuple[str, str]:
        """Key of a validation line in metrics.jsonl, and what it is."""

    @abstractmethod
    def value(self, system: Member, split: str | None = None) -> float:
        """The measure of a system on a split; None: the ranked one."""

    @property
    def ranked_split(self) -> str:
        """The split that tables are sorted by and plots show: the last one."""
        return list(self.splits)[-1]

    def of_kind(self, kind: Kind) -> list[Member]:
        """Systems of a kind, best first on the ranked split (ties: order of evaluation)."""
        sign = 1 if self.lower_is_better else -1
        members = [system for system in self.systems if system.kind == kind]
        return sorted(members, key=lambda system: sign * self.value(system))

    @property
    def baseline(self) -> Member | None:
        """The (first) student without distillation, which the others are compared with."""
        return next((system for system in self.systems if system.undistilled), None)

    @property
    def best_student(self) -> Member | None:
        """The best student on the ranked split."""
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


def results_path(folder: Path) -> Path:
    """`results.json` of an evaluation folder."""
    path = fetch(folder / "results.json")
    if not path.exists():
        raise ReportError(
            f"{folder} holds no results.json, so it is not an evaluation folder; "
            "`kd-ray evaluate CONFIG` writes one to runs/<name>/"
        )
    return path


def as_report_error(error: ValidationError, source: str) -> ReportError:
    """All that is wrong with a `results.json`, at once."""
    problems = "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'contents'}: {e['msg']}" for e in error.errors()
    )
    return ReportError(f"{source} is not what `kd-ray evaluate` writes: {problems}")


def hypotheses_path(folder: Path, split: str, label: str) -> Path:
    """Where an evaluation keeps a system's hypotheses."""
    return folder / "hypotheses" / split / f"{label.replace('/', '-')}.jsonl"


def same_utterances(rows_of: Mapping[str, Mapping[str, Any]], split: str) -> tuple[str, ...]:
    """Ids that all systems' hypotheses have, in the first one's order; other ids are an error."""
    first_label, first = next(iter(rows_of.items()))
    ids = tuple(first)
    for label, rows in rows_of.items():
        if set(rows) != set(ids):
            raise ReportError(
                f"hypotheses of {label!r} and {first_label!r} on {split} are of different "
                f"utterances ({len(rows)} and {len(ids)}): evaluate them again, together"
            )
    return ids
