"""What a pool's status shows: its hosts, nodes, jobs and latest events."""

import logging
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import ray

from kd_ray.cluster.pool.address import HostHandle
from kd_ray.cluster.pool.jobs import JobView
from kd_ray.cluster.pool.keeper import PoolKeeper, Restart
from kd_ray.cluster.pool.nodes import NodeView, Seat
from kd_ray.cluster.pool.roster import HOST_GONE, one_line
from kd_ray.teachers.host import HostStatus

logger = logging.getLogger(__name__)

_STATUS_S = 3.0

PoolState: TypeAlias = Literal["starting", "up", "draining", "asleep", "failed"]


@dataclass(frozen=True)
class HostView:
    """A host in the status; `status` is None where it did not answer in time."""

    name: str
    node: str
    pid: int
    seat: Seat | None
    """None where it is down or has not arrived."""
    status: HostStatus | None
    restart: Restart | None
    """The latest."""


@dataclass(frozen=True)
class PoolStatus:
    """How a pool is doing."""

    name: str
    state: PoolState
    up_s: float
    protocol: int
    package: str
    teachers: int
    nodes: tuple[NodeView, ...]
    """Where its hosts are."""
    hosts: tuple[HostView, ...]
    jobs: tuple[JobView, ...]
    deaths: int
    respawns: int
    events: tuple[dict[str, Any], ...]
    """The latest, oldest first."""
    version: int = 0
    """Goes up with every change of hosts or teachers."""


def ask_host(name: str, namespace: str) -> HostStatus:
    """One host, by the name of its actor; waits for its answer."""
    handle: HostHandle = ray.get_actor(name, namespace=namespace)
    status: HostStatus = ray.get(handle.status.remote())
    return status


def host_views(keeper: PoolKeeper) -> tuple[HostView, ...]:
    """All hosts of a pool; they have a few seconds to say how they are."""
    statuses = ask_statuses(keeper)
    views = []
    for name, arrival in keeper.arrivals.items():
        node, pid = ("", 0) if arrival is None else (arrival.node, arrival.pid)
        seat = None if arrival is None else arrival.seat
        restart = keeper.restarts.get(name)
        views.append(HostView(name, node, pid, seat, statuses.get(name), restart))
    return tuple(views)


def ask_statuses(keeper: PoolKeeper) -> dict[str, HostStatus]:
    """Of hosts that answer within a few seconds."""
    asked = {name: handle.status.remote() for name, handle in keeper.named.items()}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_STATUS_S)
    said = {name: _status(each) for name, each in asked.items() if each in ready}
    return {name: status for name, status in said.items() if status is not None}


def _status(reference: Any) -> HostStatus | None:
    try:
        status: HostStatus = ray.get(reference)
    except (*HOST_GONE, ray.exceptions.RayTaskError) as error:
        logger.info("a host did not tell its status: %s", one_line(error))
        return None
    return status
