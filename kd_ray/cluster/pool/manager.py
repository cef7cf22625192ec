"""The manager of a named pool: an actor that brings hosts up, keeps them up, and knows the jobs.

Jobs talk to hosts directly; only attaching, the signs of life that keep a job attached, and news of
changes come here, so that a pool goes on answering while its manager is away. Ray starts a manager
that died again; it finds its hosts by their names, and on them what it must know.
"""

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from kd_ray import __version__
from kd_ray.cluster.metrics import PoolFigures
from kd_ray.cluster.pool.address import (
    NAMESPACE,
    PoolAddress,
    hosts_prefix,
)
from kd_ray.cluster.pool.changes import (
    Handover,
    PoolChangeError,
    PoolChanges,
    address_of,
    is_incomplete,
)
from kd_ray.cluster.pool.finding import Kept, end_hosts_beside, keep, newest_kept
from kd_ray.cluster.pool.hosts import HostStarter, kill_hosts
from kd_ray.cluster.pool.jobs import Job, JobBook, Lease
from kd_ray.cluster.pool.keeper import PoolKeeper
from kd_ray.cluster.pool.nodes import node_views
from kd_ray.cluster.pool.plan import PoolPlan, PoolSpec, first_plan, weight_bytes
from kd_ray.cluster.pool.scaler import PoolScaler, healed
from kd_ray.cluster.pool.starting import find_or_start
from kd_ray.cluster.pool.status import PoolState, PoolStatus, ask_statuses, host_views
from kd_ray.cluster.pool.update import Update, updated_plan
from kd_ray.core.contracts import PROTOCOL_VERSION, TeacherInfo
from kd_ray.teachers.policies.health import HealthLimits

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_REST_S = 30.0
"""From a change that failed to the next one that nobody asked for."""


class PoolDraining(RuntimeError):
    """The pool takes no further jobs."""


class PoolManager:
    """Runs in an actor with several threads; `up` of the service makes it.

    Args:
        spec: what the pool shall be, at first.
        detached: hosts outlive this actor; else they end with it.
    """

    def __init__(self, spec: PoolSpec, *, detached: bool = True) -> None:
        self._spec = spec
        self._detached = detached
        self._began_s = time.time()
        self._lock = threading.RLock()
        self._jobs = JobBook()
        self._events: deque[dict[str, Any]] = deque(maxlen=200)
        self._draining = False
        self._idle_since_s = time.monotonic()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._plan: PoolPlan | None = None
        self._address: PoolAddress | None = None
        self._keeper: PoolKeeper | None = None
        # One change after another; nothing else waits for it.
        self._changing = threading.Lock()
        self._scaler: PoolScaler | None = None
        self._rest_until_s = 0.0
        self._patience_s = 0.0
        # What is kept for a manager after this one, beside its plan.
        self._revision = 0
        self._known: Mapping[int, TeacherInfo] = {}
        self._ended = threading.Event()
        self._bring_up()
        threading.Thread(target=self._watch, name="pool-watch", daemon=True).start()
        threading.Thread(target=self._size, name="pool-size", daemon=True).start()

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
        """What the pool was started with, or changed to since."""
        return self._spec

    def attach(self, job: str, weight: float) -> Lease:
        """A job comes; hosts that were released are started again.

        Raises:
            PoolDraining: the pool takes no further jobs.
            PoolStartError: hosts could not be started.
        """
        with self._lock:
            self._refuse_if_draining()
            # It cannot give a sign of life before it knows its number.
            number = self._jobs.enter(job, weight, self._spec.config.lease_s)
            self._note("job_attached", job=job, weight=weight)
            self._wake()
        try:
            # The start has limits of its own, and is longer where hosts die and come again.
            while (address := self.ready(self._spec.config.lease_s / 3)) is None:
                self._jobs.renew(number, job, weight)
            # A manager that was started again may have learned it only now.
            self._refuse_if_draining()
        except BaseException:
            self.detach(number)
            raise
        self._jobs.renew(number, job, weight)
        return Lease(number, self._spec.config.lease_s, address)

    def _wake(self) -> None:
        """Start hosts that were released."""
        if self._keeper is None and self._ready.is_set() and not self._ended.is_set():
            self._bring_up()

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise PoolDraining(
                f"the pool {self._spec.config.name!r} is draining and takes no further jobs; "
                "start another one, or this one again once it is down"
            )

    def renew(self, number: str, job: str, weight: float) -> None:
        """A sign of life of a job; one that was given up is attached again."""
        if not self._jobs.renew(number, job, weight):
            self._note("job_attached", job=job, weight=weight, again=True)
            with self._lock:
                # Hosts may have been released meanwhile.
                if not self._draining:
                    self._wake()

    def detach(self, number: str) -> None:
        """A job goes; nothing happens to one that is unknown."""
        job = self._jobs.leave(number)
        if job is not None:
            self._leave(job, "job_detached")

    def follow(self, client: str, version: int) -> PoolAddress | None:
        """A client says by which version it acts; the address, if there is a newer one."""
        self._jobs.knows(client, version)
        address = self._address
        return address if address is not None and address.version > version else None

    def unfollow(self, client: str) -> None:
        """A client is closed."""
        self._jobs.unfollow(client)

    def change(self, spec: PoolSpec, *, fresh_hosts: bool) -> Update:
        """Have the teachers (and, with `fresh_hosts`, the hosts) of another configuration.

        New ones answer beside the old until every client knows of them; then the old ones go.

        Raises:
            PoolChangeError: hosts are to be changed without `fresh_hosts`, the pool is not up, or
                something could not be started. Nothing has changed then.
        """
        with self._changing:
            # Ray repeats the call where a manager died in the middle; the next one has to start.
            while not self._ready.wait(_LOOK_S) and not self._ended.is_set():
                pass
            keeper, plan = self._keeper, self._plan
            if keeper is None or plan is None:
                raise PoolChangeError(
                    f"the pool {spec.config.name!r} has no hosts at the moment "
                    f"({self._state()}); end it and start it anew with the changed file"
                )
            update, after = updated_plan(self._spec, spec, plan, fresh_hosts=fresh_hosts)
            if after.version > plan.version:
                self._carry_out(keeper, after, spec)
                self._note("changed", **dataclasses.asdict(update))
            else:
                # Of settings that hosts know nothing of.
                self._spec, self._scaler = spec, None
                self._leave_word()
            return update

    def drain(self) -> int:
        """Take no further jobs; how many are attached."""
        with self._lock:
            self._draining = True
            attached = len(self._jobs.names)
            self._note("draining", jobs=attached)
        self._leave_word()
        return attached

    def end(self, *, force: bool) -> list[str]:
        """End the hosts, unless jobs are attached; their names (none: the hosts are gone)."""
        with self._lock:
            names = self._jobs.names
            if names and not force:
                return names
            self._ended.set()
        self._release("down")
        return []

    def status(self) -> PoolStatus:
        """How the pool is doing; hosts have a few seconds to say so."""
        with self._lock:
            keeper, plan = self._keeper, self._plan
        hosts = () if keeper is None else host_views(keeper)
        return PoolStatus(
            name=self._spec.config.name,
            state=self._state(),
            up_s=time.time() - self._began_s,
            protocol=PROTOCOL_VERSION,
            package=__version__,
            teachers=len(self._spec.folders) if plan is None else len(plan.teachers),
            nodes=node_views([(host.node, host.seat) for host in hosts if host.seat is not None]),
            hosts=hosts,
            jobs=self._jobs.views,
            deaths=0 if keeper is None else keeper.counts["deaths"],
            respawns=0 if keeper is None else keeper.counts["respawns"],
            events=tuple(self._events),
            version=0 if plan is None else plan.version,
        )

    def _state(self) -> PoolState:
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
        try:
            plan = self._plan or self._known_plan()
            config, starter = self._spec.config, self._starter()
            starter.warn_if_too_large(plan)
            if self._detached:
                end_hosts_beside(plan, config.name, self._until_nobody_asks, self._note_death)
            hosts = find_or_start(
                starter, plan, self._note_death,
                hung_after_s=config.hosts.hung_after_s, known=self._known,
            )  # fmt: skip
        except Exception as error:
            self._failure = error
            self._rest_until_s = time.monotonic() + _REST_S
            self._note("start_failed", reason=str(error))
        else:
            limits = HealthLimits(
                hung_after_s=config.hosts.hung_after_s, max_deaths=config.hosts.max_deaths + 1
            )
            handles = {name: handle for name, (handle, _) in hosts.items()}
            arrivals = {name: arrival for name, (_, arrival) in hosts.items()}
            with self._lock:
                self._plan = plan
                self._address = starter.address(plan, arrivals)
                self._keeper = PoolKeeper(starter, plan, handles, arrivals, limits, self._note)
                self._idle_since_s = time.monotonic() + self._patience_s
                self._patience_s = 0.0
            self._leave_word()
            self._note("hosts_up", hosts=len(handles))
        self._ready.set()

    def _until_nobody_asks(self, plan: PoolPlan) -> None:
        """Wait until clients act by a plan; those of a manager before this one say so in time."""
        config = self._spec.config
        self._ended.wait(config.lease_s)
        self._jobs.await_followers(plan.version, config.handover_s, config.lease_s)

    def _starter(self) -> HostStarter:
        return HostStarter(
            self._spec.config.hosts,
            self._spec.load,
            self._spec.recognizer,
            namespace=NAMESPACE,
            detached=self._detached,
        )

    def _known_plan(self) -> PoolPlan:
        """The plan of before this manager, if one died; else that of a new pool.

        That plan may be of a specification later than this process was made with.
        """
        config = self._spec.config
        newest = newest_kept(config.name) if self._detached else None
        if newest is None:
            sizes = list(map(weight_bytes, self._spec.folders))
            return first_plan(hosts_prefix(config.name), self._spec.folders, config.hosts, sizes)
        self._spec, self._revision, self._known = newest.spec, newest.revision, newest.known
        # Its jobs say that they are there once in a while.
        self._patience_s = self._spec.config.lease_s
        # It may have been told so while it was looking.
        self._draining = self._draining or newest.draining
        return newest.plan

    def _carry_out(self, keeper: PoolKeeper, after: PoolPlan, spec: PoolSpec) -> None:
        if spec.config != self._spec.config:
            self._scaler = None
        before, self._spec = self._spec, spec
        starter = self._starter()

        def publish(plan: PoolPlan) -> None:
            address = address_of(starter, plan, keeper)
            with self._lock:
                self._plan, self._address = plan, address
            self._leave_word()

        config = spec.config
        handover = Handover(
            await_clients=lambda version: self._jobs.await_followers(
                version, config.handover_s, config.lease_s
            ),
            finish_s=config.handover_s,
        )
        try:
            keeper.start_by(starter)
            changes = PoolChanges(starter, keeper, handover, publish, self._note_death)
            changes.carry_out(after)
        except BaseException:
            self._spec = before
            keeper.start_by(self._starter())
            raise

    def _leave_word(self) -> None:
        """Hosts, and Ray, keep what a manager must know that is started again."""
        keeper, plan = self._keeper, self._plan
        if plan is None:
            return
        with self._lock:
            self._revision += 1
            if keeper is not None:
                self._known = keeper.known
            kept = Kept(self._spec, plan, self._draining, self._revision, self._known)
        if self._detached:
            keep(self._spec.config.name, kept)
        for handle in [] if keeper is None else keeper.handles:
            handle.keep.remote(kept)

    def _look_at_size(self) -> None:
        """Let the pool grow or shrink, and complete hosts that came back incomplete."""
        keeper, plan, scaling = self._keeper, self._plan, self._spec.config.scaling
        if keeper is None or plan is None or self._draining:
            return
        if time.monotonic() < self._rest_until_s:
            return
        if not self._changing.acquire(blocking=False):
            return
        try:
            if is_incomplete(plan, keeper):
                after = healed(plan, self._spec.config.hosts)
                self._carry_out(keeper, after, self._spec)
                self._note("hosts_completed", version=after.version)
            if scaling is None:
                return
            if self._scaler is None:
                self._scaler = PoolScaler(self._spec.config, scaling)
            self._scaler.look(ask_statuses(keeper), len(self._jobs.names))
            wish = self._scaler.judge(self._plan or plan, keeper.given_up)
            if wish is not None:
                try:
                    self._carry_out(keeper, wish.plan, self._spec)
                    kind = "resized" if wish.resized else "copies_changed"
                    self._note(kind, hosts=len(wish.plan.hosts), reason=wish.reason)
                finally:
                    self._scaler.changed()
        except PoolChangeError as error:
            self._note("change_failed", reason=str(error))
            # What failed now will hardly succeed a second later.
            self._rest_until_s = time.monotonic() + _REST_S
        finally:
            self._changing.release()

    def _size(self) -> None:
        """On a thread of its own: changes take as long as hosts need to start."""
        while not self._ended.wait(_LOOK_S):
            try:
                self._look_at_size()
            except Exception:
                logger.exception("looking at the size of the pool failed; going on")

    def _watch(self) -> None:
        """Give up jobs that fell silent, and hosts that nobody needs."""
        figures = PoolFigures(self._spec.config.name)
        while not self._ended.wait(_LOOK_S):
            try:
                self._tell(figures)
                self._look_at_jobs()
                self._try_again()
            except Exception:
                logger.exception("looking after the pool's jobs failed; going on")

    def _look_at_jobs(self) -> None:
        config = self._spec.config
        for job in self._jobs.silent(config.lease_s):
            self._leave(job, "job_lost")
        # Hosts that a change starts would not be let go with the others.
        if self._changing.acquire(blocking=False):
            try:
                self._release_if_idle(config.idle_release_s)
            finally:
                self._changing.release()

    def _release_if_idle(self, idle_release_s: float | None) -> None:
        with self._lock:
            now = time.monotonic()
            if self._jobs.names:
                self._idle_since_s = now
            idle_s = now - self._idle_since_s
            if idle_release_s is not None and idle_s >= idle_release_s:
                self._release(f"no job for {idle_s:.0f} s")

    def _try_again(self) -> None:
        """Hosts that could not be started are tried again while jobs wait for them."""
        with self._lock:
            if self._failure is None or not self._jobs.names or self._draining:
                return
            if self._ready.is_set() and time.monotonic() >= self._rest_until_s:
                self._bring_up()

    def _tell(self, figures: PoolFigures) -> None:
        """How many there are of what, for Prometheus."""
        keeper, plan = self._keeper, self._plan
        arrivals = [] if keeper is None else list(keeper.arrivals.values())
        figures.tell(
            up=sum(each is not None for each in arrivals),
            down=sum(each is None for each in arrivals),
            teachers=0 if plan is None else len(plan.teachers),
            jobs=len(self._jobs.names),
            deaths=0 if keeper is None else keeper.counts["deaths"],
            respawns=0 if keeper is None else keeper.counts["respawns"],
        )

    def _release(self, reason: str) -> None:
        # Under the lock until they are gone: a job that comes now would find them dying.
        with self._lock:
            keeper, self._keeper = self._keeper, None
            if keeper is None:
                return
            keeper.close()
            self._known = keeper.known
            kill_hosts(keeper.handles)
        self._note("hosts_released", reason=reason)

    def _leave(self, job: Job, kind: str) -> None:
        self._note(kind, job=job.name)
        self._idle_since_s = time.monotonic()
        if self._keeper is not None and job.name not in self._jobs.names:
            for handle in self._keeper.handles:
                handle.forget_job.remote(job.name)

    def _note_death(self, host: str, reason: str) -> None:
        self._note("host_died", host=host, reason=reason)

    def _note(self, kind: str, /, **details: Any) -> None:
        logger.info("%s %s", kind, details)
        self._events.append({"time": time.time(), "kind": kind, **details})
