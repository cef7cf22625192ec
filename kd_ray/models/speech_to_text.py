"""Speech in, text out: a translator, or a recogniser where the text is the transcript.

Shapes: B utterances, T' encoder states, R decoder rows, L prefix length, V vocabulary.
"""

from torch import Tensor, nn

from kd_ray.config.model import BerardEncoder, SpeechToText, TransformerDecoder
from kd_ray.models.berard import BerardDecoderStack, BerardEncoderStack
from kd_ray.models.encoders import Encoded
from kd_ray.models.init import initialize, initialize_output
from kd_ray.models.sequence_model import SpeechModel, State
from kd_ray.models.transformer import SpeechTransformer, TransformerDecoderStack


class SpeechToTextModel(SpeechModel):
    """Transformer or recurrent encoder and decoder, in any pairing; optional CTC head."""

    config: SpeechToText
    encoder: SpeechTransformer | BerardEncoderStack

    def __init__(
        self, config: SpeechToText, *, vocabulary_size: int, blank: int, bos: int, eos: int
    ) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, blank=blank, bos=bos, eos=eos)
        num_mels = config.front_end.num_mels
        if isinstance(config.encoder, BerardEncoder):
            self.encoder = BerardEncoderStack(config.encoder, num_mels)
        else:
            self.encoder = SpeechTransformer(config.encoder, num_mels)
        self.decoder: TransformerDecoderStack | BerardDecoderStack
        size, shared = self.encoder.output_size, config.share_embeddings == "decoder"
        if isinstance(config.decoder, TransformerDecoder):
            self.decoder = TransformerDecoderStack(
                config.decoder,
                encoder_size=size,
                vocabulary_size=vocabulary_size,
                share_embeddings=shared,
            )
        else:
            self.decoder = BerardDecoderStack(
                config.decoder,
                encoder_size=size,
                vocabulary_size=vocabulary_size,
                share_embeddings=shared,
            )
        self.ctc = nn.Linear(size, vocabulary_size) if config.ctc else None
        self.apply(initialize)
        for output in (self.ctc, self.decoder.output):
            if output is not None:
                initialize_output(output)

    @property
    def has_ctc(self) -> bool:
        """`config.ctc`."""
        return self.ctc is not None

    @property
    def frame_rate_hz(self) -> float:
        """Encoder states in a second."""
        return 1000 / (self.config.front_end.frame_shift_ms * self.encoder.stride)

    def output_frames(self, num_frames: int) -> int:
        """Encoder states of an utterance of so many feature frames."""
        return self.encoder.output_frames(num_frames)

    def ctc_logits(self, encoded: Encoded) -> Tensor:
        """(B, T', V); refused where the model has no CTC head."""
        if self.ctc is None:
            return super().ctc_logits(encoded)
        logits: Tensor = self.ctc(encoded.states)
        return logits

    def decoder_logits(self, encoded: Encoded, prefix: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Teacher forcing, see `SequenceModel`."""
        logits: Tensor = self.decoder(encoded, self.decoder_inputs(prefix, prefix_lengths))
        return logits

    def begin(self, encoded: Encoded) -> State:
        """The decoder's state before the first token."""
        return self.decoder.begin(encoded)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token further: logits (R, V)."""
        return self.decoder.step(tokens, state)

    def select(self, state: State, rows: Tensor) -> State:
        """The decoder's state of these rows."""
        return self.decoder.select(state, rows)
