"""From rows of the manifest to what one micro-batch needs.

Shapes: B utterances, T frames, F mels, S source tokens.
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
from kd_ray.speech.imported_features import read_features
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens, source_ids

Held = TypeVar("Held", bound="_Sized")


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro-batch: what the student reads, and its references.

    `inputs`: un-normalised features (B, T, F) of speech, or source ids (B, S) of text; `lengths`
    (B,) frames or tokens. `audio` and `texts` are there only where teachers read them.
    """

    utterance_ids: tuple[str, ...]
    inputs: Tensor
    lengths: Tensor
    references: Labels
    audio: Audio | None = None
    texts: tuple[str, ...] | None = None

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> "Batch":
        """Some of the utterances, in this order; repeated where `rows` repeats them."""
        places = [int(row) for row in rows]
        references = self.references.strings()
        waveforms = [] if self.audio is None else self.audio.waveforms()
        return Batch(
            utterance_ids=tuple(self.utterance_ids[row] for row in places),
            inputs=self.inputs[places],
            lengths=self.lengths[places],
            references=Labels.of([references[row] for row in places]),
            audio=None if self.audio is None else Audio.of([waveforms[row] for row in places]),
            texts=None if self.texts is None else tuple(self.texts[row] for row in places),
        )


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


class NoAudio(ValueError):
    """An utterance whose audio is asked for and which has none."""


class StudentData:
    """The utterances of one manifest, as one student reads and writes them.

    Args:
        utterances: rows of the manifest.
        root: where relative audio paths start.
        tokens: of the text that is learned, in column `column`.
        column: likewise.
        extractor: the front end of a student that hears; None for one that reads text.
        source_tokens: of a student that reads `source_column`; None for one that hears.
        source_column: likewise.
        teacher_column: the text that teachers read; None: they read none.
        cache_gib: of waveforms and features, in memory.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        root: Path,
        tokens: Tokens,
        column: TextColumn,
        extractor: LogMelExtractor | None = None,
        source_tokens: Tokens | None = None,
        source_column: TextColumn = "transcript",
        teacher_column: TextColumn | None = None,
        cache_gib: float = 0.0,
    ):
        self.utterances = utterances
        self.root = root
        self.tokens = tokens
        self.extractor = extractor
        self.column: TextColumn = column
        self.references = [tokens.encode(row.text(column) or "") for row in utterances]
        self.texts: list[str] | None = None
        if teacher_column is not None:
            self.texts = [row.text(teacher_column) or "" for row in utterances]
        self._sources: list[Tensor] | None = None
        if source_tokens is not None:
            self._sources = [
                torch.tensor(source_ids(source_tokens, row.text(source_column) or ""))
                for row in utterances
            ]
        half = int(cache_gib * 2**30 / 2)
        self._waveforms: _Cache[NDArray[np.int16]] = _Cache(self._read, half)
        self._features: _Cache[Tensor] = _Cache(self._extract, half)

    @property
    def sizes(self) -> list[float]:
        """What batches are cut by: seconds of each utterance, or its source tokens."""
        if self._sources is not None:
            return [float(len(source)) for source in self._sources]
        return [row.duration_s or 0.0 for row in self.utterances]

    def inputs(self, row: int) -> Tensor:
        """What the student reads of one utterance: features (T, F), or ids (S,)."""
        return self._features[row] if self._sources is None else self._sources[row]

    def batch(self, rows: Sequence[int], *, with_audio: bool = False) -> Batch:
        """Collect a micro-batch; padding is zero."""
        inputs = [self.inputs(row) for row in rows]
        return Batch(
            utterance_ids=tuple(self.utterances[row].id for row in rows),
            inputs=torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True),
            lengths=torch.tensor([len(each) for each in inputs]),
            references=Labels.of([self.references[row] for row in rows]),
            audio=Audio.of([self._waveforms[row] for row in rows]) if with_audio else None,
            texts=None if self.texts is None else tuple(self.texts[row] for row in rows),
        )

    def _read(self, row: int) -> NDArray[np.int16]:
        utterance = self.utterances[row]
        if utterance.audio is None:
            raise NoAudio(
                f"{utterance.id} has features and no audio, and teachers that hear need audio; "
                "name the audio in the manifest, or take teachers that read text"
            )
        return read_waveform(utterance, self.root)

    def _extract(self, row: int) -> Tensor:
        assert self.extractor is not None, "a student that reads text asks for no features"
        utterance = self.utterances[row]
        if utterance.audio is None and utterance.features is not None:
            return torch.from_numpy(read_features(utterance, self.root))
        features, _ = self.extractor([self._waveforms[row]])
        return features[0]


def channel_statistics(data: StudentData, max_utterances: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) of each mel channel over evenly spaced utterances."""
    count = min(max_utterances, len(data.utterances))
    rows = np.linspace(0, len(data.utterances) - 1, count).round().astype(int)
    total = squares = torch.zeros(())
    frames = 0
    for row in rows:
        features = data.inputs(int(row)).double()
        total = total + features.sum(0)
        squares = squares + features.square().sum(0)
        frames += len(features)
    mean = total / frames
    std = (squares / frames - mean.square()).clamp_min(1e-10).sqrt()
    return mean.float(), std.float()
