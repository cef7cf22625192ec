"""What an evaluation of translations holds: `results.json` and every hypothesis with its counts.

Scores are always computed from the counts, by sacrebleu's formulas, so that a table and an interval
of the same system cannot disagree. BLEU ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from kd_ray.core.translation_scores import (
    REPORTED,
    TITLES,
    TranslationCounts,
    TranslationMetric,
    sentence_scores,
)
from kd_ray.report.systems import (
    EvaluatedSystem,
    Evaluation,
    Read,
    ReportError,
    as_report_error,
    hypotheses_path,
    read_json_lines,
    same_utterances,
)

RANKS: TranslationMetric = "bleu"
"""What tables are sorted by."""

SHOWS: TranslationMetric = "chrf++"
"""What single utterances are sorted by: BLEU of a sentence is mostly zero."""


class TranslationScores(Read):
    """One system on one split."""

    sentences: int
    length_ratio: float
    counts: dict[TranslationMetric, tuple[float, ...]]
    empty_hypotheses: int = 0
    transcript_word_error_rate: float | None = None
    """Of a cascade's recogniser, in percent."""

    @model_validator(mode="after")
    def _all_metrics(self) -> Self:
        missing = [metric for metric in REPORTED if metric not in self.counts]
        if missing:
            raise ValueError(f"counts of {', '.join(missing)} are missing")
        return self

    def score(self, metric: TranslationMetric) -> float:
        """The corpus score."""
        return TranslationCounts(self.counts, self.sentences).score(metric)


class TranslatedSystem(EvaluatedSystem):
    """One system and its counts."""

    scores: dict[str, TranslationScores]


class TranslationResults(Evaluation[TranslatedSystem]):
    """`results.json` of translations: every system's counts on every split."""

    family: Literal["translation"]
    protocol: str = "raw"
    signatures: dict[TranslationMetric, str]

    @model_validator(mode="after")
    def _scored(self) -> Self:
        for system in self.systems:
            if missing := sorted(set(self.splits) - set(system.scores)):
                raise ValueError(f"system {system.label!r} has no score on {', '.join(missing)}")
        return self

    @property
    def lower_is_better(self) -> bool:
        """BLEU: no."""
        return False

    @property
    def measure(self) -> str:
        """What `value` is."""
        return TITLES[RANKS]

    @property
    def curve(self) -> tuple[str, str]:
        """Key of a validation line in metrics.jsonl, and what it is."""
        return RANKS, f"Validation {TITLES[RANKS]}"

    def score(
        self, system: TranslatedSystem, metric: TranslationMetric, split: str | None = None
    ) -> float:
        """A corpus score of a system; None: on the ranked split."""
        return system.scores[split or self.ranked_split].score(metric)

    def value(self, system: TranslatedSystem, split: str | None = None) -> float:
        """BLEU."""
        return self.score(system, RANKS, split)


def parse_translations(results: Mapping[str, Any], source: str = "results") -> TranslationResults:
    """Check the contents of a `results.json`; all problems at once, as `ReportError`."""
    try:
        return TranslationResults.model_validate(results)
    except ValidationError as error:
        raise as_report_error(error, source) from error


@dataclass(frozen=True, eq=False)
class Translations:
    """All systems' hypotheses on one split. U utterances, K counts of a metric."""

    split: str
    ids: tuple[str, ...]
    transcripts: list[str | None]
    references: list[str]
    outputs: dict[str, list[str]]
    """System label to its texts, in the order of `ids`."""
    heard: dict[str, list[str]]
    """Cascade to the transcripts that its translator read."""
    counts: dict[str, dict[TranslationMetric, NDArray[np.float64]]]
    """System label to its counts (U, K) by metric."""
    notes: list[str] = field(default_factory=list)

    def sentence_scores(self, label: str, metric: TranslationMetric) -> NDArray[np.float64]:
        """A system's score of each utterance, (U,)."""
        return sentence_scores(self.counts[label][metric], metric)


def read_translations(
    folder: Path,
    results: TranslationResults,
    split: str | None = None,
    labels: Sequence[str] | None = None,
) -> Translations | None:
    """Hypotheses of systems (None: of all) on a split (None: the ranked one); None without any.

    They are joined by utterance id, whatever the order of the files. Systems without a file are
    named in `notes`. Files that contradict each other or results.json (other utterances, other
    references, other counts) are a `ReportError`.
    """
    split = split or results.ranked_split
    notes: list[str] = []
    rows_of: dict[str, dict[str, dict[str, Any]]] = {}
    for system in results.systems:
        if labels is not None and system.label not in labels:
            continue
        path = hypotheses_path(folder, split, system.label)
        if not path.exists():
            notes.append(f"{system.label}: no hypotheses on {split}, so no interval and no sample.")
            continue
        lines = read_json_lines(path)
        _check_lines(path, lines, system.scores[split])
        rows_of[system.label] = {str(line["id"]): line for line in lines}
    if not rows_of:
        return None
    ids = same_utterances(rows_of, split)
    first = next(iter(rows_of.values()))
    for label, rows in rows_of.items():
        other = [i for i in ids if rows[i]["reference"] != first[i]["reference"]]
        if other:
            raise ReportError(
                f"hypotheses of {label!r} on {split} were scored against other references "
                f"(first: utterance {other[0]}): evaluate all systems again, together"
            )
    return Translations(
        split=split,
        ids=ids,
        transcripts=[first[i].get("transcript") for i in ids],
        references=[first[i]["reference"] for i in ids],
        outputs={label: [rows[i]["hypothesis"] for i in ids] for label, rows in rows_of.items()},
        heard={
            label: [str(rows[i]["heard"]) for i in ids]
            for label, rows in rows_of.items()
            if all("heard" in row for row in rows.values())
        },
        counts={
            label: {
                metric: np.array([rows[i]["counts"][metric] for i in ids], dtype=np.float64)
                for metric in REPORTED
            }
            for label, rows in rows_of.items()
        },
        notes=notes,
    )


def _check_lines(path: Path, lines: list[dict[str, Any]], scores: TranslationScores) -> None:
    for line in lines:
        if missing := [k for k in ("id", "reference", "hypothesis", "counts") if k not in line]:
            raise ReportError(f"{path}: a row lacks {', '.join(missing)}")
    for metric in REPORTED:
        found = np.sum([line["counts"][metric] for line in lines], axis=0) if lines else []
        if list(found) != list(scores.counts[metric]):
            raise ReportError(
                f"the counts of {TITLES[metric]} in {path} do not add up to what results.json "
                "says: they come from different evaluations; evaluate again"
            )
