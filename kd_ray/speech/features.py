"""Front end: log-mel features as Kaldi computes them.

Shapes: B utterances, T frames, F mel channels.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.compliance import kaldi

from kd_ray.config.data import LogMel
from kd_ray.speech.audio import SAMPLE_RATE

__all__ = ["SAMPLE_RATE", "LogMelExtractor", "front_end_digest"]

logger = logging.getLogger(__name__)

_VERSION = 1
"""Part of the digest: raised whenever the same settings give other numbers."""


def front_end_digest(config: LogMel) -> str:
    """16 hexadecimal digits; equal digests mean equal features for equal audio."""
    edges = "true" if config.snip_edges else "false"
    content = {
        **config.model_dump(exclude={"snip_edges"}),
        "sample_rate": SAMPLE_RATE,
        "implementation": f"kaldi povey window, snip_edges {edges}, no dither, int16 scale",
        "version": _VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class LogMelExtractor:
    """Un-normalised log-mel features of int16 waveforms, each computed by itself.

    Kaldi's fbank without dither: samples keep their int16 scale, DC removal and pre-emphasis (0.97)
    per frame, Povey window, power spectrum, natural logarithm floored at float32's epsilon. Frames
    are centred on multiples of the shift and the signal is mirrored at its ends; with `snip_edges`
    they start at multiples of the shift and lie wholly inside the signal.
    """

    def __init__(self, config: LogMel) -> None:
        self.config = config
        self._shift = int(SAMPLE_RATE * config.frame_shift_ms * 0.001)
        self._length = int(SAMPLE_RATE * config.frame_length_ms * 0.001)
        if self._shift < 1 or self._length < 2:
            raise ValueError(
                f"log_mel: frames of {config.frame_length_ms:g} ms every "
                f"{config.frame_shift_ms:g} ms are shorter than a sample at {SAMPLE_RATE} Hz"
            )
        if not config.low_hz < config.high_hz:
            raise ValueError(
                f"log_mel: low_hz ({config.low_hz:g}) must be below high_hz ({config.high_hz:g})"
            )
        self._warn_of_empty_filters()

    @property
    def frame_shift_s(self) -> float:
        """Seconds from frame to frame."""
        return self._shift / SAMPLE_RATE

    @property
    def first_frame_s(self) -> float:
        """Where the stretch of one frame shift begins that the first frame is the middle of."""
        if not self.config.snip_edges:
            return 0.0
        return (self._length - self._shift) / 2 / SAMPLE_RATE

    @property
    def min_samples(self) -> int:
        """The shortest waveform that gives features: one whole window."""
        return max(self._length, self._shift)

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform: the samples over the shift, rounded, halves up.

        With `snip_edges`: the windows that fit.
        """
        if self.config.snip_edges:
            return max(0, 1 + (num_samples - self._length) // self._shift)
        return (num_samples + self._shift // 2) // self._shift

    def __call__(self, waveforms: Sequence[NDArray[np.int16]]) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) float32, zero beyond the lengths; lengths (B,) int64 in frames.

        Raises:
            ValueError: a waveform that is not mono int16, or shorter than `min_samples`.
        """
        rows = [self._one(place, waveform) for place, waveform in enumerate(waveforms)]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        longest = max((len(row) for row in rows), default=0)
        padded = torch.zeros(len(rows), longest, self.config.num_mels)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded, lengths

    def _one(self, place: int, waveform: NDArray[np.int16]) -> Tensor:
        if waveform.dtype != np.int16 or waveform.ndim != 1:
            raise ValueError(
                f"waveform {place} of the batch is {waveform.dtype} {waveform.shape}; "
                "expected int16 (samples,), mono at 16 kHz"
            )
        if len(waveform) < self.min_samples:
            raise ValueError(
                f"waveform {place} of the batch has {len(waveform)} samples; "
                f"at least {self.min_samples} are needed. `kd-ray check` finds such rows"
            )
        features: Tensor = kaldi.fbank(
            torch.from_numpy(waveform.astype(np.float32))[None],
            num_mel_bins=self.config.num_mels,
            frame_length=self.config.frame_length_ms,
            frame_shift=self.config.frame_shift_ms,
            low_freq=self.config.low_hz,
            high_freq=self.config.high_hz,
            sample_frequency=float(SAMPLE_RATE),
            dither=0.0,
            snip_edges=self.config.snip_edges,
        )
        return features

    def _warn_of_empty_filters(self) -> None:
        window = 1 << (self._length - 1).bit_length()
        empty = _empty_filters(self.config, window)
        if empty:
            logger.warning(
                "log_mel: %d of %d mel filters cover no bin of a %d-point spectrum and are "
                "constant; lower num_mels or lengthen frame_length_ms",
                empty,
                self.config.num_mels,
                window,
            )


@functools.lru_cache(maxsize=32)
def _empty_filters(config: LogMel, window: int) -> int:
    """Mel filters without any bin; hosts of hundreds of teachers ask about one front end."""
    low, high = config.low_hz, config.high_hz
    banks, _ = kaldi.get_mel_banks(
        config.num_mels, window, float(SAMPLE_RATE), low, high, 100.0, -500.0, 1.0
    )
    return int((banks.sum(dim=1) == 0).sum())
