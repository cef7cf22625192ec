"""Bringing hosts up: those that run are found, and one that dies while it loads comes again."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import ray

from kd_ray.cluster.pool.address import HostArrival, HostHandle
from kd_ray.cluster.pool.finding import running_hosts
from kd_ray.cluster.pool.hosts import HostStarter, PoolStartError, kill_hosts
from kd_ray.cluster.pool.plan import PoolPlan
from kd_ray.cluster.pool.roster import HOST_GONE, one_line
from kd_ray.core.contracts import TeacherInfo

logger = logging.getLogger(__name__)

_BURIED_S = 30.0
"""Longest time until Ray has buried a host, and another may have its name."""
_LOOK_S = 0.25

OnDead: TypeAlias = Callable[[str, str], None]
"""Hears the name of a host that died, and why."""


def find_or_start(
    starter: HostStarter,
    plan: PoolPlan,
    on_dead: OnDead,
    *,
    hung_after_s: float,
    known: Mapping[int, TeacherInfo] | None = None,
) -> dict[str, tuple[HostHandle, HostArrival]]:
    """All hosts of a plan: those that run, and the others as soon as their teachers are loaded.

    Args:
        starter: starts those that are missing.
        plan: names them.
        on_dead: hears the name of each that died or was ended, and why.
        hung_after_s: patience with those that run.
        known: who the teachers were before, by index.

    Raises:
        PoolStartError: naming the host, its teachers and the reason. What was started is ended;
            those that were found go on: they answer jobs, whatever became of the others.
    """
    found = running_hosts(plan, hung_after_s, on_dead)
    started: dict[str, HostHandle] = {}
    try:
        for name in plan.hosts:
            if name not in found:
                started[name] = start_when_free(starter, plan, name, known=known)
        # Should a host that was found die from here on, its keeper starts it again.
        came = await_arrivals(starter, plan, started, on_dead, known=known)
    except BaseException:
        kill_hosts(list(started.values()))
        raise
    return {name: found.get(name) or (started[name], came[name]) for name in plan.hosts}


def start_when_free(
    starter: HostStarter,
    plan: PoolPlan,
    name: str,
    *,
    known: Mapping[int, TeacherInfo] | None = None,
) -> HostHandle:
    """Start a host; of its name there may be one that was ended and is not buried yet."""
    limit_s = time.monotonic() + _BURIED_S
    while True:
        try:
            return starter.start_host(plan, name, known=known)
        except ValueError:
            if time.monotonic() >= limit_s:
                raise
            time.sleep(_LOOK_S)


def await_arrivals(
    starter: HostStarter,
    plan: PoolPlan,
    handles: dict[str, HostHandle],
    on_dead: OnDead,
    *,
    known: Mapping[int, TeacherInfo] | None = None,
) -> dict[str, HostArrival]:
    """Wait until hosts' teachers are loaded.

    A host whose process dies meanwhile (killed, or its node lost) is started again, as often as
    later on; one that says itself why it cannot load a teacher is not.

    Args:
        starter: started them.
        plan: says which teachers they load.
        handles: of the hosts by name; the handle of one that is started again takes its place.
        on_dead: hears the name of each that died, and why.
        known: who the teachers were before, by index.

    Raises:
        PoolStartError: naming the host, its teachers and the reason.
    """
    deaths: Counter[str] = Counter()
    arrivals: dict[str, HostArrival] = {}
    limit_s = time.monotonic() + starter.start_timeout_s
    waiting: dict[Any, str] = {handle.arrive.remote(): name for name, handle in handles.items()}
    while waiting:
        left_s = max(0.0, limit_s - time.monotonic())
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=left_s)
        if not ready:
            raise starter.too_late(plan, next(iter(waiting.values())))
        reference = ready[0]
        name = waiting.pop(reference)
        try:
            arrivals[name] = ray.get(reference)
        except (*HOST_GONE, ray.exceptions.RayTaskError) as error:
            deaths[name] += 1
            if _spoke(error) or deaths[name] > starter.max_deaths:
                raise PoolStartError(_failure(plan, name, deaths[name], error)) from error
            reason = f"{name} died while it loaded its teachers: {one_line(error)}"
            logger.warning("%s; it is started again", reason)
            on_dead(name, reason)
            kill_hosts([handles[name]])
            handles[name] = start_when_free(starter, plan, name, known=known)
            waiting[handles[name].arrive.remote()] = name
            limit_s = time.monotonic() + starter.start_timeout_s
    return {name: arrivals[name] for name in handles}


def _spoke(error: Exception) -> bool:
    """Whether the host itself raised it: it would raise the same again."""
    if isinstance(error, ray.exceptions.RayActorError):
        return bool(error.actor_init_failed)
    return isinstance(error, ray.exceptions.RayTaskError)


def _failure(plan: PoolPlan, name: str, deaths: int, error: Exception) -> str:
    folders = ", ".join(map(str, plan.folders(name).values()))
    again = f" after {deaths} attempts" if deaths > 1 else ""
    return f"{name} could not load its teachers ({folders}){again}: {error}"
