"""Where teacher signals come from: the process itself, a store, or a pool."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.placing import LabelSelector, Resources

PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Letters, digits, dot, dash, underscore."""


class LocalSource(Section):
    """Teachers live in the training process."""

    type: Literal["local"] = "local"


class StoreSource(Section):
    """Signals were stored by `kd-ray infer-teachers`."""

    type: Literal["store"] = "store"
    path: str
    """Folder of the target store."""


class HostSettings(Section):
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
    cache_mib: float = Field(0.0, ge=0)
    """Of a host, for what its teachers said: another strategy, temperature or epoch over the same
    prefixes then costs no computation; 0: nothing is remembered."""
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
        if self.batching == "per_request" and (self.cache_mib or self.replicas > 1):
            raise ValueError(
                "batching 'per_request' promises answers that repeat bit for bit, which rows that "
                f"were computed in other batches (cache_mib {self.cache_mib:g}) or on whichever "
                f"host is free (replicas {self.replicas}) do not; take batching 'timed', or leave "
                "them out"
            )
        return self

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
