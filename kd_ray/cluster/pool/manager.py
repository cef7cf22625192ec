"""The manager of a named pool: an actor that brings hosts up, keeps them up, and knows the jobs.

Jobs talk to hosts directly; only attaching and the signs of life that keep a job attached come
here, so that a pool goes on answering while its manager is away. Ray starts a manager that died
again; it finds its hosts by their names.
"""

import logging
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import ray

from kd_ray.cluster.pool.address import HostHandle, PoolAddress
from kd_ray.cluster.pool.hosts import HostStarter, Loader, PoolStartError, kill_hosts
from kd_ray.cluster.pool.keeper import PoolKeeper
from kd_ray.cluster.pool.roster import HOST_GONE, one_line
from kd_ray.config.pool import PoolConfig
from kd_ray.teachers.host import HostStatus
from kd_ray.teachers.policies.health import HealthLimits
from kd_ray.teachers.transcriber import TranscriberSpec

logger = logging.getLogger(__name__)

NAMESPACE = "kd_ray"
"""Of named pools, whatever job started them."""

_LOOK_S = 1.0
_STATUS_S = 3.0


class PoolDraining(RuntimeError):
    """The pool takes no further jobs."""


@dataclass(frozen=True)
class PoolSpec:
    """What a manager needs to know; travels to its process."""

    config: PoolConfig
    folders: tuple[str, ...]
    """Checkpoint folders, in the order of the list."""
    recognizer: TranscriberSpec | None = None
    load: Loader | None = None


@dataclass(frozen=True)
class Lease:
    """A job's place in a pool."""

    number: str
    lease_s: float
    address: PoolAddress


@dataclass
class _Job:
    """A job that is attached."""

    name: str
    weight: float
    since_s: float
    """Unix time."""
    heard_s: float
    """By the monotonic clock."""


@dataclass(frozen=True)
class JobView:
    """A job in the status."""

    name: str
    weight: float
    attached_s: float
    heard_s: float
    """How long ago."""


@dataclass(frozen=True)
class HostView:
    """A host in the status; `status` is None where it did not answer in time."""

    name: str
    node: str
    pid: int
    status: HostStatus | None


@dataclass(frozen=True)
class PoolStatus:
    """How a pool is doing."""

    name: str
    state: Literal["starting", "up", "draining", "asleep", "failed"]
    up_s: float
    teachers: int
    hosts: tuple[HostView, ...]
    jobs: tuple[JobView, ...]
    deaths: int
    respawns: int
    events: tuple[dict[str, Any], ...]
    """The latest, oldest first."""


class PoolManager:
    """Runs in an actor with several threads; `start` of the service makes it."""

    def __init__(self, spec: PoolSpec) -> None:
        self._spec = spec
        self._began_s = time.time()
        self._lock = threading.RLock()
        self._jobs: dict[str, _Job] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=200)
        self._draining = False
        self._idle_since_s = time.monotonic()
        self._starter = HostStarter(
            spec.folders,
            spec.config.hosts,
            spec.load,
            spec.recognizer,
            pool=spec.config.name,
            namespace=NAMESPACE,
        )
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._address: PoolAddress | None = None
        self._keeper: PoolKeeper | None = None
        self._ended = threading.Event()
        self._bring_up()
        threading.Thread(target=self._watch, name="pool-watch", daemon=True).start()

    def ready(self, timeout_s: float) -> PoolAddress | None:
        """Where the pool is; None if hosts are still loading after `timeout_s`.

        Raises:
            PoolStartError: a host could not be started.
        """
        if not self._ready.wait(timeout_s):
            return None
        if self._failure is not None:
            raise self._failure
        assert self._address is not None
        return self._address

    def spec(self) -> PoolSpec:
        """What the pool was started with."""
        return self._spec

    def attach(self, job: str, weight: float) -> Lease:
        """A job comes; hosts that were released are started again.

        Raises:
            PoolDraining: the pool takes no further jobs.
            PoolStartError: hosts could not be started.
        """
        with self._lock:
            if self._draining:
                raise PoolDraining(
                    f"the pool {self._spec.config.name!r} is draining and takes no further jobs; "
                    "start another one, or this one again once it is down"
                )
            number = uuid.uuid4().hex[:12]
            # It cannot give a sign of life before it knows its number.
            timeout_s = self._spec.config.hosts.start_timeout_s
            known = _Job(job, weight, time.time(), time.monotonic() + timeout_s)
            self._jobs[number] = known
            self._note("job_attached", job=job, weight=weight)
            if self._keeper is None and self._ready.is_set():
                self._bring_up()
        try:
            address = self.ready(timeout_s)
        except BaseException:
            self.detach(number)
            raise
        if address is None:
            self.detach(number)
            raise PoolStartError(f"hosts were not ready within {timeout_s:g} s")
        known.heard_s = time.monotonic()
        return Lease(number, self._spec.config.lease_s, address)

    def renew(self, number: str, job: str, weight: float) -> None:
        """A sign of life of a job; one that was given up is attached again."""
        with self._lock:
            known = self._jobs.get(number)
            if known is None:
                self._jobs[number] = _Job(job, weight, time.time(), time.monotonic())
                self._note("job_attached", job=job, weight=weight, again=True)
            else:
                known.heard_s = time.monotonic()

    def detach(self, number: str) -> None:
        """A job goes; nothing happens to one that is unknown."""
        with self._lock:
            job = self._jobs.pop(number, None)
            if job is not None:
                self._leave(job, "job_detached")

    def drain(self) -> int:
        """Take no further jobs; how many are attached."""
        with self._lock:
            self._draining = True
            self._note("draining", jobs=len(self._jobs))
            return len(self._jobs)

    def end(self, *, force: bool) -> list[str]:
        """End the hosts, unless jobs are attached; their names (none: the hosts are gone)."""
        with self._lock:
            names = [job.name for job in self._jobs.values()]
            if names and not force:
                return names
            self._ended.set()
        self._release("down")
        return []

    def status(self) -> PoolStatus:
        """How the pool is doing; hosts have a few seconds to say so."""
        with self._lock:
            keeper, address = self._keeper, self._address
            now = time.monotonic()
            jobs = tuple(
                JobView(
                    job.name, job.weight, time.time() - job.since_s, max(0.0, now - job.heard_s)
                )
                for job in self._jobs.values()
            )
        hosts: list[HostView] = []
        if keeper is not None and address is not None:
            asked = {name: handle.status.remote() for name, handle in keeper.named.items()}
            ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_STATUS_S)
            for name, arrival in keeper.arrivals.items():
                said = asked.get(name)
                status = _status(said) if said in ready else None
                node, pid = ("", 0) if arrival is None else (arrival.node, arrival.pid)
                hosts.append(HostView(name, node, pid, status))
        return PoolStatus(
            name=self._spec.config.name,
            state=self._state(),
            up_s=time.time() - self._began_s,
            teachers=len(self._spec.folders),
            hosts=tuple(hosts),
            jobs=jobs,
            deaths=0 if keeper is None else keeper.counts["deaths"],
            respawns=0 if keeper is None else keeper.counts["respawns"],
            events=tuple(self._events),
        )

    def _state(self) -> Literal["starting", "up", "draining", "asleep", "failed"]:
        if self._failure is not None:
            return "failed"
        if not self._ready.is_set():
            return "starting"
        if self._draining:
            return "draining"
        return "asleep" if self._keeper is None else "up"

    def _bring_up(self) -> None:
        """Find or start the hosts, on a thread of its own."""
        self._ready.clear()
        self._failure = None
        threading.Thread(target=self._start_hosts, name="pool-start", daemon=True).start()

    def _start_hosts(self) -> None:
        handles: dict[str, HostHandle] = {}
        try:
            for name, indices in self._starter.placement.items():
                try:
                    # A manager before this one may have started it.
                    handles[name] = ray.get_actor(name, namespace=NAMESPACE)
                except ValueError:
                    handles[name] = self._starter.start_host(name, indices)
            arrivals = self._starter.await_arrivals(list(handles.values()))
        except Exception as error:
            kill_hosts(list(handles.values()))
            self._failure = error
            self._note("start_failed", reason=str(error))
        else:
            settings = self._spec.config.hosts
            limits = HealthLimits(
                hung_after_s=settings.hung_after_s, max_deaths=settings.max_deaths + 1
            )
            with self._lock:
                self._address = self._starter.address(arrivals)
                self._keeper = PoolKeeper(self._starter, handles, arrivals, limits, self._note)
                self._idle_since_s = time.monotonic()
            self._note("hosts_up", hosts=len(handles))
        self._ready.set()

    def _watch(self) -> None:
        """Give up jobs that fell silent, and hosts that nobody needs."""
        while not self._ended.wait(_LOOK_S):
            now, config = time.monotonic(), self._spec.config
            with self._lock:
                for number, job in list(self._jobs.items()):
                    if now - job.heard_s > config.lease_s:
                        del self._jobs[number]
                        self._leave(job, "job_lost")
                if self._jobs:
                    self._idle_since_s = now
                idle_s = now - self._idle_since_s
                release = (
                    config.idle_release_s is not None
                    and idle_s >= config.idle_release_s
                    and self._keeper is not None
                )
            if release:
                self._release(f"no job for {idle_s:.0f} s")

    def _release(self, reason: str) -> None:
        with self._lock:
            keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.close()
        kill_hosts(keeper.handles)
        self._note("hosts_released", reason=reason)

    def _leave(self, job: _Job, kind: str) -> None:
        self._note(kind, job=job.name)
        self._idle_since_s = time.monotonic()
        still = any(other.name == job.name for other in self._jobs.values())
        if self._keeper is not None and not still:
            for handle in self._keeper.handles:
                handle.forget_job.remote(job.name)

    def _note(self, kind: str, /, **details: Any) -> None:
        logger.info("%s %s", kind, details)
        self._events.append({"time": time.time(), "kind": kind, **details})


def _status(reference: Any) -> HostStatus | None:
    try:
        status: HostStatus = ray.get(reference)
    except (*HOST_GONE, ray.exceptions.RayTaskError) as error:
        logger.info("a host did not tell its status: %s", one_line(error))
        return None
    return status
