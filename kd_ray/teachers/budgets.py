"""How many bytes each job may have in flight at a host."""

from collections.abc import Mapping

from kd_ray.teachers.policies import Admit, Refuse, judge_admission


class JobBudgets:
    """Counts the bytes of open requests by job, and judges whether another one fits.

    A request that is larger than its job's whole cap goes out alone. A job without open requests
    takes no memory, unless it has a cap of its own.

    Args:
        default_bytes: the cap of a job that has none of its own.
        caps: jobs with a cap of their own, bytes.
    """

    def __init__(self, default_bytes: int, caps: Mapping[str, int] | None = None) -> None:
        self._default_bytes = _checked(default_bytes, "the default")
        self._caps: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        for job, cap in (caps or {}).items():
            self.set_cap(job, cap)

    def set_cap(self, job: str, max_bytes: int | None) -> None:
        """Give a job a cap of its own, or (None) the default again."""
        if max_bytes is None:
            self._caps.pop(job, None)
        else:
            self._caps[job] = _checked(max_bytes, f"job {job!r}")

    def cap(self, job: str) -> int:
        """Bytes that a job may have in flight."""
        return self._caps.get(job, self._default_bytes)

    def in_flight(self, job: str) -> int:
        """Bytes that a job has in flight."""
        return self._in_flight.get(job, 0)

    def judge(self, job: str, request_bytes: int) -> Admit | Refuse:
        """May the job send a request of this size now? Nothing is booked."""
        decision = judge_admission(self.in_flight(job), request_bytes, self.cap(job))
        if isinstance(decision, Refuse):
            return Refuse(f"job {job!r}: {decision.reason}")
        return decision

    def acquire(self, job: str, request_bytes: int) -> None:
        """Book a request that was admitted."""
        if request_bytes < 0:
            raise ValueError(f"job {job!r}: a request of {request_bytes} bytes")
        if request_bytes:
            self._in_flight[job] = self.in_flight(job) + request_bytes

    def release(self, job: str, request_bytes: int) -> None:
        """Book that a request has been answered, cancelled or lost.

        Raises:
            ValueError: more is given back than the job has in flight.
        """
        rest = self.in_flight(job) - request_bytes
        if request_bytes < 0 or rest < 0:
            raise ValueError(
                f"job {job!r} gives back {request_bytes} bytes, "
                f"{self.in_flight(job)} are in flight: release what was acquired, once"
            )
        if rest:
            self._in_flight[job] = rest
        else:
            self._in_flight.pop(job, None)


def _checked(max_bytes: int, whose: str) -> int:
    if max_bytes < 1:
        raise ValueError(f"a cap on bytes must be at least 1, {whose} has {max_bytes}")
    return max_bytes
