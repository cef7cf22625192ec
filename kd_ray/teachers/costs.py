"""What each job costs a host, how long its answers took, and what went wrong."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from kd_ray.teachers.latency import LatencyHistogram

_MOST_JOBS = 256


@dataclass
class JobCost:
    """A job's account. Rows are utterances times teachers."""

    requests: int = 0
    rows: int = 0
    known_rows: int = 0
    """Of those, answered by the cache."""
    teacher_s: float = 0.0
    """Seconds of teacher computation; a shared pass is counted by share of utterances."""
    loads: float = 0.0
    """Teachers that were loaded for it, where they take turns; shared likewise."""
    bytes_in: int = 0
    """Of audio."""
    bytes_out: int = 0
    """Of partials and targets."""
    answers: LatencyHistogram = field(default_factory=LatencyHistogram)
    """From a request's arrival to its answer."""

    def add(self, other: "JobCost") -> None:
        """Count what `other` has counted, too."""
        for each in fields(self):
            mine, more = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, LatencyHistogram):
                mine.merge(more)
            else:
                setattr(self, each.name, mine + more)


class Costs:
    """Accounts by job; beyond a few hundred jobs the oldest are added up under one name."""

    GONE = "(earlier jobs)"

    def __init__(self) -> None:
        self.open_requests = 0
        """Requests that are being answered."""
        self.errors: Counter[str] = Counter()
        """Requests that were not answered, by kind of error, and other losses that were counted."""
        self._jobs: dict[str, JobCost] = {}

    def add(self, job: str, cost: JobCost) -> None:
        """Book something on a job."""
        self._jobs.setdefault(job, JobCost()).add(cost)
        if len(self._jobs) > _MOST_JOBS:
            oldest = next(name for name in self._jobs if name != self.GONE)
            self.add(self.GONE, self._jobs.pop(oldest))

    @contextmanager
    def answering(self, job: str, now: Callable[[], float]) -> Iterator[JobCost]:
        """Book a request: what the block writes down of it and how long it took, or its error."""
        cost, started_s = JobCost(requests=1), now()
        self.open_requests += 1
        try:
            yield cost
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self.errors["cancelled" if cancelled else type(error).__name__] += 1
            raise
        finally:
            self.open_requests -= 1
        cost.answers.record(now() - started_s)
        self.add(job, cost)

    @property
    def by_job(self) -> Mapping[str, JobCost]:
        """Copies of the accounts."""
        copies = {}
        for name, cost in self._jobs.items():
            copies[name] = JobCost()
            copies[name].add(cost)
        return copies
