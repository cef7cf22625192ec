"""Sections of `kd-ray bench WHAT CONFIG` for what needs neither data nor teachers."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Name, Section
from kd_ray.config.model import (
    SpeechToText,
    SpeechTransformerEncoder,
    TransformerDecoder,
)


class BenchRolloutsConfig(Section):
    """`kd-ray bench rollouts`: greedy decoding with a cache against decoding without one."""

    command: Literal["bench"]
    what: Literal["rollouts"]
    name: Name = "bench/rollouts"
    model: SpeechToText
    """Its weights are random."""
    vocabulary_size: int = Field(10_000, ge=8)
    batch_size: int = Field(16, ge=1)
    frames: int = Field(640, ge=1)
    """Feature frames of each utterance."""
    length: int = Field(125, ge=1)
    """Tokens that every row writes: the end symbol is barred."""
    transformers: bool = False
    """Also `generate` of Hugging Face Transformers, a model of the same sizes (extra `hf`)."""
    warmup: int = Field(1, ge=0)
    repeats: int = Field(5, ge=1)
    whole_prefix_repeats: int | None = Field(None, ge=1)
    """How often the slowest way, without the cache, is measured, and then not warmed up: at the
    published size it takes most of the time. Null: as often as the others."""
    threads: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _transformers_has_such_a_model(self) -> Self:
        encoder, decoder = self.model.encoder, self.model.decoder
        same = (
            isinstance(encoder, SpeechTransformerEncoder)
            and isinstance(decoder, TransformerDecoder)
            and encoder.size == decoder.size
        )
        if self.transformers and not same:
            raise ValueError(
                "transformers: true needs model.encoder and model.decoder of type transformer and "
                f"of one size, got {encoder.type} and {decoder.type}; set transformers to false"
            )
        return self


class BenchSparseConfig(Section):
    """`kd-ray bench sparse`: learning k teacher tokens against learning one label."""

    command: Literal["bench"]
    what: Literal["sparse"]
    name: Name = "bench/sparse"
    vocabulary_sizes: tuple[int, ...] = Field((10_000, 42_000), min_length=1)
    top_k: int = Field(8, ge=1)
    batch_size: int = Field(16, ge=1)
    length: int = Field(32, ge=1)
    """Positions of each row."""
    warmup: int = Field(3, ge=0)
    repeats: int = Field(15, ge=1)
    threads: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _every_token_fits(self) -> Self:
        if min(self.vocabulary_sizes) < self.top_k:
            raise ValueError(
                f"top_k is {self.top_k}, more than the {min(self.vocabulary_sizes)} tokens of the "
                "smallest of vocabulary_sizes"
            )
        return self


class BenchSoakConfig(Section):
    """`kd-ray bench soak`: a named pool under load for long, while its processes are killed."""

    command: Literal["bench"]
    what: Literal["soak"]
    name: Name = "bench/soak"
    minutes: float = Field(30.0, gt=0)
    teachers: int = Field(6, ge=1)
    """Small recognisers with random weights."""
    hosts: int = Field(3, ge=2)
    """Processes; the first one is spared, so that its memory is seen for the whole time."""
    replicas: int = Field(2, ge=1)
    cache_mib: float = Field(4.0, ge=0)
    clients: int = Field(4, ge=1)
    """Jobs at a time; each goes after some minutes, and another comes."""
    requests_per_s: float = Field(1.0, gt=0)
    """Of each client, at most."""
    questions: int = Field(64, ge=1)
    """Different requests of each client."""
    fault_every_s: float = Field(75.0, gt=0)
    """Mean time between faults."""
    sample_every_s: float = Field(5.0, gt=0)
    warm_up_s: float = Field(120.0, ge=0)
    """Of each process, which say nothing of how its memory grows."""
    max_mib_per_hour: float = Field(40.0, gt=0)
    """Growth of a process's own memory above which the soak fails."""
    max_store_mib: float = Field(64.0, gt=0)
    """Most bytes in the object store at any time."""
    seed: int = 0

    @model_validator(mode="after")
    def _copies_live_apart(self) -> Self:
        if self.replicas > self.hosts:
            raise ValueError(
                f"replicas is {self.replicas} and hosts is {self.hosts}: copies of a teacher live "
                "on different hosts; raise hosts, or lower replicas"
            )
        return self


def what(value: Any) -> str:
    """What a file for `kd-ray bench` measures: `step` where it does not say."""
    chosen = value.get("what") if isinstance(value, dict) else getattr(value, "what", None)
    return "step" if chosen is None else str(chosen)
