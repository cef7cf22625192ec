"""What a system is worth: error rates with alignments, and its speed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.data import TextColumn
from kd_ray.core.scores import ErrorCounts, align, count_errors
from kd_ray.evaluation.cascade import AnySystem
from kd_ray.evaluation.decode import BatchDecoder, Search, decode_utterances
from kd_ray.evaluation.system import UnusableSystem, some
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import split_units

_SPEED_PASSES = 3


@dataclass(frozen=True)
class SplitResult:
    """One system on one split: pooled counts by head, and a row for each utterance."""

    counts: Mapping[str, ErrorCounts]
    rows: Sequence[Mapping[str, Any]]


def score_split(
    system: AnySystem,
    utterances: Sequence[Utterance],
    *,
    root: Path,
    column: TextColumn,
    batch_size: int,
    search: Search,
    on_decoded: Callable[[int], None] = lambda count: None,
    elsewhere: BatchDecoder | None = None,
) -> SplitResult:
    """Decode and score a split; `on_decoded` hears how many utterances are done at a time.

    `elsewhere` decodes by the same system, in other processes.

    Error rates are over the units of the system's tokens (phones, words or characters; words of
    SentencePiece tokens): 100 x (substitutions + insertions + deletions) / reference units, pooled
    over the split.
    """
    require_texts(utterances, column)
    found = {
        hypothesis.utterance_id: hypothesis
        for hypothesis in decode_utterances(
            system, utterances, root, batch_size, search, on_decoded, elsewhere
        )
    }
    tokens = system.tokens
    references = [split_units(row.text(column) or "", tokens.unit) for row in utterances]
    rows: list[dict[str, Any]] = [
        {"id": row.id, "reference": " ".join(reference)}
        for row, reference in zip(utterances, references, strict=True)
    ]
    counts: dict[str, ErrorCounts] = {}
    for head in search.heads:
        heard = [tokens.words(found[row.id].by(head)) for row in utterances]
        counts[head] = count_errors(references, heard)
        for row, reference, units, alignment in zip(
            rows, references, heard, align(references, heard), strict=True
        ):
            row[head] = " ".join(units)
            row[f"{head}_errors"] = count_errors([reference], [units]).errors
            if head == "attention":
                row["alignment"] = [
                    [step.operation, step.reference, step.hypothesis] for step in alignment
                ]
    return SplitResult(counts, rows)


def require_texts(utterances: Sequence[Utterance], column: TextColumn) -> None:
    """Refuse a split with utterances that have nothing to compare with.

    Raises:
        UnusableSystem: names the first of them.
    """
    silent = [row.id for row in utterances if not (row.text(column) or "").strip()]
    if silent:
        raise UnusableSystem(
            f"{len(silent)} of {len(utterances)} utterances have no {column} to compare with: "
            f"{some(silent)}; evaluate a labelled manifest, or use `kd-ray decode`"
        )


def split_scores(result: SplitResult) -> dict[str, dict[str, Any]]:
    """Scores of a split by head, as they stand in results.json."""
    scores = {}
    for head, counts in result.counts.items():
        wrong = sum(row[f"{head}_errors"] > 0 for row in result.rows)
        scores[head] = {
            "error_rate": counts.rate,
            "substitutions": counts.substitutions,
            "insertions": counts.insertions,
            "deletions": counts.deletions,
            "reference_length": counts.reference_length,
            "sentences": counts.sentences,
            "sentence_error_rate": 100.0 * wrong / max(1, len(result.rows)),
        }
    return scores


def real_time_factor(
    system: AnySystem, utterances: Sequence[Utterance], root: Path, search: Search
) -> float | None:
    """Seconds of computation per second of speech: one torch thread, one utterance at a time.

    From waveform (or text) to hypothesis, what is read already in memory. Each utterance counts
    with the fastest of its passes: whatever else the machine does only ever adds time. The speech
    of a text is what its utterance lasts; None where durations of texts are not known.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs = system.read_inputs(utterances, root)
        spent_s = [float("inf")] * len(inputs)
        for _ in range(_SPEED_PASSES):
            for place, (row, each) in enumerate(zip(utterances, inputs, strict=True)):
                started = time.perf_counter()
                system.decode_inputs([each], [row.id], search)
                spent_s[place] = min(spent_s[place], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    speech_s = 0.0
    for row, each in zip(utterances, inputs, strict=True):
        if isinstance(each, str):
            if row.duration_s is None:
                return None
            speech_s += row.duration_s
        else:
            speech_s += len(each) / 16_000
    return sum(spent_s) / speech_s if speech_s else None
