"""What a translator is worth: BLEU, chrF++ and TER of its texts, utterance by utterance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_ray.config.evaluation import BleuTokenizer, Head, Protocol
from kd_ray.core.scores import ErrorCounts, count_errors
from kd_ray.core.translation_scores import (
    REPORTED,
    TranslationCounts,
    sentence_scores,
    sentence_statistics,
)
from kd_ray.evaluation.cascade import AnySystem
from kd_ray.evaluation.decode import BatchDecoder, Search, decode_utterances
from kd_ray.evaluation.references import reference_texts
from kd_ray.evaluation.score import require_texts
from kd_ray.speech.manifest import Utterance


@dataclass(frozen=True)
class TranslationResult:
    """One system on one split: added counts, and a row for each utterance."""

    counts: TranslationCounts
    rows: Sequence[Mapping[str, Any]]
    transcript_errors: ErrorCounts | None = None
    """Word errors of a cascade's transcripts, over the utterances that have one to compare with."""


def score_translations(
    system: AnySystem,
    utterances: Sequence[Utterance],
    *,
    root: Path,
    batch_size: int,
    search: Search,
    head: Head,
    protocol: Protocol = "raw",
    tokenizer: BleuTokenizer = "13a",
    on_decoded: Callable[[int], None] = lambda count: None,
    elsewhere: BatchDecoder | None = None,
) -> TranslationResult:
    """Decode a split and score its texts; `on_decoded` hears how many are done at a time.

    `elsewhere` decodes by the same system, in other processes.

    A row holds what was compared (`reference`, `hypothesis`), the manifest's transcript, what the
    translator of a cascade read (`heard`), scores of the sentence by itself, and the counts that
    add up to the corpus's scores.
    """
    require_texts(utterances, "translation")
    references = reference_texts(utterances, protocol)
    found = {
        hypothesis.utterance_id: hypothesis
        for hypothesis in decode_utterances(
            system, utterances, root, batch_size, search, on_decoded, elsewhere
        )
    }
    texts = [system.tokens.decode(found[row.id].by(head)) for row in utterances]
    rows: list[dict[str, Any]] = [
        {
            "id": row.id,
            "transcript": row.transcript,
            "reference": reference,
            "hypothesis": text,
            "scores": {},
            "counts": {},
        }
        for row, reference, text in zip(utterances, references, texts, strict=True)
    ]
    for row in rows:
        heard = found[row["id"]].transcript
        if heard is not None:
            row["heard"] = heard
    totals: dict[Any, tuple[float, ...]] = {}
    for metric in REPORTED:
        statistics = sentence_statistics(texts, references, metric, tokenizer=tokenizer)
        totals[metric] = tuple(statistics.sum(axis=0).tolist())
        scores = sentence_scores(statistics, metric)
        for row, counts, score in zip(rows, statistics.astype(np.int64), scores, strict=True):
            row["scores"][metric] = round(float(score), 4)
            row["counts"][metric] = counts.tolist()
    return TranslationResult(TranslationCounts(totals, len(rows)), rows, _transcript_errors(rows))


def _transcript_errors(rows: Sequence[Mapping[str, Any]]) -> ErrorCounts | None:
    compared = [row for row in rows if row.get("heard") is not None and row["transcript"]]
    if not compared:
        return None
    return count_errors(
        [row["transcript"].split() for row in compared], [row["heard"].split() for row in compared]
    )


def translation_scores(result: TranslationResult) -> dict[str, Any]:
    """Scores of a split, as they stand in results.json."""
    empty = sum(not row["hypothesis"].strip() for row in result.rows)
    scores: dict[str, Any] = {metric: result.counts.score(metric) for metric in REPORTED}
    scores |= {
        "length_ratio": result.counts.length_ratio,
        "sentences": result.counts.sentences,
        "empty_hypotheses": empty,
        "counts": {metric: list(counts) for metric, counts in result.counts.counts.items()},
    }
    if result.transcript_errors is not None:
        scores["transcript_word_error_rate"] = result.transcript_errors.rate
    return scores
