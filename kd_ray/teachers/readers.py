"""What a teacher reads, made of what a request carries: features of audio, or ids of text.

Shapes: B utterances, T frames, F mels, S source tokens.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.data import LogMel
from kd_ray.core.contracts import Labels, Masks
from kd_ray.speech.features import LogMelExtractor, front_end_digest
from kd_ray.speech.spec_augment import masked_cells
from kd_ray.speech.tokens import Tokens, source_ids

Inputs = tuple[Tensor, Tensor]
"""Un-normalised features (B, T, F) or source ids (B, S), padded with zeros; lengths (B,)."""


class Reader(Protocol):
    """Teachers whose readers have equal digests read the same numbers."""

    reads: Literal["speech", "text"]

    @property
    def digest(self) -> str:
        """Equal digests: equal inputs for equal audio and texts."""
        ...

    def __call__(
        self, waveforms: Sequence[NDArray[np.int16]], texts: Sequence[str] | None
    ) -> Inputs:
        """Inputs of a batch; each reader takes what it needs of the two."""
        ...

    def masked(self, masks: Masks, inputs: Tensor, lengths: Tensor) -> Tensor | None:
        """What of the inputs the masks cover, of their shape; None: masks are not for them."""
        ...


class SpeechReader:
    """Features of the audio."""

    reads: Literal["speech", "text"] = "speech"

    def __init__(self, front_end: LogMel) -> None:
        self._extractor = LogMelExtractor(front_end)

    @property
    def digest(self) -> str:
        """Of the front end."""
        return front_end_digest(self._extractor.config)

    def __call__(
        self, waveforms: Sequence[NDArray[np.int16]], texts: Sequence[str] | None = None
    ) -> Inputs:
        """Un-normalised features (B, T, F) and frames (B,)."""
        return self._extractor(waveforms)

    def masked(self, masks: Masks, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F) true where the features lie in the masks."""
        return masked_cells(masks, lengths, inputs.shape[1], self._extractor)


class TextReader:
    """Ids of the text, closed by the end symbol, so that an empty text has a length too."""

    reads: Literal["speech", "text"] = "text"

    def __init__(self, source_tokens: Tokens) -> None:
        self._tokens = source_tokens

    @property
    def digest(self) -> str:
        """Of the source tokens."""
        return f"text-{self._tokens.digest}"

    def __call__(
        self, waveforms: Sequence[NDArray[np.int16]], texts: Sequence[str] | None
    ) -> Inputs:
        """Source ids (B, S) and their number (B,).

        Raises:
            ValueError: the request carries no texts.
        """
        if texts is None:
            raise ValueError(
                "this teacher reads text and the request carries none; set teachers.reads to the "
                "manifest column that it reads (transcript)"
            )
        labels = Labels.of([source_ids(self._tokens, text) for text in texts])
        return torch.from_numpy(labels.ids), torch.from_numpy(labels.lengths)

    def masked(self, masks: Masks, inputs: Tensor, lengths: Tensor) -> None:
        """Text is read as it is."""
