"""Hypotheses for many utterances: greedy by decoder or CTC head, or by beam search.

Shapes: B utterances, T frames, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.evaluation import Head
from kd_ray.models.decoding import (
    NotFinite,
    attention_beam,
    attention_greedy,
    ctc_greedy,
    finite_rows,
)
from kd_ray.models.encoders import Encoded
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.manifest import Utterance

Input: TypeAlias = NDArray[np.int16] | str
"""What a system reads of one utterance: a mono 16 kHz waveform, or text."""

_TEXT_FACTOR, _TEXT_MORE = 4, 50
"""A translation may have 50 more than four times the tokens of its source: source and target may be
cut into tokens of different sizes."""


@dataclass(frozen=True)
class Search:
    """Which hypotheses are looked for, and how."""

    heads: tuple[Head, ...] = ("attention",)
    beam_size: int = 5
    length_penalty: float = 1.0
    max_tokens: int | None = None
    """Longest hypothesis; None: encoder frames of speech, 50 more than 4 times the source text."""
    keep_candidates: bool = False
    """Also keep what else the beam found."""


@dataclass(frozen=True)
class Hypothesis:
    """What a system heard or read: token ids, by the way they were found."""

    utterance_id: str
    ids: Mapping[Head, tuple[int, ...]]
    transcript: str | None = None
    """What a cascade's translator read."""
    candidates: tuple[tuple[int, ...], ...] = ()
    """All that the beam found, best first; only where the search keeps it."""

    def by(self, head: Head) -> tuple[int, ...]:
        """Token ids.

        Raises:
            ValueError: this hypothesis was not looked for; a model without CTC head has no CTC one.
        """
        if head not in self.ids:
            raise ValueError(
                f"utterance {self.utterance_id} was decoded by {', '.join(self.ids)}, not by {head}"
            )
        return self.ids[head]

    @property
    def attention(self) -> tuple[int, ...]:
        """The decoder's greedy hypothesis."""
        return self.by("attention")

    @property
    def ctc(self) -> tuple[int, ...]:
        """The CTC head's greedy hypothesis."""
        return self.by("ctc")


class Decodable(Protocol):
    """A system, or several one after the other, that writes tokens for what it reads."""

    @property
    def reads(self) -> Literal["speech", "text"]:
        """What the inputs are."""
        ...

    def read_inputs(self, rows: Sequence[Utterance], root: Path) -> list[Input]:
        """What is read of each utterance, into memory."""
        ...

    def decode_inputs(
        self, inputs: Sequence[Input], utterance_ids: Sequence[str], search: Search
    ) -> list[Hypothesis]:
        """Hypotheses of one batch, in its order."""
        ...


def greedy_heads(model: SequenceModel) -> tuple[Head, ...]:
    """The greedy hypotheses that a model can give."""
    return ("attention", "ctc") if model.has_ctc else ("attention",)


def longest(model: SequenceModel, encoded: Encoded, max_tokens: int | None) -> Tensor:
    """How many tokens each row (B,) may have, whoever its batch mates are."""
    lengths = encoded.lengths
    if model.reads == "text":
        lengths = _TEXT_FACTOR * lengths + _TEXT_MORE
    return lengths if max_tokens is None else lengths.clamp(max=max_tokens)


@torch.inference_mode()
def decode_encoded(
    model: SequenceModel,
    encoded: Encoded,
    utterance_ids: Sequence[str],
    search: Search | None = None,
) -> list[Hypothesis]:
    """Hypotheses of a batch; without `search` all greedy ones that the model can give.

    Raises:
        NotFinite: outputs are NaN or infinite, and the model is not in training.
    """
    search = search or Search(heads=greedy_heads(model))
    found: dict[Head, list[list[int]]] = {}
    candidates: list[tuple[tuple[int, ...], ...]] = []
    for head in search.heads:
        if head == "ctc":
            logits = model.ctc_logits(encoded)
            # As in attention decoding: a student in training is stopped elsewhere.
            if not model.learns and not finite_rows(logits, encoded.lengths).all():
                raise NotFinite(model)
            found[head] = ctc_greedy(logits, encoded.lengths, model.blank)
            continue
        limits = longest(model, encoded, search.max_tokens)
        if head == "beam":
            kept = attention_beam(
                model,
                encoded,
                limits,
                beam_size=search.beam_size,
                length_penalty=search.length_penalty,
            )
            found[head] = [best.tokens for best, *_ in kept]
            if search.keep_candidates:
                candidates = [tuple(tuple(each.tokens) for each in row) for row in kept]
        else:
            found[head] = attention_greedy(model, encoded, limits)
    return [
        Hypothesis(
            utterance_id,
            {head: tuple(ids[row]) for head, ids in found.items()},
            candidates=candidates[row] if candidates else (),
        )
        for row, utterance_id in enumerate(utterance_ids)
    ]


def batches_by_duration(utterances: Sequence[Utterance], batch_size: int) -> list[list[Utterance]]:
    """Batches of similar durations, longest first, so that memory runs out early or never."""
    ordered = sorted(utterances, key=lambda utterance: -(utterance.duration_s or 0.0))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def batches_of_inputs(
    system: Decodable, utterances: Sequence[Utterance], root: Path, batch_size: int
) -> list[list[Utterance]]:
    """Batches of inputs that are about as long, longest first."""
    if system.reads == "speech":
        # Waveforms are not read for it: a split of speech may not fit into memory.
        return batches_by_duration(utterances, batch_size)
    texts = system.read_inputs(utterances, root)
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    return [
        [utterances[row] for row in order[start : start + batch_size]]
        for start in range(0, len(order), batch_size)
    ]


def decode_batch(
    system: Decodable, rows: Sequence[Utterance], root: Path, search: Search
) -> list[Hypothesis]:
    """Read, encode, decode one batch; hypotheses in its order."""
    return system.decode_inputs(system.read_inputs(rows, root), [row.id for row in rows], search)


BatchDecoder: TypeAlias = Callable[
    [Sequence[Sequence[Utterance]], Search], Iterator[list[Hypothesis]]
]
"""Decodes batches by a system that it knows, in any order."""


def decode_batches(
    system: Decodable,
    batches: Sequence[Sequence[Utterance]],
    root: Path,
    search: Search,
    elsewhere: BatchDecoder | None = None,
) -> Iterator[list[Hypothesis]]:
    """Hypotheses batch by batch, by this process or `elsewhere` (then in any order)."""
    if elsewhere is not None:
        return elsewhere(batches, search)
    return (decode_batch(system, rows, root, search) for rows in batches)


def decode_utterances(
    system: Decodable,
    utterances: Sequence[Utterance],
    root: Path,
    batch_size: int,
    search: Search,
    on_decoded: Callable[[int], None] = lambda count: None,
    elsewhere: BatchDecoder | None = None,
) -> Iterator[Hypothesis]:
    """Read, encode, decode; hypotheses come longest input first (`elsewhere`: in any order).

    `on_decoded` hears of each batch how many utterances it had.
    """
    batches = batches_of_inputs(system, utterances, root, batch_size)
    for found in decode_batches(system, batches, root, search, elsewhere):
        yield from found
        on_decoded(len(found))


def decode_features(
    model: SequenceModel,
    batches: Iterable[tuple[Sequence[str], Tensor, Tensor]],
    search: Search | None = None,
) -> Iterator[Hypothesis]:
    """Hypotheses from (ids, inputs, lengths (B,)); the model's mode stays.

    Inputs are un-normalised features (B, T, F), or source ids (B, S) of a model that reads text.
    Dropout must be off for repeatable results: the caller sets evaluation mode.
    """
    for utterance_ids, inputs, lengths in batches:
        with torch.inference_mode():
            encoded = model.encode(model.normalize(inputs, lengths), lengths)
        yield from decode_encoded(model, encoded, utterance_ids, search)
