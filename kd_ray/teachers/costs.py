"""What each job costs a host."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

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
    bytes_in: int = 0
    """Of audio."""
    bytes_out: int = 0
    """Of partials and targets."""

    def add(self, other: "JobCost") -> None:
        """Count what `other` has counted, too."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Costs:
    """Accounts by job; beyond a few hundred jobs the oldest are added up under one name."""

    GONE = "(earlier jobs)"

    def __init__(self) -> None:
        self._jobs: dict[str, JobCost] = {}

    def add(self, job: str, cost: JobCost) -> None:
        """Book something on a job."""
        self._jobs.setdefault(job, JobCost()).add(cost)
        if len(self._jobs) > _MOST_JOBS:
            oldest = next(name for name in self._jobs if name != self.GONE)
            self.add(self.GONE, self._jobs.pop(oldest))

    @property
    def by_job(self) -> Mapping[str, JobCost]:
        """Copies of the accounts."""
        copies = {}
        for name, cost in self._jobs.items():
            copies[name] = JobCost()
            copies[name].add(cost)
        return copies
