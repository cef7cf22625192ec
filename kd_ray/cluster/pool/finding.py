"""How a manager finds what one before it left: hosts by their names, and what they keep.

Ray starts a manager that died again with the arguments of its first start. What changed since lies
on the hosts, and in Ray's own table of keys for times when there are none: no disk or database is
needed that all nodes see.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from kd_ray.cluster.pool.address import NAMESPACE, HostArrival, HostHandle, hosts_prefix
from kd_ray.cluster.pool.hosts import kill_hosts
from kd_ray.cluster.pool.plan import PoolPlan, PoolSpec
from kd_ray.cluster.pool.roster import one_line
from kd_ray.cluster.runtime import named_actors
from kd_ray.core.contracts import TeacherInfo

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
    revision: int = 0
    """Counts what was kept: settings may change, and a pool drain, while the plan stays."""
    known: Mapping[int, TeacherInfo] = field(default_factory=dict)
    """Who teachers are, by index: a checkpoint may be broken when its host is started again."""


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
    # A host that was down has not heard of the latest.
    return max(known, key=lambda kept: (kept.plan.version, kept.revision), default=None)


def _key(pool: str) -> bytes:
    return f"pool/{pool}".encode()


def _kept_by_hosts(pool: str) -> list[Kept]:
    """What running hosts of a pool keep for their manager."""
    told = map(_kept_by, hosts_of(pool))
    return [kept for kept in told if kept is not None]


def _kept_by(name: str) -> Kept | None:
    """What a host keeps; None: it does not say, or was never told anything."""
    try:
        handle: HostHandle = ray.get_actor(name, namespace=NAMESPACE)
        kept: Kept | None = ray.get(handle.kept.remote(), timeout=_ANSWER_S)
    except (ValueError, ray.exceptions.RayError) as error:
        logger.warning("host %s does not tell what it knows: %s", name, one_line(error))
        return None
    return kept


def hosts_of(pool: str) -> list[str]:
    """Names of the hosts of a pool that are there."""
    prefix = hosts_prefix(pool)
    return [name for name in named_actors(NAMESPACE) if name.startswith(prefix)]


def end_hosts_beside(
    plan: PoolPlan,
    pool: str,
    until_nobody_asks: Callable[[PoolPlan], None],
    on_dead: Callable[[str, str], None],
) -> None:
    """End hosts that are not in the plan: a manager died in the middle of a change.

    Those that it had not told clients of are ended at once, the others on a thread, after
    `until_nobody_asks` has returned. `on_dead` hears of all of them at once.
    """
    others = [name for name in hosts_of(pool) if name not in plan.hosts]
    # Hosts are told what to keep once their pool is published with them.
    published = [name for name in others if _kept_by(name) is not None]
    end_hosts(name for name in others if name not in published)

    def end_later() -> None:
        until_nobody_asks(plan)
        end_hosts(published)

    if published:
        threading.Thread(target=end_later, name="pool-old", daemon=True).start()
    for name in others:
        on_dead(name, f"{name}: of a change that was not brought to its end")


def end_hosts(names: Iterable[str]) -> None:
    """End hosts by their names; those that are gone already are no matter."""
    for name in names:
        with contextlib.suppress(ValueError):
            kill_hosts([ray.get_actor(name, namespace=NAMESPACE)])


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
