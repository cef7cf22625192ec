"""What a system is worth: error rates with alignments, size on disk, speed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.data import TextColumn
from kd_ray.core.scores import ErrorCounts, align, count_errors
from kd_ray.evaluation.decode import decode_utterances
from kd_ray.evaluation.system import System, UnusableSystem
from kd_ray.models.decoding import attention_greedy
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import split_units

HEADS = ("attention", "ctc")
_SPEED_PASSES = 3


@dataclass(frozen=True)
class SplitResult:
    """One system on one split: pooled counts by head, and a row for each utterance."""

    counts: Mapping[str, ErrorCounts]
    rows: Sequence[Mapping[str, Any]]


def score_split(
    system: System,
    utterances: Sequence[Utterance],
    *,
    root: Path,
    column: TextColumn,
    batch_size: int,
) -> SplitResult:
    """Decode and score a split.

    Error rates are over the units of the system's tokens (phones, words or characters): 100 x
    (substitutions + insertions + deletions) / reference units, pooled over the split.
    """
    silent = [row.id for row in utterances if not row.text(column)]
    if silent:
        raise UnusableSystem(
            f"{len(silent)} of {len(utterances)} utterances have no {column} to compare with: "
            f"{', '.join(silent[:5])}{', ...' if len(silent) > 5 else ''}; evaluate a labelled "
            "manifest, or use `kd-ray decode`"
        )
    found = {
        hypothesis.utterance_id: hypothesis
        for hypothesis in decode_utterances(
            system.encode_waveforms, system.model, utterances, root, batch_size
        )
    }
    tokens = system.tokens
    references = [split_units(row.text(column) or "", tokens.unit) for row in utterances]
    rows: list[dict[str, Any]] = [
        {"id": row.id, "reference": " ".join(reference)}
        for row, reference in zip(utterances, references, strict=True)
    ]
    counts = {}
    for head in HEADS:
        heard = [tokens.words(getattr(found[row.id], head)) for row in utterances]
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


def size_on_disk(folder: Path) -> int:
    """Bytes of a checkpoint folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def real_time_factor(system: System, utterances: Sequence[Utterance], root: Path) -> float:
    """Seconds of computation per second of speech: one torch thread, one utterance at a time.

    From waveform to greedy attention hypothesis, audio already in memory. Each utterance counts
    with the fastest of its passes: whatever else the machine does only ever adds time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        in_memory = {row.id: read_waveform(row, root) for row in utterances}
        spent_s = dict.fromkeys(in_memory, float("inf"))
        for _ in range(_SPEED_PASSES):
            for name, waveform in in_memory.items():
                started = time.perf_counter()
                _decode_one(system, waveform)
                spent_s[name] = min(spent_s[name], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    speech_s = sum(len(waveform) for waveform in in_memory.values()) / 16_000
    return sum(spent_s.values()) / speech_s


def _decode_one(system: System, waveform: Any) -> None:
    encoded = system.encode_waveforms([waveform])
    attention_greedy(system.model, encoded, encoded.lengths)
