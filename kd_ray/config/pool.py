"""`kd-ray pool`: a pool of teachers that runs by itself, for any number of jobs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.sources import HostSettings, PoolName
from kd_ray.config.teachers import OnTheFly


class PoolTeachers(Section):
    """Who lives in a pool."""

    list: str | tuple[str, ...]
    """As `teachers.list` of a distillation."""
    recognizer: OnTheFly | None = None
    """Transcribes for text teachers, where jobs set `reads: asr_transcript`."""


class PoolScaling(Section):
    """A pool that grows when work waits or is late, and shrinks when hosts idle.

    Seconds queued are seconds of teacher computation that wait.
    """

    min_hosts: int = Field(1, ge=1)
    """Fewest while jobs are attached; without any, see `idle_release_s`."""
    max_hosts: int = Field(ge=1)
    max_replicas: int = Field(1, ge=1)
    """Copies of a teacher that is busy; `hosts.replicas` is for all."""
    grow_above_s: float = Field(2.0, gt=0)
    """More queued per host than this, all the time for `hold_s`: hosts come."""
    shrink_below_s: float = Field(0.2, ge=0)
    """Less queued per host than this would be, were there one host less: it leaves."""
    hold_s: float = Field(10.0, gt=0)
    """How long it must have been so."""
    cooldown_s: float = Field(30.0, ge=0)
    """Shortest time between two changes."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_hosts > self.max_hosts or self.shrink_below_s >= self.grow_above_s:
            raise ValueError(
                f"min_hosts ({self.min_hosts}) must not be above max_hosts ({self.max_hosts}), and "
                f"shrink_below_s ({self.shrink_below_s:g}) must be below grow_above_s "
                f"({self.grow_above_s:g}), or the pool would grow and shrink in turn"
            )
        return self


class PoolConfig(Section):
    """`kd-ray pool up | update | status | drain | down`."""

    command: Literal["pool"]
    name: PoolName
    """What jobs call it: `teachers.source: {type: pool, name: ...}`."""
    teachers: PoolTeachers
    hosts: HostSettings = HostSettings()
    scaling: PoolScaling | None = None
    """null: as many hosts as `hosts.hosts` says, always."""
    handover_s: float = Field(60.0, gt=0)
    """Longest time that hosts or teachers which leave a running pool still answer, for jobs that
    have not heard of it yet."""
    lease_s: float = Field(30.0, ge=1)
    """A job that has not been heard of for so long is no longer attached."""
    idle_release_s: float | None = Field(None, gt=0)
    """Without any job for so long, hosts are ended; the next job starts them again. null: never."""

    @model_validator(mode="after")
    def _hosts_within_bounds(self) -> Self:
        scaling = self.scaling
        if scaling is not None and not (scaling.min_hosts <= self.hosts.hosts <= scaling.max_hosts):
            raise ValueError(
                f"the pool begins with hosts.hosts ({self.hosts.hosts}) hosts, which must be from "
                f"scaling.min_hosts ({scaling.min_hosts}) to scaling.max_hosts "
                f"({scaling.max_hosts})"
            )
        return self
