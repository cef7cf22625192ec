"""What a batcher has done, in all and for each job."""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kd_ray.teachers.batching.filling import Waiting
from kd_ray.teachers.latency import LatencyHistogram

Key = TypeVar("Key")
Payload = TypeVar("Payload")

_JOBS_KEPT = 256


@dataclass(frozen=True)
class BatchStatistics:
    """What a batcher has done so far; `units` is the sum of the items' sizes that were run."""

    passes: int = 0
    items: int = 0
    units: int = 0
    cancelled: int = 0
    expired: int = 0
    cost: int = 0
    """Sum of the items' own costs: size x length, or size where no length is known."""
    padded: int = 0
    """Sum of the passes' sizes x longest lengths; cost / padded is the share that is no padding."""
    sizes: Mapping[int, int] = field(default_factory=dict)
    """How many passes had which size."""

    @property
    def units_per_pass(self) -> float:
        """Mean size of a pass, 0 before the first."""
        return self.units / self.passes if self.passes else 0.0

    def size_quantile(self, q: float) -> int:
        """The smallest size that a share `q` of the passes did not exceed; 0 before the first."""
        below = 0
        for size in sorted(self.sizes):
            below += self.sizes[size]
            if below >= q * self.passes:
                return size
        return 0


@dataclass
class JobStatistics:
    """A job's own part; sums over jobs are the batcher's, but for `passes`, which jobs share."""

    passes: int = 0
    items: int = 0
    units: int = 0
    cancelled: int = 0
    expired: int = 0
    cost: int = 0
    shared_units: int = 0
    """Sum of the sizes of the passes it had a part in."""
    waits: LatencyHistogram = field(default_factory=LatencyHistogram)
    """From being handed in to the start of the pass; of what was run."""

    @property
    def units_per_pass(self) -> float:
        """Mean size of the passes it had a part in, 0 before the first."""
        return self.shared_units / self.passes if self.passes else 0.0

    def merge(self, other: "JobStatistics") -> None:
        """Count what `other` has counted, too."""
        for name in ("passes", "items", "units", "cancelled", "expired", "cost", "shared_units"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits.merge(other.waits)

    def copy(self) -> "JobStatistics":
        """The same counts, from here on its own."""
        copy = JobStatistics()
        copy.merge(self)
        return copy


class Accounts:
    """Keeps the books of all jobs in bounded memory.

    Beyond 256 jobs the one that has been quiet longest is added to `gone`.
    """

    def __init__(self) -> None:
        self.gone = JobStatistics()
        """Of jobs that were forgotten."""
        self._jobs: OrderedDict[str, JobStatistics] = OrderedDict()
        self._passes = self._padded = 0
        self._sizes: Counter[int] = Counter()

    @property
    def total(self) -> BatchStatistics:
        """Over all jobs, past and present."""
        jobs = [*self._jobs.values(), self.gone]
        return BatchStatistics(
            passes=self._passes,
            items=sum(job.items for job in jobs),
            units=sum(job.units for job in jobs),
            cancelled=sum(job.cancelled for job in jobs),
            expired=sum(job.expired for job in jobs),
            cost=sum(job.cost for job in jobs),
            padded=self._padded,
            sizes=dict(self._sizes),
        )

    @property
    def jobs(self) -> dict[str, JobStatistics]:
        """Copies, by job."""
        return {name: job.copy() for name, job in self._jobs.items()}

    def forget(self, job: str) -> None:
        """Add a job's counts to `gone`."""
        self.gone.merge(self._jobs.pop(job, JobStatistics()))

    def count_pass(self, batch: Sequence[Waiting[Key, Payload]], now: float) -> None:
        """A pass begins."""
        size = sum(waiting.size for waiting in batch)
        self._passes += 1
        self._sizes[size] += 1
        self._padded += size * (max(waiting.length for waiting in batch) or 1)
        for name in {waiting.job for waiting in batch}:
            job = self._of(name)
            job.passes += 1
            job.shared_units += size
        for waiting in batch:
            job = self._of(waiting.job)
            job.items += 1
            job.units += waiting.size
            job.cost += waiting.cost
            job.waits.record(now - waiting.arrived_s)

    def count_cancelled(self, job: str) -> None:
        """A caller gave up an item that had not begun."""
        self._of(job).cancelled += 1

    def count_expired(self, job: str) -> None:
        """An item was past its deadline before it had begun."""
        self._of(job).expired += 1

    def _of(self, name: str) -> JobStatistics:
        job = self._jobs.setdefault(name, JobStatistics())
        self._jobs.move_to_end(name)
        if len(self._jobs) > _JOBS_KEPT:
            self.forget(next(iter(self._jobs)))
        return job
