"""Greedy hypotheses of a recogniser for many utterances.

Shapes: B utterances, T frames, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.models.decoding import attention_greedy, ctc_greedy
from kd_ray.models.encoders import Encoded
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import Utterance


@dataclass(frozen=True)
class Hypothesis:
    """What a recogniser heard: token ids by attention and by CTC, both greedy."""

    utterance_id: str
    attention: tuple[int, ...]
    ctc: tuple[int, ...]


@torch.inference_mode()
def decode_encoded(
    model: RecognizerModel, encoded: Encoded, utterance_ids: Sequence[str]
) -> list[Hypothesis]:
    """Greedy hypotheses of a batch; attention output is at most one token per encoder frame."""
    by_ctc = ctc_greedy(model.ctc_logits(encoded), encoded.lengths, model.blank)
    by_attention = attention_greedy(model, encoded, encoded.lengths)
    return [
        Hypothesis(utterance_id, tuple(attention), tuple(ctc))
        for utterance_id, attention, ctc in zip(utterance_ids, by_attention, by_ctc, strict=True)
    ]


def batches_by_duration(utterances: Sequence[Utterance], batch_size: int) -> list[list[Utterance]]:
    """Batches of similar durations, longest first, so that memory runs out early or never."""
    ordered = sorted(utterances, key=lambda utterance: -(utterance.duration_s or 0.0))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def decode_utterances(
    encode: Callable[[Sequence[NDArray[np.int16]]], Encoded],
    model: RecognizerModel,
    utterances: Sequence[Utterance],
    root: Path,
    batch_size: int,
) -> Iterator[Hypothesis]:
    """Read audio, encode, decode; hypotheses come in order of duration, longest first."""
    for batch in batches_by_duration(utterances, batch_size):
        waveforms = [read_waveform(utterance, root) for utterance in batch]
        yield from decode_encoded(model, encode(waveforms), [row.id for row in batch])


def decode_features(
    model: RecognizerModel,
    batches: Iterable[tuple[Sequence[str], Tensor, Tensor]],
) -> Iterator[Hypothesis]:
    """Hypotheses from (ids, un-normalised features (B, T, F), frames (B,)); the model's mode stays.

    Dropout must be off for repeatable results: the caller sets evaluation mode.
    """
    for utterance_ids, features, lengths in batches:
        with torch.inference_mode():
            encoded = model.encode(model.normalize(features, lengths), lengths)
        yield from decode_encoded(model, encoded, utterance_ids)
