"""The joint CTC/attention recogniser (Watanabe et al. 2017): one encoder, two heads.

Shapes: B utterances, T frames, T' encoder frames, F mels, H encoder features, L prefix length,
V vocabulary. In eval mode nothing here depends on padding or on the other rows of a batch, and
what the padding of an input holds (NaN included) is never read.
"""

from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from kd_ray.config.model import Recognizer
from kd_ray.models.decoders import DecoderState, LocationAttentionDecoder, Memory
from kd_ray.models.encoders import CrdnnStack, Encoded
from kd_ray.models.init import initialize, initialize_output
from kd_ray.models.sequence_model import SpeechModel


class RecognizerOutput(NamedTuple):
    """CTC logits (B, T', V) with lengths (B,); decoder logits (B, L+1, V), positions L_b + 1."""

    ctc_logits: Tensor
    ctc_lengths: Tensor
    decoder_logits: Tensor


class RecognizerState(NamedTuple):
    """What the decoder looks at, and where it is."""

    memory: Memory
    state: DecoderState


class RecognizerModel(SpeechModel):
    """Features in; CTC and decoder logits out."""

    config: Recognizer
    encoder: CrdnnStack

    def __init__(
        self, config: Recognizer, *, vocabulary_size: int, blank: int, bos: int, eos: int
    ) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, blank=blank, bos=bos, eos=eos)
        self.encoder = CrdnnStack(config.encoder, config.front_end.num_mels)
        self.ctc = nn.Linear(self.encoder.output_size, vocabulary_size)
        self.decoder = LocationAttentionDecoder(
            config.decoder,
            encoder_size=self.encoder.output_size,
            vocabulary_size=vocabulary_size,
        )
        self.apply(initialize)
        initialize_output(self.ctc)

    @property
    def has_ctc(self) -> bool:
        """Always."""
        return True

    @property
    def frame_rate_hz(self) -> float:
        """Encoder frames in a second."""
        stride = prod(self.config.encoder.time_strides)
        return 1000 / (self.config.front_end.frame_shift_ms * stride)

    def output_frames(self, num_frames: int) -> int:
        """Encoder frames of an utterance of so many feature frames."""
        return self.encoder.output_frames(num_frames)

    def ctc_logits(self, encoded: Encoded) -> Tensor:
        """(B, T', V)."""
        logits: Tensor = self.ctc(encoded.states)
        return logits

    def decoder_logits(self, encoded: Encoded, prefix: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Teacher forcing, see `SequenceModel`; all steps in one hand-written loop."""
        logits: Tensor = self.decoder(encoded, self.decoder_inputs(prefix, prefix_lengths))
        return logits

    def begin(self, encoded: Encoded) -> RecognizerState:
        """The attention's keys, and a decoder that has read nothing."""
        memory = self.decoder.memory(encoded)
        return RecognizerState(memory, self.decoder.initial_state(memory))

    def step(self, tokens: Tensor, state: RecognizerState) -> tuple[Tensor, RecognizerState]:
        """One token further: logits (R, V)."""
        memory, before = state
        after = self.decoder.step(self.decoder.read(tokens), before, memory)
        return self.decoder.logits(after.hidden, after.context), RecognizerState(memory, after)

    def select(self, state: RecognizerState, rows: Tensor) -> RecognizerState:
        """Rows of every tensor but the location kernels, which all rows share."""
        values, keys, barrier, location = state.memory
        return RecognizerState(
            Memory(values[rows], keys[rows], barrier[rows], location),
            DecoderState(*(tensor[rows] for tensor in state.state)),
        )

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
