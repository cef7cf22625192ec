"""Named pools, from outside: starting, attaching, looking, ending."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from kd_ray.cluster.pool.address import NAMESPACE, PoolAddress, manager_name, pool_of
from kd_ray.cluster.pool.finding import end_hosts, forget, hosts_of
from kd_ray.cluster.pool.hosts import PoolStartError
from kd_ray.cluster.pool.jobs import Lease
from kd_ray.cluster.pool.manager import PoolManager
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.cluster.pool.roster import HOST_GONE, one_line
from kd_ray.cluster.pool.status import PoolStatus
from kd_ray.cluster.pool.update import Update
from kd_ray.cluster.pool.views import PoolError, view_of
from kd_ray.cluster.runtime import RayHandle, ensure_ray, named_actors
from kd_ray.config.sources import PoolSource as PoolSettings

logger = logging.getLogger(__name__)

_ANSWER_S = 30.0
_LOOK_S = 0.5
_BURIED_S = 60.0
"""Longest time for a pool to end whose process was killed."""
_mine: dict[str, Any] = {}
"""Managers of pools that end with this process: Ray ends an actor that nobody refers to."""


def join_cluster() -> RayHandle:
    """Be connected to a running cluster.

    Raises:
        PoolError: none is named; a pool in a private one would end with this command.
    """
    if not ray.is_initialized() and os.environ.get("RAY_ADDRESS", "local") in ("", "local"):
        raise PoolError(
            "a pool runs on a Ray cluster, and none is named: start one with `ray start --head`, "
            "set RAY_ADDRESS to what it prints (auto: the one on this machine), and try again"
        )
    return ensure_ray()


def up(spec: PoolSpec, *, replace: bool = False, detached: bool = True) -> PoolAddress:
    """Start a pool and wait until its teachers are loaded; one that is up as it should be is found.

    Args:
        spec: what it shall be.
        detached: False: it ends with this process, however that ends.
        replace: where one of this name runs, start the new hosts beside its own and let those go
            once every job asks the new ones.

    Raises:
        PoolError: a pool of this name runs with other settings or teachers.
        PoolStartError: a host could not be started; nothing stays behind.
        PoolChangeError: with `replace`, the new hosts could not be started; the old ones go on.
    """
    config = spec.config
    manager = _find(config.name)
    found = manager is not None
    # Of one of this name whose manager is gone for good, by a `down` that was interrupted, say.
    left = [] if found else hosts_of(config.name)
    if not found and not left:
        # What a pool of this name left that ended with its cluster's end, or was killed.
        forget(config.name)
    if manager is None:
        manager = _ManagerActor.options(
            name=manager_name(config.name),
            namespace=NAMESPACE,
            lifetime="detached" if detached else None,
            max_restarts=-1,
            max_task_retries=2,
            max_concurrency=16,
            num_cpus=0,
            scheduling_strategy="DEFAULT",
        ).remote(spec, detached=detached)
        if not detached:
            _mine[config.name] = manager
        logger.info("pool %s: starting %d hosts", config.name, config.hosts.hosts)
    elif replace:
        _ask(manager.change.remote(spec, fresh_hosts=True), None)
    else:
        _refuse_another(manager, spec)
    try:
        address: PoolAddress | None = None
        # The manager is a process that has to start as well.
        patience_s = _ANSWER_S + config.hosts.start_timeout_s
        while address is None:
            address = _ask(manager.ready.remote(_ANSWER_S), patience_s)
    except (PoolStartError, PoolError, *HOST_GONE) as error:
        if found:
            # Jobs may be attached to it.
            raise PoolStartError(
                f"pool {config.name}, which was started before: {error}. It tries again while jobs "
                "are attached; end it with `kd-ray pool down`, and start it anew"
            ) from error
        ray.kill(manager, no_restart=True)
        _mine.pop(config.name, None)
        forget(config.name)
        _end_all_hosts(config.name)
        raise PoolStartError(f"pool {config.name}: {error}") from error
    if left:
        _refuse_another(manager, spec)
    return address


def _refuse_another(manager: Any, spec: PoolSpec) -> None:
    name = spec.config.name
    if _ask(manager.spec.remote()) != spec:
        raise PoolError(
            f"a pool {name!r} runs already, with other settings or teachers. Let it have other "
            "teachers (kd-ray pool update), start new hosts beside its own (kd-ray pool up "
            "--replace), end it (kd-ray pool down), or give this one another name"
        )


def update(spec: PoolSpec) -> Update:
    """Let teachers of a running pool come, go, or take the place of others; jobs go on meanwhile.

    Raises:
        PoolError: there is no such pool.
        PoolChangeError: the pool was not changed, and why.
    """
    manager = _existing(spec.config.name)
    changed: Update = _ask(manager.change.remote(spec, fresh_hosts=False), None)
    return changed


@contextmanager
def brought_up(spec: PoolSpec) -> Iterator[PoolAddress]:
    """A pool for as long as the context lasts; it ends with this process, however that ends.

    Raises:
        PoolError: one of this name runs.
        PoolStartError: a host could not be started.
    """
    name = spec.config.name
    # The one of a process that was killed needs a moment to end.
    if not _await_end(name, _BURIED_S):
        raise PoolError(
            f"a pool {name!r} runs already, so what brings it up seems to be running. Wait for "
            "that or stop it; or give this one another name"
        )
    address = up(spec, detached=False)
    try:
        yield address
    finally:
        try:
            # Jobs that were stopped may not have had the time to take their leave.
            down(name, force=True)
        except (PoolError, ray.exceptions.RayError) as error:
            logger.warning("pool %s: %s; it ends with this process", name, error)


class Attachment:
    """A job's place in a named pool; signs of life keep it, `close` gives it back."""

    def __init__(self, name: str, job: str, weight: float, lease: Lease, view: PoolAddress) -> None:
        self.address = view
        self._name, self._job, self._weight = name, job, weight
        self._lease = lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="pool-lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The job needs the pool no more; a second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        manager = _find(self._name)
        if manager is not None:
            # Waited for: the process may end before a message is out.
            ray.wait([manager.detach.remote(self._lease.number)], timeout=_ANSWER_S)

    def _renew(self) -> None:
        while not self._stop.wait(self._lease.lease_s / 3):
            if not ray.is_initialized():
                # The command is over; looking an actor up would start a new Ray.
                return
            try:
                manager = _find(self._name)
                if manager is not None:
                    manager.renew.remote(self._lease.number, self._job, self._weight)
            except ray.exceptions.RayError as error:
                # The next sign may get through.
                logger.warning("pool %s: no sign of life sent: %s", self._name, one_line(error))


def attach(settings: PoolSettings, *, job: str, digests: Sequence[str] | None = None) -> Attachment:
    """Attach a job to the pool `settings.name`.

    Args:
        settings: section `teachers.source` of the job.
        job: what the pool's accounts call it.
        digests: of the teachers that it asks, in its own order; None: all of the pool.

    Raises:
        PoolError: no such pool; it speaks another protocol, or lacks a teacher.
        PoolDraining: it takes no further jobs.
    """
    assert settings.name is not None, "the section names a pool"
    manager = _find(settings.name)
    if manager is None:
        running = ", ".join(map(repr, names())) or "none"
        raise PoolError(
            f"there is no pool {settings.name!r} on this cluster (running: {running}); start it "
            "with `kd-ray pool up CONFIG`, or leave out teachers.source.name to start hosts for "
            "this job alone"
        )
    lease: Lease = _ask(manager.attach.remote(job, settings.weight), None)
    try:
        view = view_of(lease.address, settings, digests)
    except PoolError:
        manager.detach.remote(lease.number)
        raise
    return Attachment(settings.name, job, settings.weight, lease, view)


def status(name: str) -> PoolStatus:
    """How a pool is doing; `PoolError` if there is none, or it does not say so."""
    try:
        found: PoolStatus = _ask(_existing(name).status.remote())
    except ray.exceptions.RayError as error:
        raise PoolError(f"the pool {name!r} does not say how it is: {one_line(error)}") from error
    return found


def drain(name: str) -> int:
    """Let a pool take no further jobs; how many are attached."""
    attached: int = _ask(_existing(name).drain.remote())
    return attached


def down(name: str, *, force: bool = False) -> None:
    """End a pool.

    Hosts whose manager is gone for good are ended, too.

    Raises:
        PoolError: there is none, or jobs are attached and `force` is not set.
    """
    if _find(name) is None and hosts_of(name):
        forget(name)
        _end_all_hosts(name)
        return
    manager = _existing(name)
    try:
        jobs: list[str] = _ask(manager.end.remote(force=force))
    except HOST_GONE:
        jobs = []
    if jobs:
        raise PoolError(
            f"the pool {name!r} is in use by {', '.join(jobs)}; wait for them, let it take no "
            "further jobs (kd-ray pool drain), or end it all the same (--force)"
        )
    ray.kill(manager, no_restart=True)
    _mine.pop(name, None)
    _await_end(name, _ANSWER_S)
    forget(name)
    _end_all_hosts(name)


def _end_all_hosts(name: str) -> None:
    """End the hosts of a pool whose manager is gone."""
    limit_s = time.monotonic() + _ANSWER_S
    while (hosts := hosts_of(name)) and time.monotonic() < limit_s:
        end_hosts(hosts)
        # One that the manager was starting may appear a moment later.
        time.sleep(_LOOK_S)


def _await_end(name: str, timeout_s: float) -> bool:
    """Wait until there is no pool of this name: one that ended with its process needs a moment."""
    limit_s = time.monotonic() + timeout_s
    while _find(name) is not None:
        if time.monotonic() >= limit_s:
            return False
        time.sleep(_LOOK_S)
    return True


def names() -> list[str]:
    """Pools of this cluster."""
    pools = map(pool_of, named_actors(NAMESPACE))
    return sorted(name for name in pools if name is not None)


def _find(name: str) -> Any:
    try:
        return ray.get_actor(manager_name(name), namespace=NAMESPACE)
    except ValueError:
        return None


def _existing(name: str) -> Any:
    manager = _find(name)
    if manager is None:
        running = ", ".join(map(repr, names())) or "none"
        raise PoolError(f"there is no pool {name!r} on this cluster (running: {running})")
    return manager


def _ask(reference: Any, timeout_s: float | None = _ANSWER_S) -> Any:
    """What the manager says; its own errors come without Ray's around them.

    Raises:
        PoolError: it says nothing within `timeout_s`.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise PoolError(
            f"the pool's manager did not answer within {timeout_s:g} s: its process is starting, "
            "or its node is very busy; ask again"
        ) from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RuntimeError | ValueError):
            raise error.cause from None
        raise


_ManagerActor = ray.remote(PoolManager)
