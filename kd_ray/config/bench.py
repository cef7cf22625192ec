"""Sections of `kd-ray bench WHAT CONFIG` for what needs neither data nor teachers."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from kd_ray.config.base import Name, Section
from kd_ray.config.model import (
    Model,
    Recognizer,
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


PoolPart = Literal["saturation", "round_trip", "tail", "registered", "bytes", "scaling", "failover"]
"""What `kd-ray bench pool` measures, in this order."""


class BenchRequests(Section):
    """Requests about noise, all of one size; every one fills a forward pass."""

    utterances: int = Field(8, ge=1)
    duration_s: float = Field(2.0, gt=0)
    positions: int = Field(24, ge=2)
    """Target positions of an utterance, that of the end symbol included."""
    vocabulary_size: int = Field(40, ge=8)


class BenchSaturation(Section):
    """A host under load against the same teacher in this process, in turns."""

    requests: int = Field(32, ge=2)
    """Of a turn."""
    rounds: int = Field(7, ge=1)
    """Turns of each."""
    in_flight: int = Field(4, ge=1)


class BenchRoundTrip(Section):
    """A request to an idle pool against a bare actor call, in turns."""

    requests: int = Field(200, ge=2)
    warmup: int = Field(20, ge=0)


class BenchTail(Section):
    """Latencies where requests come by chance, at a share of what the host can do."""

    requests: int = Field(600, ge=10)
    load: float = Field(0.8, gt=0, lt=1)


class BenchRegistered(Section):
    """Many small teachers on one host that can hold some of them."""

    teachers: int = Field(300, ge=1)
    model: Model = Recognizer()
    """Each has other random weights."""
    memory_mib: float = Field(24.0, gt=0)
    """For the weights of those that are loaded."""
    utterances: int = Field(2, ge=1)
    duration_s: float = Field(1.0, gt=0)
    requests: int = Field(16, ge=1)
    """All waiting at once: an offline pass over a data set of so many batches."""
    window: int = Field(8, ge=1)
    """Requests in flight of an online student that looks ahead."""
    windows: int = Field(2, ge=1)


class BenchFleet(Section):
    """Hosts on simulated nodes, with teachers that cost time but no computation."""

    hosts: int = Field(4, ge=2)
    """One on each node."""
    pass_s: float = Field(0.1, gt=0)
    """What a pass of a waiting teacher takes."""


class BenchBytes(Section):
    """What goes from hosts, from nodes and to the student."""

    teachers: tuple[int, ...] = Field((1, 10, 100), min_length=1)
    hosts: tuple[int, ...] = Field((1, 2, 4), min_length=1)


class BenchScaling(Section):
    """Throughput of more hosts against that of one."""

    hosts: tuple[int, ...] = Field((1, 2, 4), min_length=1)
    seconds: float = Field(6.0, gt=0)
    """Of load, for each number of hosts."""
    in_flight: int = Field(3, ge=1)
    """Requests for each host."""
    idle_requests: int = Field(15, ge=1)
    """One after another, where the latency of split teachers is measured."""


class BenchFailover(Section):
    """A host is killed under load."""

    in_flight: int = Field(8, ge=1)
    before_s: float = Field(2.0, gt=0)
    """Of load before the kill."""
    after_s: float = Field(4.0, gt=0)
    """Of load once everything is as before."""
    recover_s: float = Field(90.0, gt=0)
    """Longest wait for the host to come back."""


class BenchPoolConfig(Section):
    """`kd-ray bench pool`: what the teacher pool costs, bears and survives."""

    command: Literal["bench"]
    what: Literal["pool"]
    name: Name = "bench/pool"
    parts: tuple[PoolPart, ...] = Field(get_args(PoolPart), min_length=1)
    model: Model = Recognizer()
    """The teacher of `saturation` and `tail`, with random weights."""
    cpus_per_host: float = Field(1, gt=0)
    """As of a pool: rounded down (at least 1), the threads of a host, and of the same teacher in
    this process."""
    batch: BenchRequests = BenchRequests()
    saturation: BenchSaturation = BenchSaturation()
    round_trip: BenchRoundTrip = BenchRoundTrip()
    tail: BenchTail = BenchTail()
    registered: BenchRegistered = BenchRegistered()
    fleet: BenchFleet = BenchFleet()
    bytes: BenchBytes = BenchBytes()
    scaling: BenchScaling = BenchScaling()
    failover: BenchFailover = BenchFailover()

    @model_validator(mode="after")
    def _the_fleet_is_large_enough(self) -> Self:
        for key in ("bytes", "scaling"):
            numbers = getattr(self, key).hosts
            if not 1 <= min(numbers) <= max(numbers) <= self.fleet.hosts:
                raise ValueError(
                    f"{key}.hosts is {list(numbers)} and fleet.hosts is {self.fleet.hosts}: give "
                    "numbers from 1 to fleet.hosts, or raise fleet.hosts"
                )
        return self

    @model_validator(mode="after")
    def _teachers_hear(self) -> Self:
        for key, model in (("model", self.model), ("registered.model", self.registered.model)):
            if model.type == "text_to_text":
                raise ValueError(
                    f"{key} is of type text_to_text, and the requests are noise: take recognizer "
                    "or speech_to_text"
                )
        return self


def what(value: Any) -> str:
    """What a file for `kd-ray bench` measures: `step` where it does not say."""
    chosen = value.get("what") if isinstance(value, dict) else getattr(value, "what", None)
    return "step" if chosen is None else str(chosen)
