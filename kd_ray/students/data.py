"""From rows of the manifest to what one micro-batch needs.

Shapes: B utterances, T frames, F mels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.data import TextColumn
from kd_ray.core.contracts import Audio, Labels
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens

Held = TypeVar("Held", bound="_Sized")


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro-batch: un-normalised `features` (B, T, F), `lengths` (B,) frames, references.

    `audio` is there only where teachers read it.
    """

    utterance_ids: tuple[str, ...]
    features: Tensor
    lengths: Tensor
    references: Labels
    audio: Audio | None


class _Cache(Generic[Held]):
    """Keeps what was made until its bytes are used up; what no longer fits is made again."""

    def __init__(self, make: Callable[[int], Held], max_bytes: int):
        self._make: Callable[[int], Held] = make
        self._left = max_bytes
        self._held: dict[int, Held] = {}

    def __getitem__(self, row: int) -> Held:
        if row in self._held:
            return self._held[row]
        made = self._make(row)
        if made.nbytes <= self._left:
            self._left -= made.nbytes
            self._held[row] = made
        return made


class SpeechData:
    """The utterances of one manifest, for one front end and one token table."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        root: Path,
        tokens: Tokens,
        column: TextColumn,
        extractor: LogMelExtractor,
        cache_gib: float,
    ):
        self.utterances = utterances
        self.root = root
        self.extractor = extractor
        self.references = [tokens.encode(row.text(column) or "") for row in utterances]
        half = int(cache_gib * 2**30 / 2)
        self._waveforms: _Cache[NDArray[np.int16]] = _Cache(self._read, half)
        self._features: _Cache[Tensor] = _Cache(self._extract, half)

    @property
    def durations_s(self) -> list[float]:
        """Seconds of each utterance."""
        return [row.duration_s or 0.0 for row in self.utterances]

    def features(self, row: int) -> Tensor:
        """Un-normalised features (T, F) of one utterance."""
        return self._features[row]

    def batch(self, rows: Sequence[int], *, with_audio: bool) -> Batch:
        """Collect a micro-batch; padding is zero."""
        features = [self._features[row] for row in rows]
        return Batch(
            utterance_ids=tuple(self.utterances[row].id for row in rows),
            features=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
            lengths=torch.tensor([len(each) for each in features]),
            references=Labels.of([self.references[row] for row in rows]),
            audio=Audio.of([self._waveforms[row] for row in rows]) if with_audio else None,
        )

    def _read(self, row: int) -> NDArray[np.int16]:
        return read_waveform(self.utterances[row], self.root)

    def _extract(self, row: int) -> Tensor:
        features, _ = self.extractor([self._waveforms[row]])
        return features[0]


def channel_statistics(data: SpeechData, max_utterances: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) of each mel channel over evenly spaced utterances."""
    count = min(max_utterances, len(data.utterances))
    rows = np.linspace(0, len(data.utterances) - 1, count).round().astype(int)
    total = squares = torch.zeros(())
    frames = 0
    for row in rows:
        features = data.features(int(row)).double()
        total = total + features.sum(0)
        squares = squares + features.square().sum(0)
        frames += len(features)
    mean = total / frames
    std = (squares / frames - mean.square()).clamp_min(1e-10).sqrt()
    return mean.float(), std.float()
