"""The joint CTC/attention recogniser (Watanabe et al. 2017): one encoder, two heads.

Shapes: B utterances, T frames, T' encoder frames, F mels, H encoder features, L prefix length,
V vocabulary. In eval mode nothing here depends on padding or on the other rows of a batch, and
what the padding of an input holds (NaN included) is never read.
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd_ray.config.model import GlobalNormalizer, Recognizer
from kd_ray.models.decoders import LocationAttentionDecoder
from kd_ray.models.encoders import CrdnnStack, Encoded
from kd_ray.models.init import initialize, initialize_output
from kd_ray.models.masks import frame_mask

_MIN_STD = 1e-3
"""Floor of a channel's deviation, in nats of log-mel energy; silence has none of its own."""


class RecognizerOutput(NamedTuple):
    """CTC logits (B, T', V) with lengths (B,); decoder logits (B, L+1, V), positions L_b + 1."""

    ctc_logits: Tensor
    ctc_lengths: Tensor
    decoder_logits: Tensor


class RecognizerModel(nn.Module):
    """Features in; CTC and decoder logits out."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: Recognizer, *, vocabulary_size: int, blank: int, bos: int, eos: int
    ) -> None:
        super().__init__()
        specials = {"blank": blank, "bos": bos, "eos": eos}
        if len(set(specials.values())) < 3 or not all(
            0 <= value < vocabulary_size for value in specials.values()
        ):
            raise ValueError(
                f"blank, bos and eos must be three different ids below the vocabulary size "
                f"{vocabulary_size}, got {specials}"
            )
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.blank, self.bos, self.eos = blank, bos, eos
        num_mels = config.front_end.num_mels
        self.register_buffer("mean", torch.zeros(num_mels))
        self.register_buffer("std", torch.ones(num_mels))
        self.encoder = CrdnnStack(config.encoder, num_mels)
        self.ctc = nn.Linear(self.encoder.output_size, vocabulary_size)
        self.decoder = LocationAttentionDecoder(
            config.decoder,
            encoder_size=self.encoder.output_size,
            vocabulary_size=vocabulary_size,
        )
        self.apply(initialize)
        initialize_output(self.ctc)

    @property
    def frame_rate_hz(self) -> float:
        """Encoder frames in a second."""
        stride = prod(self.config.encoder.time_strides)
        return 1000 / (self.config.front_end.frame_shift_ms * stride)

    def output_frames(self, num_frames: int) -> int:
        """Encoder frames of an utterance of so many feature frames."""
        return self.encoder.output_frames(num_frames)

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

    def normalize(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F) -> zero mean, unit variance per mel channel; zeros in the padding.

        `utterance` takes the statistics (population variance) of the row's own frames, `global`
        those of `set_normalizer`.
        """
        outside = ~frame_mask(lengths, features.shape[1]).unsqueeze(-1)
        features = features.masked_fill(outside, 0.0)
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
        if (
            len(lengths)
            and not 1 <= int(lengths.min()) <= int(lengths.max()) <= normalized.shape[1]
        ):
            raise ValueError(
                f"every utterance needs between 1 and {normalized.shape[1]} frames, "
                f"got lengths {lengths.tolist()}; empty audio is found by `kd-ray check`"
            )
        outside = ~frame_mask(lengths, normalized.shape[1]).unsqueeze(-1)
        encoded: Encoded = self.encoder(normalized.masked_fill(outside, 0.0), lengths)
        return encoded

    def ctc_logits(self, encoded: Encoded) -> Tensor:
        """(B, T', V)."""
        logits: Tensor = self.ctc(encoded.states)
        return logits

    def decoder_logits(self, encoded: Encoded, prefix: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Teacher forcing: read bos + `prefix` (B, L), predict L + 1 tokens: (B, L+1, V).

        Row b counts up to position `prefix_lengths[b]` (its end of sentence); what `prefix` holds
        from there on is not read, and the logits there mean nothing.
        """
        own = frame_mask(prefix_lengths, prefix.shape[1])
        tokens = torch.where(own, prefix, self.eos)
        begin = torch.full_like(prefix_lengths, self.bos).unsqueeze(1)
        logits: Tensor = self.decoder(encoded, torch.cat([begin, tokens], dim=1))
        return logits

    def forward(
        self, normalized: Tensor, lengths: Tensor, prefix: Tensor, prefix_lengths: Tensor
    ) -> RecognizerOutput:
        """Both heads in one call (which is what DDP needs): `encode`, then each head's logits."""
        encoded = self.encode(normalized, lengths)
        return RecognizerOutput(
            self.ctc_logits(encoded),
            encoded.lengths,
            self.decoder_logits(encoded, prefix, prefix_lengths),
        )
