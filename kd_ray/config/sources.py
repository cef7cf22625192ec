"""Where teacher signals come from: the process itself, a store, or a pool."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.placing import LabelSelector, Resources

PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Letters, digits, dot, dash, underscore."""


Precision = Literal["float32", "bfloat16", "float16"]
"""float16 needs a GPU."""


class Computation(Section):
    """How teachers compute."""

    precision: Precision = "float32"
    """Of products and convolutions (automatic casting); recurrences, output layers and softmax
    stay in float32."""
    compile: bool = False
    """Compile layers of attention (`torch.compile`), for inputs padded up to a few lengths."""


DEFAULT_COMPUTATION = Computation()


class LocalSource(Computation):
    """Teachers live in the training process."""

    type: Literal["local"] = "local"


class StoreSource(Section):
    """Signals were stored by `kd-ray infer-teachers`."""

    type: Literal["store"] = "store"
    path: str
    """Folder of the target store."""


class HostSettings(Computation):
    """The hosts of a pool: Ray actors that keep several teachers each."""

    hosts: int = Field(1, ge=1)
    """Host processes; teachers are dealt to them in order."""
    replicas: int = Field(1, ge=1)
    """Hosts on which each teacher lives; with more than one, the loss of a host costs none."""
    cpus_per_host: float = Field(1, gt=0)
    gpus_per_host: float = Field(0, ge=0)
    resources_per_host: Resources = Field({})
    """Custom resources of the cluster that each host takes, e.g. `{teachers: 1}`."""
    label_selector: LabelSelector = Field({})
    """Labels that a host's node must have."""
    batching: Literal["per_request", "timed"] = "timed"
    """`per_request` never mixes requests (bitwise repeatable); `timed` fills micro-batches."""
    max_batch_utterances: int = Field(32, ge=1)
    max_batch_frames: int | None = Field(None, ge=1)
    """Largest padded area of a forward pass, utterances times the longest, in frames (text
    teachers: source tokens); null: any."""
    batch_wait_ms: float = Field(2.0, ge=0)
    """Longest wait for companions of a request; none while the host is idle."""
    memory_mib: float | None = Field(None, gt=0)
    """Of a host, for teachers' weights; where they need more, teachers are loaded by turns; null:
    all are loaded."""
    warm_mib: float = Field(0.0, ge=0)
    """Of a host, with `memory_mib`: copies of weights in main memory between visits, for storage
    that is slow; 0: they are read from the mapped files, which hosts of a node share."""
    cache_mib: float = Field(0.0, ge=0)
    """Of a host, for what its teachers said: another strategy, temperature or epoch over the same
    prefixes then costs no computation; 0: nothing is remembered."""
    fused_cache_mib: float = Field(0.0, ge=0)
    """Of a host, for what was fused of it, where the rows of all teachers do not fit: another epoch
    or job with the same strategy then costs no computation; 0: nothing is remembered."""
    cache_store: str | None = None
    """Folder of a target store, whose rows answer jobs that read the data it was made of; null:
    none."""
    max_job_mib: float = Field(2048.0, gt=0)
    """Of a host, for the open requests of one job; further ones wait until there is room."""
    start_timeout_s: float = Field(300.0, gt=0)
    """Longest wait for a host to load its teachers."""
    hung_after_s: float = Field(30.0, gt=2)
    """A host that gives no sign of life for so long is ended and started again."""
    max_deaths: int = Field(4, ge=0)
    """A host that died more often than this within ten minutes stays down; 0: never started
    again."""

    @property
    def placed(self) -> bool:
        """Whether hosts are sent to nodes of a certain kind."""
        return bool(self.resources_per_host or self.label_selector)

    @model_validator(mode="after")
    def _repeats_are_exact(self) -> Self:
        caches = self.cache_mib or self.fused_cache_mib
        if self.batching == "per_request" and (caches or self.replicas > 1):
            raise ValueError(
                "batching 'per_request' promises answers that repeat bit for bit, which rows that "
                f"were computed in other batches (cache_mib {self.cache_mib:g}, fused_cache_mib "
                f"{self.fused_cache_mib:g}) or on whichever host is free (replicas "
                f"{self.replicas}) do not; take batching 'timed', or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _hosts_can_compute_so(self) -> Self:
        if self.precision == "float16" and not self.gpus_per_host:
            raise ValueError(
                "precision 'float16' needs a GPU, and gpus_per_host is 0; take 'bfloat16', or give "
                "hosts a GPU"
            )
        if self.compile and self.memory_mib is not None:
            raise ValueError(
                f"compile with memory_mib {self.memory_mib:g}: teachers that are loaded by turns "
                "would be compiled at each visit; leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _weights_go_before_they_come_back(self) -> Self:
        if self.warm_mib and self.memory_mib is None:
            raise ValueError(
                f"warm_mib {self.warm_mib:g} keeps weights of teachers that take turns, and "
                "memory_mib is null: all are loaded and stay; set memory_mib, or leave out warm_mib"
            )
        return self

    def at(self, root: Path) -> Self:
        """With paths that begin at `root`."""
        if self.cache_store is None:
            return self
        return self.model_copy(update={"cache_store": str(root / self.cache_store)})

    @model_validator(mode="after")
    def _replicas_have_hosts(self) -> Self:
        if self.replicas > self.hosts:
            raise ValueError(
                f"replicas is {self.replicas} and hosts is {self.hosts}: copies of a teacher live "
                "on different hosts; raise hosts, or lower replicas"
            )
        return self


class PoolSource(HostSettings):
    """Teachers live in Ray actors: hosts of this job, or a pool that runs already."""

    type: Literal["pool"] = "pool"
    name: PoolName | None = None
    """Attach to the pool of this name (`kd-ray pool up`) instead of starting hosts."""
    deadline_s: float = Field(60.0, gt=0)
    """A host that has not answered by then is left out (see `quorum`)."""
    retry_after_s: float | None = Field(None, gt=0)
    """A host that has not answered by then is asked no more where another host has its teachers;
    null: half of `deadline_s`."""
    recover_s: float = Field(60.0, ge=0)
    """How long a request waits for lost hosts to come back where too few teachers are left; 0: it
    fails at once, and lost hosts are not looked for."""
    quorum: float = Field(0.5, gt=0, le=1)
    """Smallest share of teachers that must answer; weights are renormalised over those."""
    max_bytes_in_flight_mib: float = Field(256.0, gt=0)
    weight: float = Field(1.0, gt=0)
    """This job's share of busy hosts, where several jobs share a pool."""
    priority: int = 0
    """Of this job's requests: higher ones go first where hosts are busy."""

    @model_validator(mode="after")
    def _hosts_are_somebody_elses(self) -> Self:
        # By value: a resolved configuration names every key.
        fields = HostSettings.model_fields.items()
        given = [key for key, field in fields if getattr(self, key) != field.default]
        if self.name is not None and given:
            raise ValueError(
                f"the pool {self.name!r} runs already, with hosts of its own: leave out "
                f"{', '.join(given)} (they stand in the file of `kd-ray pool up`), or leave out "
                "name to start hosts for this job alone"
            )
        return self


Source = Annotated[LocalSource | StoreSource | PoolSource, Field(discriminator="type")]
