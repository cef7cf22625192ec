"""What a host keeps about a request while it is answered, and what it says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kd_ray.core.contracts import Generate, Score, Wanted, Writing
from kd_ray.teachers.answers import Call
from kd_ray.teachers.batching import BatchStatistics
from kd_ray.teachers.batching.statistics import JobStatistics
from kd_ray.teachers.cache import CacheStatistics, Found, Lookups
from kd_ray.teachers.costs import JobCost
from kd_ray.teachers.readers import Inputs
from kd_ray.teachers.residency import ResidencyStatus


class Scoring(NamedTuple):
    """What a teacher is to say about given prefixes."""

    wanted: frozenset[Wanted]
    with_references: bool


class Queue(NamedTuple):
    """Work of one queue may share a forward pass."""

    teacher: int
    task: Scoring | Writing
    request: int | None
    """Set where requests are never mixed."""


class Known(NamedTuple):
    """What the cache knows of a request."""

    found: Mapping[int, Found]
    """By teacher."""
    keys: Mapping[str, tuple[bytes, ...]]
    """Of the rows, by what teachers read; empty without a cache."""
    made: tuple[int, ...]
    """Rows that some teacher must be asked about."""


class Asked(NamedTuple):
    """A request as it came, and who is meant."""

    request: Score | Generate
    call: Call
    numbers: Mapping[int, int]
    """The teachers to ask, by index in the pool, and what the job calls them."""
    num_teachers: int
    """Of the job."""
    expires_s: float


class Opened(NamedTuple):
    """A request that is being answered."""

    request: Score | Generate
    call: Call
    known: Known
    inputs: Mapping[str, Inputs]
    """Of the rows that must be asked about, by digest of the front end."""
    number: int
    wait_s: float
    expires_s: float


@dataclass(frozen=True)
class HostStatus:
    """How a host is doing."""

    teachers: tuple[int, ...]
    quarantined: Mapping[int, str]
    open_requests: int
    queued_utterances: int
    batches: BatchStatistics
    jobs: Mapping[str, JobStatistics]
    """What was done for each job."""
    costs: Mapping[str, JobCost]
    """What each job cost."""
    errors: Mapping[str, int]
    """By kind: requests that were not answered, loads that failed, teachers quarantined."""
    busy_s: Mapping[int, float]
    """Seconds of computation of each teacher, since it came here."""
    cache: CacheStatistics | None
    """Of teachers' own rows; None: they are not remembered."""
    residency: ResidencyStatus | None
    """None: all teachers are always loaded."""
    fused: CacheStatistics | None = None
    """Of fused rows; None: they are not remembered."""
    stored: Lookups | None = None
    """In a target store; None: there is none."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Requests of each job that wait until its earlier ones leave room (`max_job_bytes`)."""
