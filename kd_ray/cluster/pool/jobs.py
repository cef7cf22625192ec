"""Who is attached to a named pool, and which clients know of its latest change."""

import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass

from kd_ray.cluster.pool.address import PoolAddress

_REMEMBERED = 1000
"""Leases that were given back, and are not taken again."""


@dataclass(frozen=True)
class Lease:
    """A job's place in a pool."""

    number: str
    lease_s: float
    address: PoolAddress


@dataclass(frozen=True)
class JobView:
    """A job in the status."""

    name: str
    weight: float
    attached_s: float
    heard_s: float
    """How long ago."""


@dataclass
class Job:
    """A job that is attached."""

    name: str
    weight: float
    since_s: float
    """Unix time."""
    heard_s: float
    """By the monotonic clock."""


@dataclass
class _Follower:
    version: int
    heard_s: float


class JobBook:
    """Jobs by their leases, and clients by the version of the pool that they know.

    Safe for several threads. Times by the monotonic clock, where nothing else is said.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._left: deque[str] = deque(maxlen=_REMEMBERED)
        self._followers: dict[str, _Follower] = {}
        self._lock = threading.RLock()
        self._heard = threading.Condition(self._lock)

    def enter(self, name: str, weight: float, patience_s: float) -> str:
        """A job comes; the number of its lease. It need not be heard of for `patience_s`."""
        number = uuid.uuid4().hex[:12]
        with self._lock:
            self._jobs[number] = Job(name, weight, time.time(), time.monotonic() + patience_s)
        return number

    def renew(self, number: str, name: str, weight: float) -> bool:
        """A sign of life; False: it was given up before, and is attached again."""
        with self._lock:
            if number in self._left:
                # Sent before it took its leave, and overtaken by that.
                return True
            known = self._jobs.get(number)
            if known is None:
                self._jobs[number] = Job(name, weight, time.time(), time.monotonic())
            else:
                known.heard_s = time.monotonic()
            return known is not None

    def leave(self, number: str) -> Job | None:
        """A job goes; None: it was not here."""
        with self._lock:
            self._left.append(number)
            return self._jobs.pop(number, None)

    def silent(self, lease_s: float) -> list[Job]:
        """Give those up that have not been heard of for `lease_s`; they are returned."""
        limit_s = time.monotonic() - lease_s
        with self._lock:
            lost = [number for number, job in self._jobs.items() if job.heard_s < limit_s]
            return [self._jobs.pop(number) for number in lost]

    @property
    def names(self) -> list[str]:
        """Of jobs that are attached, one for each lease."""
        with self._lock:
            return [job.name for job in self._jobs.values()]

    @property
    def views(self) -> tuple[JobView, ...]:
        """For the status."""
        now = time.monotonic()
        with self._lock:
            return tuple(
                JobView(
                    job.name, job.weight, time.time() - job.since_s, max(0.0, now - job.heard_s)
                )
                for job in self._jobs.values()
            )

    def knows(self, follower: str, version: int) -> None:
        """A client says which version of the pool it acts by."""
        with self._heard:
            self._followers[follower] = _Follower(version, time.monotonic())
            self._heard.notify_all()

    def unfollow(self, follower: str) -> None:
        """A client is closed."""
        with self._heard:
            self._followers.pop(follower, None)
            self._heard.notify_all()

    def await_followers(self, version: int, timeout_s: float, silent_s: float) -> list[str]:
        """Wait until every client acts by `version`; who does not, after `timeout_s`.

        Those that have not been heard of for `silent_s` are gone and not waited for.
        """
        limit_s = time.monotonic() + timeout_s
        with self._heard:
            while True:
                now = time.monotonic()
                for name, follower in list(self._followers.items()):
                    if now - follower.heard_s > silent_s:
                        del self._followers[name]
                late = [name for name, each in self._followers.items() if each.version < version]
                if not late or now >= limit_s:
                    return late
                self._heard.wait(min(1.0, limit_s - now))
