"""How a manager finds what one before it left: hosts by their names, and what they keep.

Ray starts a manager that died again with the arguments of its first start. What changed since lies
on the hosts, and in Ray's own table of keys for times when there are none: no disk or database is
needed that all nodes see.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from kd_ray.cluster.pool.address import NAMESPACE, HostArrival, HostHandle, hosts_prefix
from kd_ray.cluster.pool.hosts import kill_hosts
from kd_ray.cluster.pool.plan import PoolPlan, PoolSpec
from kd_ray.cluster.pool.roster import one_line
from kd_ray.cluster.runtime import named_actors

logger = logging.getLogger(__name__)

_ANSWER_S = 3.0
_TABLE = b"kd_ray"
"""Namespace of our keys."""


@dataclass(frozen=True)
class Kept:
    """What hosts keep for a manager that is started again."""

    spec: PoolSpec
    plan: PoolPlan
    draining: bool = False


def keep(pool: str, kept: Kept) -> None:
    """Put into Ray's table what a manager of this pool must know that is started again."""
    packed = cloudpickle.dumps(kept)  # type: ignore[no-untyped-call]
    internal_kv._internal_kv_put(_key(pool), packed, namespace=_TABLE)


def forget(pool: str) -> None:
    """A pool has ended."""
    internal_kv._internal_kv_del(_key(pool), namespace=_TABLE)


def newest_kept(pool: str) -> Kept | None:
    """The newest that running hosts of a pool or Ray's table know; None: it is a new pool."""
    known = _kept_by_hosts(pool)
    found = internal_kv._internal_kv_get(_key(pool), namespace=_TABLE)
    if found is not None:
        known.append(cloudpickle.loads(found))
    # A host that was down has not heard of the draining.
    return max(known, key=lambda kept: (kept.plan.version, kept.draining), default=None)


def _key(pool: str) -> bytes:
    return f"pool/{pool}".encode()


def _kept_by_hosts(pool: str) -> list[Kept]:
    """What running hosts of a pool keep for their manager."""
    known: list[Kept] = []
    for name in hosts_of(pool):
        try:
            handle: HostHandle = ray.get_actor(name, namespace=NAMESPACE)
            kept: Kept | None = ray.get(handle.kept.remote(), timeout=_ANSWER_S)
        except (ValueError, ray.exceptions.RayError) as error:
            logger.warning("host %s does not tell what it knows: %s", name, one_line(error))
        else:
            if kept is not None:
                known.append(kept)
    return known


def hosts_of(pool: str) -> list[str]:
    """Names of the hosts of a pool that are there."""
    prefix = hosts_prefix(pool)
    return [name for name in named_actors(NAMESPACE) if name.startswith(prefix)]


def running_hosts(
    plan: PoolPlan, patience_s: float, on_dead: Callable[[str, str], None]
) -> dict[str, tuple[HostHandle, HostArrival]]:
    """Hosts of a plan that run and are well, and what they say; others are ended.

    Args:
        plan: names them.
        patience_s: for all of them to answer.
        on_dead: hears the name of each that is ended, and why.
    """
    handles: dict[str, HostHandle] = {}
    for name in plan.hosts:
        with contextlib.suppress(ValueError):
            handles[name] = ray.get_actor(name, namespace=NAMESPACE)
    asked = {name: handle.arrive.remote() for name, handle in handles.items()}
    limit_s = time.monotonic() + patience_s
    found: dict[str, tuple[HostHandle, HostArrival]] = {}
    for name, reference in asked.items():
        left_s = max(0.0, limit_s - time.monotonic())
        try:
            found[name] = (handles[name], ray.get(reference, timeout=left_s))
        except ray.exceptions.RayError as error:
            kill_hosts([handles[name]])
            on_dead(name, f"{name}: found so by a new manager: {one_line(error)}")
    return found
