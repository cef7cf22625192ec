"""Sections about architectures."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

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
