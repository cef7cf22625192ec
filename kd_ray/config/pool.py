"""`kd-ray pool`: a pool of teachers that runs by itself, for any number of jobs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Name, Section
from kd_ray.config.data import TextColumn
from kd_ray.config.sources import HostSettings, PoolName
from kd_ray.config.strategies import Average, Best, Strategy, Trust, Weighted
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


class PoolReport(Section):
    """`kd-ray pool report`: teachers' errors on a split, and who is trusted where."""

    name: Name
    """What it finds is in `runs/<name>/`."""
    split: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the table of error rates calls the split; not the one that students train on."""
    manifest: str
    tokens: str
    """Token file of the teachers."""
    column: TextColumn = "phones"
    """What teachers write; rows without it are left out."""
    reads: TextColumn | None = None
    """The column that text teachers read."""
    trust: Trust | None = None
    """Which errors count; null: `ctc_greedy` where all teachers have a CTC head, else
    `teacher_forced` (of text teachers `teacher_forced_chrf`)."""
    groups: tuple[str, ...] | None = None
    """Manifest columns by which utterances are grouped, `duration` among them; null: all that make
    groups."""
    buckets: int = Field(4, ge=2)
    """Into how many groups of like size numbers are cut."""
    strategies: tuple[Strategy, ...] = (Average(), Best(), Weighted())
    """Whose weights are shown, each utterance by its own trust."""
    source: Literal["pool", "local"] = "pool"
    """`local`: the teachers of the list are loaded into this process, and no pool is needed."""
    batch_size: int = Field(32, ge=1)
    """Utterances of a request."""
    in_flight: int = Field(8, ge=1)
    """Requests at a time."""
    resamples: int = Field(1000, ge=1)
    """Of the bootstrap that intervals are made by."""

    @model_validator(mode="after")
    def _by_the_utterance(self) -> Self:
        scopes = {getattr(strategy, "scope", "utterance") for strategy in self.strategies}
        if scopes - {"utterance"}:
            raise ValueError(
                f"strategies with scope {', '.join(map(repr, sorted(scopes - {'utterance'})))}: "
                "the report weighs each utterance by its own trust, and makes the table that "
                "scope 'corpus' reads; leave scope out"
            )
        return self


class PoolConfig(Section):
    """`kd-ray pool up | update | status | report | drain | down`."""

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
    report: PoolReport | None = None
    """For `kd-ray pool report`."""

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
