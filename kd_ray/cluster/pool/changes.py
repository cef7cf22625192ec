"""Carrying a new plan out while jobs run: first what comes; what goes, once every client knows."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from kd_ray.cluster.pool.address import HostAddress, HostArrival, HostHandle, PoolAddress
from kd_ray.cluster.pool.hosts import HostStarter, PoolStartError, kill_hosts
from kd_ray.cluster.pool.keeper import PoolKeeper
from kd_ray.cluster.pool.plan import PoolPlan
from kd_ray.cluster.pool.roster import HOST_GONE, one_line
from kd_ray.cluster.pool.starting import OnDead, await_arrivals, start_when_free
from kd_ray.core.contracts import TeacherInfo

logger = logging.getLogger(__name__)

_LOOK_S = 0.2
_ANSWER_S = 30.0


class PoolChangeError(RuntimeError):
    """A change of a running pool was not made; the pool is as it was before."""


@dataclass(frozen=True)
class Handover:
    """How long the old stays beside the new."""

    await_clients: Callable[[int], list[str]]
    """Waits until clients act by a version of the plan; those that do not in time."""
    finish_s: float
    """Longest wait for a host that leaves to answer what it was asked."""


class PoolChanges:
    """Carries plans out, one after another.

    Args:
        starter: starts hosts.
        keeper: looks after those that run.
        handover: when the old may go.
        publish: makes a plan known to clients.
        on_dead: hears of hosts that die while they load their teachers.
    """

    def __init__(
        self,
        starter: HostStarter,
        keeper: PoolKeeper,
        handover: Handover,
        publish: Callable[[PoolPlan], None],
        on_dead: OnDead,
    ) -> None:
        self._starter = starter
        self._keeper = keeper
        self._handover = handover
        self._publish = publish
        self._on_dead = on_dead

    def carry_out(self, after: PoolPlan) -> None:
        """Make the running hosts what a plan says.

        Hosts that are down meanwhile follow the plan when they are started again.

        Raises:
            PoolChangeError: a host or a teacher could not be started, or one does not fit into
                the place that it is to take. Nothing has changed then.
        """
        came: dict[str, HostHandle] = {}
        added: dict[str, list[int]] = {}
        try:
            for name in after.hosts:
                if name not in self._keeper.arrivals:
                    came[name] = start_when_free(self._starter, after, name)
            grown = self._add_teachers(after, added)
            arrivals = await_arrivals(self._starter, after, came, self._on_dead)
            _check_places(after, self._keeper.known, [*grown.values(), *arrivals.values()])
        except (PoolStartError, PoolChangeError, ValueError) as error:
            self._undo(came, added)
            raise PoolChangeError(f"the pool was not changed: {error}") from error
        except BaseException:
            self._undo(came, added)
            raise
        self._keeper.follow(after)
        for name, arrival in grown.items():
            self._keeper.arrived(name, arrival)
        for name, handle in came.items():
            self._keeper.take(name, handle, arrivals[name])
        self._publish(after)
        late = self._handover.await_clients(after.version)
        if late:
            logger.warning(
                "%d clients did not follow in time; the old goes all the same", len(late)
            )
        self._drop(after)

    def _add_teachers(self, after: PoolPlan, added: dict[str, list[int]]) -> dict[str, HostArrival]:
        """Load what is missing on hosts that run; `added` is filled as they are asked."""
        asked: dict[str, Any] = {}
        named = self._keeper.named
        for name, arrival in self._keeper.arrivals.items():
            if arrival is None or name not in after.hosts or name not in named:
                continue
            folders = after.folders(name)
            missing = {i: folder for i, folder in folders.items() if i not in arrival.teachers}
            if missing:
                added[name] = list(missing)
                asked[name] = named[name].add.remote(missing)
        grown = {}
        for name, reference in asked.items():
            try:
                grown[name] = ray.get(reference, timeout=self._starter.start_timeout_s)
            except HOST_GONE as error:
                # It is started again, by the new plan.
                logger.warning("host %s was lost while it changed: %s", name, one_line(error))
            except (ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError) as error:
                cause = getattr(error, "cause", None) or error
                said = ", ".join(after.teachers[index] for index in added[name])
                raise PoolChangeError(f"{name} could not load {said}: {cause}") from error
        return grown

    def _undo(self, came: Mapping[str, HostHandle], added: Mapping[str, list[int]]) -> None:
        kill_hosts(list(came.values()))
        named = self._keeper.named
        for name, indices in added.items():
            if name in named:
                named[name].remove.remote(indices)

    def _drop(self, after: PoolPlan) -> None:
        """Teachers leave their hosts, and hosts the pool once they have answered."""
        named = self._keeper.named
        asked = {}
        for name, arrival in self._keeper.arrivals.items():
            if name in after.hosts and arrival is not None and name in named:
                surplus = sorted(set(arrival.teachers) - set(after.hosts[name]))
                if surplus:
                    asked[name] = named[name].remove.remote(surplus)
        for name, reference in asked.items():
            try:
                self._keeper.arrived(name, ray.get(reference, timeout=_ANSWER_S))
            except (*HOST_GONE, ray.exceptions.GetTimeoutError) as error:
                logger.warning("host %s was lost while it changed: %s", name, one_line(error))
        leaving = [name for name in self._keeper.arrivals if name not in after.hosts]
        limit_s = time.monotonic() + self._handover.finish_s
        for name in leaving:
            handle = self._keeper.let_go(name)
            if handle is None:
                continue
            while time.monotonic() < limit_s and _is_busy(handle):
                time.sleep(_LOOK_S)
            kill_hosts([handle])


def _is_busy(handle: HostHandle) -> bool:
    try:
        return bool(ray.get(handle.status.remote(), timeout=_ANSWER_S).open_requests)
    except (*HOST_GONE, ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError):
        return False


def _check_places(
    after: PoolPlan, before: dict[int, TeacherInfo], arrivals: list[HostArrival]
) -> None:
    """Who takes another's place must mean the same by its numbers; all teachers are known."""
    come = {info.index: info for arrival in arrivals for info in arrival.infos}
    lost = [str(folder) for index, folder in after.teachers.items() if index not in before | come]
    if lost:
        raise PoolChangeError(
            f"the host that was to load {', '.join(lost)} was lost meanwhile; it is started again, "
            "so the same change may succeed in a moment"
        )
    for old, new in after.replaced.items():
        if old not in before or new not in come:
            continue
        differs = [
            f"{name} ({getattr(before[old], name)} before, {getattr(come[new], name)} now)"
            for name in ("tokens_digest", "vocabulary_size", "blank", "bos", "eos", "reads",
                         "has_ctc")
            if getattr(before[old], name) != getattr(come[new], name)
        ]  # fmt: skip
        if differs:
            raise PoolChangeError(
                f"{after.teachers[new]} cannot take the place of {before[old].folder}: they differ "
                f"in {', '.join(differs)}. Give it another name, so that it is a teacher of its own"
            )


def address_of(starter: HostStarter, plan: PoolPlan, keeper: PoolKeeper) -> PoolAddress:
    """Where clients find the pool; hosts that are down are in it, for they come back."""
    arrivals = keeper.arrivals
    there = {name: arrivals[name] for name in plan.hosts}
    # Those that are to leave still answer, but are not asked any more.
    up = {
        name: dataclasses.replace(
            arrival, teachers=tuple(i for i in arrival.teachers if i in plan.hosts[name])
        )
        for name, arrival in there.items()
        if arrival is not None
    }
    address = starter.address(plan, up, known=keeper.known, recognizer=keeper.recognizer)
    down = [HostAddress(n, plan.hosts[n], 0, "") for n, arrival in there.items() if not arrival]
    return dataclasses.replace(address, hosts=(*address.hosts, *down))


def is_incomplete(plan: PoolPlan, keeper: PoolKeeper) -> bool:
    """Whether a host that is up has other teachers than the plan says."""
    return any(
        arrival is not None and set(arrival.teachers) != set(plan.hosts.get(name, ()))
        for name, arrival in keeper.arrivals.items()
    )
