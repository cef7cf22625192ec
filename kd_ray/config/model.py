"""Sections about architectures."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from kd_ray.config.base import Section
from kd_ray.config.data import LogMel


class UtteranceNormalizer(Section):
    """Mean and variance of each mel channel over the utterance's own frames."""

    type: Literal["utterance"] = "utterance"


class GlobalNormalizer(Section):
    """Mean and variance of each mel channel over the training split, stored with the model."""

    type: Literal["global"] = "global"
    max_utterances: int = Field(2000, ge=1)
    """How many training utterances (evenly spaced) the statistics are taken from."""


def _type_where_missing(name: str) -> BeforeValidator:
    """A mapping without `type` is read as this one, so that the usual case is short to write."""

    def fill(value: Any) -> Any:
        if isinstance(value, Mapping) and "type" not in value:
            return {"type": name, **value}
        return value

    return BeforeValidator(fill)


Normalizer = Annotated[UtteranceNormalizer | GlobalNormalizer, Field(discriminator="type")]


class CrdnnEncoder(Section):
    """Convolutions, masked bidirectional recurrence, feed-forward layers; layer norm throughout."""

    type: Literal["crdnn"] = "crdnn"
    cnn_channels: tuple[PositiveInt, ...] = (32, 32)
    """Channels of each convolution block (3x3)."""
    time_strides: tuple[PositiveInt, ...] = (2, 2)
    """Stride in time of each block, as many as `cnn_channels`; frequency is halved by each."""
    projection_size: PositiveInt = 128
    """What the convolutions' channels and mels are projected to, before the recurrence."""
    rnn: Literal["gru", "lstm", "ligru"] = "gru"
    rnn_layers: int = Field(2, ge=1)
    rnn_size: int = Field(128, ge=4)
    """Units per direction."""
    dnn_layers: int = Field(1, ge=0)
    dnn_size: int = Field(128, ge=4)
    dropout: float = Field(0.15, ge=0, lt=1)

    @model_validator(mode="after")
    def _each_block_has_a_stride(self) -> Self:
        if not self.cnn_channels or len(self.cnn_channels) != len(self.time_strides):
            raise ValueError(
                "cnn_channels and time_strides must name the same blocks, at least one: got "
                f"{list(self.cnn_channels)} and {list(self.time_strides)}"
            )
        return self


class LocationDecoder(Section):
    """Recurrent decoder with location-aware attention (Chorowski et al. 2015)."""

    type: Literal["location"] = "location"
    cell: Literal["gru", "lstm"] = "gru"
    embedding_size: int = Field(64, ge=4)
    hidden_size: int = Field(128, ge=4)
    attention_size: int = Field(128, ge=4)
    location_channels: int = Field(8, ge=1)
    location_kernel: int = Field(21, ge=3)
    """Width of the convolution over the previous alignment, in encoder frames; odd."""
    dropout: float = Field(0.15, ge=0, lt=1)

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.location_kernel % 2 == 0:
            raise ValueError(f"location_kernel must be odd, got {self.location_kernel}")
        return self


class Recognizer(Section):
    """Joint CTC/attention speech recogniser."""

    type: Literal["recognizer"] = "recognizer"
    front_end: LogMel = LogMel()
    normalizer: Normalizer = GlobalNormalizer()
    encoder: CrdnnEncoder = CrdnnEncoder()
    decoder: LocationDecoder = LocationDecoder()


class _Attention(Section):
    """What every stack of attention layers has; layer norm stands before each sub-layer."""

    size: int = Field(128, ge=4, multiple_of=2)
    """Features of a state (d_model)."""
    heads: PositiveInt = 4
    feed_forward_size: int = Field(512, ge=4)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of embeddings and of what each sub-layer adds."""
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    activation_dropout: float = Field(0.1, ge=0, lt=1)
    """Behind the relu of the feed-forward layers."""

    @model_validator(mode="after")
    def _heads_divide_the_size(self) -> Self:
        if self.size % self.heads:
            raise ValueError(f"heads must divide size: got {self.heads} heads and size {self.size}")
        return self


class SpeechTransformerEncoder(_Attention):
    """Strided convolutions over time with gated linear units, then self-attention layers.

    The defaults suit a CPU; `s2t_transformer_s` of fairseq is size 256, layers 12, heads 4,
    feed_forward_size 2048, conv_channels 1024.
    """

    type: Literal["transformer"] = "transformer"
    layers: PositiveInt = 4
    conv_channels: int = Field(256, ge=2, multiple_of=2)
    """Channels of the convolutions between the first and the last, before their gates halve them;
    the last has twice `size`."""
    conv_kernels: tuple[PositiveInt, ...] = Field((5, 5), min_length=1)
    """Width of each convolution, odd; each has stride 2."""

    @model_validator(mode="after")
    def _kernels_have_a_middle(self) -> Self:
        if any(width % 2 == 0 for width in self.conv_kernels):
            raise ValueError(f"conv_kernels must be odd, got {list(self.conv_kernels)}")
        return self


class TextTransformerEncoder(_Attention):
    """Embeddings, then self-attention layers."""

    type: Literal["transformer"] = "transformer"
    layers: PositiveInt = 3


class TransformerDecoder(_Attention):
    """Self-attention over what has been written, attention to the encoder, feed-forward layers."""

    type: Literal["transformer"] = "transformer"
    layers: PositiveInt = 2


class BerardEncoder(Section):
    """Input layers, strided 3x3 convolutions, bidirectional LSTM (Berard et al. 2018)."""

    type: Literal["berard"] = "berard"
    input_sizes: tuple[PositiveInt, ...] = Field((256, 128), min_length=1)
    """Units of the tanh layers that each frame passes first."""
    conv_channels: tuple[PositiveInt, ...] = Field((16, 16), min_length=1)
    """Channels of each 3x3 convolution; each halves time and the last input layer's units."""
    rnn_layers: int = Field(3, ge=1)
    rnn_size: int = Field(256, ge=4)
    """Units per direction."""
    dropout: float = Field(0.2, ge=0, lt=1)


class BerardDecoder(Section):
    """LSTM layers with attention from the first one (Berard et al. 2018)."""

    type: Literal["berard"] = "berard"
    embedding_size: int = Field(128, ge=4)
    layers: PositiveInt = 2
    hidden_size: int = Field(512, ge=4)
    attention_size: int = Field(512, ge=4)
    output_size: int = Field(128, ge=4)
    """Units of the tanh layer before the output."""
    dropout: float = Field(0.2, ge=0, lt=1)


SpeechEncoder = Annotated[
    SpeechTransformerEncoder | BerardEncoder,
    Field(discriminator="type"),
    _type_where_missing("transformer"),
]
SpeechDecoder = Annotated[
    TransformerDecoder | BerardDecoder,
    Field(discriminator="type"),
    _type_where_missing("transformer"),
]


class SpeechToText(Section):
    """Speech in, text out: translation, or recognition where the text is the transcript."""

    type: Literal["speech_to_text"] = "speech_to_text"
    front_end: LogMel = LogMel(num_mels=80)
    normalizer: Normalizer = UtteranceNormalizer()
    encoder: SpeechEncoder = SpeechTransformerEncoder()
    decoder: SpeechDecoder = TransformerDecoder()
    share_embeddings: Literal["none", "decoder"] = "none"
    """`decoder`: the output layer's weights are the target embeddings."""
    ctc: bool = False
    """A CTC head on the encoder, for recognisers."""

    @model_validator(mode="after")
    def _shared_embeddings_fit(self) -> Self:
        decoder = self.decoder
        if (
            self.share_embeddings == "decoder"
            and isinstance(decoder, BerardDecoder)
            and decoder.embedding_size != decoder.output_size
        ):
            raise ValueError(
                "share_embeddings: decoder needs decoder.embedding_size and decoder.output_size "
                f"to be equal, got {decoder.embedding_size} and {decoder.output_size}"
            )
        return self


class TextToText(Section):
    """Text in, text out: a translation expert."""

    type: Literal["text_to_text"] = "text_to_text"
    encoder: TextTransformerEncoder = TextTransformerEncoder()
    decoder: TransformerDecoder = TransformerDecoder()
    share_embeddings: Literal["none", "decoder", "all"] = "none"
    """`decoder`: output layer and target embeddings are one matrix; `all`: source embeddings too,
    which needs one vocabulary for both languages."""

    @model_validator(mode="after")
    def _shared_embeddings_fit(self) -> Self:
        if self.share_embeddings == "all" and self.encoder.size != self.decoder.size:
            raise ValueError(
                "share_embeddings: all needs encoder.size and decoder.size to be equal, got "
                f"{self.encoder.size} and {self.decoder.size}"
            )
        return self


Model = Annotated[
    Recognizer | SpeechToText | TextToText,
    Field(discriminator="type"),
    _type_where_missing("recognizer"),
]
"""Any architecture; a section without `type` is a recogniser."""
