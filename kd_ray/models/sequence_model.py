"""What every model is: an encoder, and a decoder that writes tokens from left to right.

Shapes: B utterances, T frames (or source tokens S), T' encoder states, F mels, H features of a
state, R decoder rows, L prefix length, V vocabulary. In eval mode nothing here depends on padding
or on the other rows of a batch, and what the padding of an input holds (NaN included) is never
read.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from kd_ray.config.model import (
    GlobalNormalizer,
    Recognizer,
    SpeechToText,
    TextToText,
)
from kd_ray.models.encoders import Encoded
from kd_ray.models.masks import frame_mask

_MIN_STD = 1e-3
"""Floor of a channel's deviation, in nats of log-mel energy; silence has none of its own."""

State: TypeAlias = Any
"""What a model's decoder carries from step to step; only the model itself looks inside."""


class SequenceModel(nn.Module, ABC):
    """Encode once; then score given prefixes, or write token by token.

    `decoder_logits` and `begin`/`step` are the same mathematics: the first reads a whole prefix
    at once (training, scoring), the others one token at a time with a cache (decoding).
    """

    reads: ClassVar[Literal["speech", "text"]]
    config: Recognizer | SpeechToText | TextToText
    encoder: nn.Module

    def __init__(self, *, vocabulary_size: int, blank: int, bos: int, eos: int) -> None:
        super().__init__()
        specials = {"blank": blank, "bos": bos, "eos": eos}
        if len(set(specials.values())) < 3 or not all(
            0 <= value < vocabulary_size for value in specials.values()
        ):
            raise ValueError(
                f"blank, bos and eos must be three different ids below the vocabulary size "
                f"{vocabulary_size}, got {specials}"
            )
        self.vocabulary_size = vocabulary_size
        self.blank, self.bos, self.eos = blank, bos, eos

    @property
    def has_ctc(self) -> bool:
        """Whether `ctc_logits` can be asked for."""
        return False

    @property
    def learns(self) -> bool:
        """Whether it is in training: models of checkpoints are frozen."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def frame_rate_hz(self) -> float | None:
        """Encoder states in a second of speech; null for text."""
        return None

    def output_frames(self, num_frames: int) -> int:
        """Encoder states of an utterance of so many feature frames (or source tokens)."""
        return num_frames

    def normalize(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """What `encode` reads; text stays as it is."""
        del lengths
        return inputs

    @abstractmethod
    def encode(self, normalized: Tensor, lengths: Tensor) -> Encoded:
        """(B, T, F) features from `normalize`, augmented or not, or source ids (B, S) -> states.

        Raises:
            ValueError: an input of another shape, or a length outside 1..T.
        """

    def ctc_logits(self, encoded: Encoded) -> Tensor:
        """(B, T', V).

        Raises:
            ValueError: the model has no CTC head (`has_ctc`).
        """
        raise ValueError(
            f"a {self.config.type} model has no CTC head; CTC needs `recognizer`, or "
            "`speech_to_text` with `ctc: true`"
        )

    @abstractmethod
    def decoder_logits(self, encoded: Encoded, prefix: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Teacher forcing: read bos + `prefix` (R, L), predict L + 1 tokens: (R, L+1, V).

        Row r counts up to position `prefix_lengths[r]` (its end of sentence); what `prefix` holds
        from there on is not read, and the logits there mean nothing. Row r belongs to row r of
        `encoded`: `encoded.select(utterance)` gives several prefixes to one utterance.
        """

    def decoder_inputs(self, prefix: Tensor, prefix_lengths: Tensor) -> Tensor:
        """(R, L) -> (R, L+1): bos before the prefix, eos in its padding."""
        own = frame_mask(prefix_lengths, prefix.shape[1])
        tokens = torch.where(own, prefix, self.eos)
        begin = torch.full_like(prefix_lengths, self.bos).unsqueeze(1)
        return torch.cat([begin, tokens], dim=1)

    @abstractmethod
    def begin(self, encoded: Encoded) -> State:
        """The state before the first token, one row for each of `encoded`."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token for each row (R,), bos first; logits (R, V) of the next, and new state.

        The given state is used up: caches are written in place. `select` makes copies.
        """

    @abstractmethod
    def select(self, state: State, rows: Tensor) -> State:
        """The state whose row i is row `rows[i]` of this one: drops, repeats, reorders."""


class SpeechModel(SequenceModel):
    """A model that reads log-mel features and normalises them itself."""

    reads = "speech"
    config: Recognizer | SpeechToText
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: Recognizer | SpeechToText,
        *,
        vocabulary_size: int,
        blank: int,
        bos: int,
        eos: int,
    ) -> None:
        super().__init__(vocabulary_size=vocabulary_size, blank=blank, bos=bos, eos=eos)
        self.config = config
        num_mels = config.front_end.num_mels
        self.register_buffer("mean", torch.zeros(num_mels))
        self.register_buffer("std", torch.ones(num_mels))

    def set_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Statistics (F,) of the training features, for `normalizer.type: global`."""
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.mean.shape or not torch.isfinite(value).all():
                raise ValueError(
                    f"the normaliser's {name} must be {tuple(self.mean.shape)} finite numbers, "
                    f"one for each mel channel; got shape {tuple(value.shape)}, "
                    f"finite: {bool(torch.isfinite(value).all())}"
                )
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=_MIN_STD))

    def normalize(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F) -> zero mean, unit variance per mel channel; zeros in the padding.

        `utterance` takes the statistics (population variance) of the row's own frames, `global`
        those of `set_normalizer`.
        """
        outside = ~frame_mask(lengths, inputs.shape[1]).unsqueeze(-1)
        features = inputs.masked_fill(outside, 0.0)
        if isinstance(self.config.normalizer, GlobalNormalizer):
            return ((features - self.mean) / self.std).masked_fill(outside, 0.0)
        count = lengths.clamp(min=1)[:, None, None]
        centred = features - features.sum(1, keepdim=True) / count
        centred = centred.masked_fill(outside, 0.0)
        variance = centred.square().sum(1, keepdim=True) / count
        return centred / variance.sqrt().clamp(min=_MIN_STD)

    def encode(self, normalized: Tensor, lengths: Tensor) -> Encoded:
        """(B, T, F) from `normalize` (augmented or not) and lengths (B,), at least 1 -> states."""
        if normalized.dim() != 3 or normalized.shape[2] != self.mean.shape[0]:
            raise ValueError(
                f"features must be (utterances, frames, {self.mean.shape[0]} mels), "
                f"got {tuple(normalized.shape)}"
            )
        check_lengths(lengths, normalized.shape[1], "frames", "empty audio is found by")
        outside = ~frame_mask(lengths, normalized.shape[1]).unsqueeze(-1)
        encoded: Encoded = self.encoder(normalized.masked_fill(outside, 0.0), lengths)
        return encoded


def check_lengths(lengths: Tensor, longest: int, unit: str, found_by: str) -> None:
    """Refuse a row without any input, or longer than its batch."""
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise ValueError(
            f"every utterance needs between 1 and {longest} {unit}, "
            f"got lengths {lengths.tolist()}; {found_by} `kd-ray check`"
        )
